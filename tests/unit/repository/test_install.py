"""What the installation says when it cannot go on, and which Python it takes."""

import subprocess
import sys
from pathlib import Path

import pytest

from requirements import install

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "not the one that was pinned"),
        ("WARNING: Retrying (Retry(total=0)) after NewConnectionError\nERROR: No matching distribution", "network"),
        ("ERROR: HTTP error 503\nrequests.HTTPError: 503 Server Error: Service Unavailable", "did not answer"),
        ("WARNING: SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "PIP_CERT"),
        ("The user requested h11==0.16.0\nThe user requested (constraint) h11<0.15", "constraint in pip's settings"),
        ("The virtual environment was not created successfully because ensurepip is not available.", "python3-venv"),
        ("/usr/bin/python3: No module named venv", "apt install python3-venv"),
        ("error: subprocess-exited-with-error\nPreparing metadata did not run: Rust", "no wheel of this package"),
        ("ERROR: Could not find a version that satisfies the requirement x==2 (from versions: 1)", "no file of this"),
        ("ERROR: Could not find a version that satisfies the requirement x==2 (from versions: none)", "a network?"),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied", "cannot be written to"),
        ("anthropic 2.12.0 requires anyio, which is not installed.", "make clean"),
        ("something that nobody has seen", "make clean"),
    ],
)
def test_a_failure_says_which_step_why_and_what_to_do(said: str, advice: str) -> None:
    explained = install.explanation(install.StepFailed("79 packages", said))
    assert "stopped at: 79 packages\n" in explained
    assert said.splitlines()[-1] in explained
    assert advice in explained
    assert explained.endswith("Then give the same command again.")


def test_of_a_long_output_the_end_is_shown() -> None:
    explained = install.explanation(install.StepFailed("a step", "\n".join(f"line {'x' * n}" for n in range(100))))
    assert f"line {'x' * 99}\n" in explained
    assert f"line {'x' * 50}\n" not in explained


def test_what_pip_says_of_each_retry_is_shown_once() -> None:
    said = "".join(f"WARNING: Retrying (total={n}) after <object at 0x{n}f>\n" for n in (4, 3, 2)) + "ERROR: no"
    explained = install.explanation(install.StepFailed("a step", said))
    assert explained.count("Retrying") == 1
    assert "ERROR: no" in explained


def find_python(folder: Path, before: str) -> subprocess.CompletedProcess[str]:
    """With a Python that runs `before` first."""
    fake = folder / "python3"
    fake.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import sys; {before}; exec(sys.argv[2])' \"$@\"\n")
    fake.chmod(0o755)
    command = ["sh", "requirements/python.sh", str(fake)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13), (3, 14)])
def test_a_supported_python_is_taken(tmp_path: Path, version: tuple[int, int]) -> None:
    done = find_python(tmp_path, f"sys.version_info = {version}")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'python3'}\n")


@pytest.mark.parametrize(
    ("before", "lacking"),
    [
        ("sys.version_info = (3, 9)", "is Python 3.9"),
        ("sys.version_info = (3, 15)", "is Python 3.15"),
        ('sys.version_info = (3, 13); sys.modules["ensurepip"] = None', "apt install python3.13-venv"),
        ('sys.version_info = (3, 11); sys.modules["venv"] = None', "apt install python3.11-venv"),
    ],
)
def test_a_python_that_will_not_do_is_named_with_what_it_lacks(tmp_path: Path, before: str, lacking: str) -> None:
    done = find_python(tmp_path, before)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert lacking in line
    assert "3.11, 3.12, 3.13 or 3.14" in done.stderr


def test_a_python_that_is_named_and_not_there_is_named_again() -> None:
    command = ["sh", "requirements/python.sh", "/nowhere/python3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "/nowhere/python3: " in done.stderr


def test_a_newcomer_and_the_image_install_by_the_same_steps() -> None:
    makefile, dockerfile = (ROOT / "Makefile").read_text(), (ROOT / "Dockerfile").read_text()
    assert "pip install" not in makefile
    assert "requirements/install.py --venv $(VENV) $@" in makefile
    assert "requirements/install.py --venv /opt/fleet --compile runtime" in dockerfile
    (ours,) = [line for line in dockerfile.splitlines() if "pip install" in line]
    assert "--no-deps --no-index /dist/*.whl" in ours
    assert "pip check" in dockerfile


def test_pip_leaves_nothing_to_its_resolver() -> None:
    assert "--no-deps" in install.INSTALL
    assert "--no-build-isolation" in install.INSTALL
