"""What a newcomer installs, over package indexes as they may be on any day: newer, wrong, out of reach."""

import base64
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from requirements import install
from tests.locks import Pin, pins

ROOT = Path(__file__).parents[2]
PINS = [pin for pin in pins((ROOT / "requirements/dev.txt").read_text()) if not pin.marker or pin.marker.evaluate()]
ALSO_RELEASED = {"certifi", "openai", "pydantic", "pydantic-core", "urllib3"}
"""Beside what is asked for with an extra."""

pytestmark = pytest.mark.slow


class Index:
    """A folder of wheels without code, which ask for what the real ones ask for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def publish(self, name: str, version: str) -> str:
        """The sha256 of the wheel."""
        about = distribution(name)
        extras = [f"Provides-Extra: {extra}" for extra in about.metadata.get_all("Provides-Extra") or ()]
        needs = [f"Requires-Dist: {requirement}" for requirement in about.requires or ()]
        stem = f"{name.replace('-', '_')}-{version}"
        files = {
            "METADATA": "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *extras, *needs]),
            "WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any",
        }
        wheel = self.folder / f"{stem}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as packed:
            for file, text in files.items():
                packed.writestr(zipfile.ZipInfo(f"{stem}.dist-info/{file}"), text)  # without the time: one hash
            packed.writestr(zipfile.ZipInfo(f"{stem}.dist-info/RECORD"), _record(f"{stem}.dist-info", files))
        return hashlib.sha256(wheel.read_bytes()).hexdigest()


def _record(folder: str, files: dict[str, str]) -> str:
    lines = [f"{folder}/{file},sha256={_digest(text)},{len(text.encode())}" for file, text in files.items()]
    return "\n".join([*lines, f"{folder}/RECORD,,"])


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def locks(folder: Path, pinned: dict[Pin, str]) -> Path:
    """A folder with the locks of the profile `runtime`; hashes are those of the wheels."""
    folder.mkdir()
    entries = {pin.name: f"{pin.name}=={pin.version} \\\n    --hash=sha256:{sha}\n" for pin, sha in pinned.items()}
    (folder / install.TOOLS).write_text(entries.pop("setuptools"))
    (folder / "runtime.txt").write_text("".join(entries.values()))
    return folder


def asked_for_with_an_extra() -> set[str]:
    asking = ["fleet", *(pin.name for pin in PINS)]
    asked = [Requirement(text) for name in asking for text in distribution(name).requires or ()]
    return {canonicalize_name(requirement.name) for requirement in asked if requirement.extras}


@pytest.fixture(scope="module")
def released() -> set[str]:
    """What has a newer release than the pinned one."""
    return (asked_for_with_an_extra() | ALSO_RELEASED) & {pin.name for pin in PINS}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, released: set[str]) -> Index:
    made = Index(tmp_path_factory.mktemp("index") / "wheels")
    for pin in PINS:
        if pin.name in released:
            made.publish(pin.name, newer(pin.version))
    return made


@pytest.fixture(scope="module")
def requirements(tmp_path_factory: pytest.TempPathFactory, index: Index) -> Path:
    return locks(
        tmp_path_factory.mktemp("locks") / "requirements", {pin: index.publish(pin.name, pin.version) for pin in PINS}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=300)
    return folder


@pytest.fixture
def venv(made: Path) -> Path:
    """An environment that holds pip, as a newcomer's Python makes it."""
    for path in made.glob("lib/python*/site-packages/*.dist-info"):
        if not path.name.startswith("pip-"):
            shutil.rmtree(path)
    (made / ".runtime").unlink(missing_ok=True)
    return made


@pytest.fixture(autouse=True)
def _only_this_index(monkeypatch: pytest.MonkeyPatch, index: Index) -> None:
    """pip's settings on this machine are not the matter here."""
    for variable in [variable for variable in os.environ if variable.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.folder))


def newer(version: str) -> str:
    """The next small release, which everybody who can take `version` can take."""
    *release, last = Version(version).release
    return ".".join(map(str, (*release, last + 1)))


def installed(venv: Path) -> set[tuple[str, str]]:
    found = {path.stem.rpartition("-")[::2] for path in venv.glob("lib/python*/site-packages/*.dist-info")}
    return {(canonicalize_name(name), version) for name, version in found if name != "pip"}


def test_newer_releases_change_nothing(venv: Path, requirements: Path, released: set[str]) -> None:
    assert {"google-auth", "sqlalchemy", "nats-py"} <= released

    install.install("runtime", venv, requirements=requirements)

    assert installed(venv) == {(pin.name, pin.version) for pin in PINS}


def test_the_image_installs_before_it_has_more_than_the_locks(venv: Path, requirements: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(requirements, tmp_path / "requirements")
    shutil.copy(ROOT / "requirements/install.py", folder)

    command = [sys.executable, str(folder / "install.py"), "--venv", str(venv), "--compile", "runtime"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 0, done.stderr
    assert installed(venv) == {(pin.name, pin.version) for pin in PINS}


def test_the_index_of_these_tests_breaks_an_installation_that_resolves(
    venv: Path, requirements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test before would see nothing."""
    monkeypatch.setattr(install, "INSTALL", tuple(part for part in install.INSTALL if part != "--no-deps"))
    with pytest.raises(install.StepFailed, match=r"all requirements must have their versions pinned|google-auth"):
        install.install("runtime", venv, requirements=requirements)


def test_what_somebody_changed_since_is_put_right_and_else_there_is_nothing_to_do(
    venv: Path, requirements: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install.install("runtime", venv, requirements=requirements)
    capsys.readouterr()

    install.install("runtime", venv, requirements=requirements)
    assert capsys.readouterr().out == ""

    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "openai"]
    subprocess.run(pip, check=True, timeout=300)
    install.install("runtime", venv, requirements=requirements)
    assert installed(venv) == {(pin.name, pin.version) for pin in PINS}


def test_an_installation_that_was_killed_is_made_anew(venv: Path, requirements: Path) -> None:
    """In the middle, when some packages are unpacked and the next one is half there."""
    code = "import sys; from pathlib import Path; from requirements import install; "
    code += "install.install('runtime', Path(sys.argv[1]), requirements=Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(venv), str(requirements)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        while not any(venv.glob("lib/python*/site-packages/aiohttp-*.dist-info")):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    (half,) = venv.glob("lib/python*/site-packages/aiohttp-*.dist-info")
    (half / "RECORD").unlink(missing_ok=True)

    install.install("runtime", venv, requirements=requirements)

    assert installed(venv) == {(pin.name, pin.version) for pin in PINS}
    assert (half / "RECORD").is_file()


def test_a_file_with_another_hash_is_refused(venv: Path, tmp_path: Path, index: Index) -> None:
    some, tools = (pin for pin in PINS if pin.name in ("setuptools", "h11"))
    pinned = {tools: index.publish(tools.name, tools.version), some: "0" * 64}

    with pytest.raises(install.StepFailed) as caught:
        install.install("runtime", venv, requirements=locks(tmp_path / "requirements", pinned))

    explained = install.explanation(caught.value)
    assert "stopped at: 1 packages, what the roles need" in explained
    assert "h11" in explained
    assert "not the one that was pinned" in explained
    assert not (venv / install.UNFINISHED).exists()


def test_without_a_network_it_is_said_what_to_do(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens on it, and nobody else gets it
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple")
        monkeypatch.setenv("PIP_RETRIES", "1")
        command = [sys.executable, "requirements/install.py", "--venv", str(venv), "runtime"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 1
    assert re.search(r"pip and setuptools … failed\n$", done.stdout)
    assert "stopped at: pip and setuptools" in done.stderr
    assert "No matching distribution found for pip==" in done.stderr
    assert "The package index did not answer." in done.stderr
    assert done.stderr.endswith("Then give the same command again.\n")
    assert "Traceback" not in done.stderr
