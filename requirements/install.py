"""Makes a virtual environment from the lock files: `python requirements/install.py local`, or `dev`. make runs it, and
the build of the image.

What is installed is what a lock pins. pip's resolver has no part in it (`--no-deps`): of what is asked for with an
extra it takes the newest version, which a lock of an earlier day does not hold. `pip check` says if a lock lacks
something. pip's own settings count: an index, a proxy, a folder of wheels.

Needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parents[1]
TOOLS = "tools.txt"
"""pip and setuptools. The pinned pip does the rest, whichever came with Python: an old one takes twice as long."""
PROFILES = {"local": ("local.txt",), "dev": ("dev.txt",), "runtime": ("runtime.txt",)}
PURPOSES = {
    "local.txt": "what the fleet needs to run here",
    "dev.txt": "what tests and linting need",
    "runtime.txt": "what the roles need",
}
ONLY_LIBRARIES = ("runtime",)
"""The image gets the fleet as a wheel; the other profiles get the folders of the repository."""
PIP = ("-I", "-m", "pip", "--disable-pip-version-check", "--no-input")
INSTALL = (*PIP, "install", "--quiet", "--no-user", "--no-deps", "--no-build-isolation")
SHOWN_LINES = 15
UNFINISHED = ".unfinished"

ADVICE = (
    (
        r"No space left on device|Disk quota exceeded",
        "The disk is full. The installation needs 1 GB, and some more in the folder for temporary files (TMPDIR).",
    ),
    (
        r"(?i)do not match the hashes",
        "The package index served a file that is not the one that was pinned: a mirror built it anew, or somebody "
        "changed it. Nothing of it was installed. Name another index with PIP_INDEX_URL.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "The certificate of the package index is not trusted here. Behind a proxy that opens TLS, name the proxy's: "
        "PIP_CERT=/path/to/ca.pem.",
    ),
    (
        r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|Max retries exceeded"
        r"|Connection (?:refused|reset|aborted|broken)|connection (?:failed|error)|Network is unreachable"
        r"|Name or service not known|Temporary failure in name resolution|[45]\d\d (?:Client|Server) Error",
        "The package index did not answer. Is there a network? Behind a proxy set HTTPS_PROXY. An index of your own is "
        "named with PIP_INDEX_URL, a folder of wheels with PIP_NO_INDEX=1 PIP_FIND_LINKS=/folder.",
    ),
    (
        r"\(constraint\)|ResolutionImpossible|conflicting dependencies",
        "A constraint in pip's settings contradicts the lock; `pip config list` and PIP_CONSTRAINT show it.",
    ),
    (
        r"ensurepip is not available|No module named '?(?:ensurepip|venv)",
        "This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv.",
    ),
    (
        r"(?i)failed to build|failed building|subprocess-exited-with-error|metadata-generation-failed",
        "There is no wheel of this package for this Python and machine, and it could not be built here. README.md says "
        "where everything has a wheel.",
    ),
    (
        r"\(from versions: none\)",
        "The package index did not answer, or has nothing of this package for this Python and machine. Is there a "
        "network? Behind a proxy set HTTPS_PROXY; another index is named with PIP_INDEX_URL. README.md says where "
        "everything has a wheel.",
    ),
    (
        r"Could not find a version|No matching distribution",
        "The package index has no file of this version for this Python and machine. Is a mirror behind? README.md says "
        "where everything has a wheel.",
    ),
    (r"Permission denied|Read-only file system", "The folder cannot be written to. Whose is it?"),
    (
        r"has requirement|which is not installed|is not supported on this platform",
        "The packages do not fit together. `make clean` removes them all. If it happens in a fresh clone too, the lock "
        "is at fault: requirements/lock.sh writes it anew.",
    ),
)
"""What to do, by what the step said. The first that fits."""
UNKNOWN = "`make clean` removes all that was installed, so that the next try begins from nothing."


class StepFailed(Exception):
    """`halfway`: a package may be unpacked in part. pip fetches and checks all of them before it unpacks the first."""

    def __init__(self, step: str, said: str, *, halfway: bool = False) -> None:
        super().__init__(said)
        self.step = step
        self.said = said
        self.halfway = halfway


def main() -> int:
    parser = argparse.ArgumentParser(description="Installs a lock into a virtual environment.")
    parser.add_argument("profile", choices=PROFILES)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--compile", action="store_true", help="write bytecode now, not when a module is first used")
    given = parser.parse_args()
    if sys.version_info < OLDEST:
        print("This is Python {}.{}; 3.11 to 3.14 are supported.".format(*sys.version_info), file=sys.stderr)
        return 1
    try:
        with _alone():
            install(given.profile, given.venv.absolute(), compiled=given.compile)
    except StepFailed as failure:
        print(explanation(failure), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(" stopped. The next try begins anew.", file=sys.stderr)
        return 130
    return 0


def install(profile: str, venv: Path, *, compiled: bool = False, requirements: Path = ROOT / "requirements") -> None:
    """Brings `venv` to what the locks of `profile` in the folder `requirements` pin. Raises StepFailed."""
    locks = [requirements / lock for lock in PROFILES[profile]]
    ours = [] if profile in ONLY_LIBRARIES else [ROOT / "pyproject.toml"]
    wanted, made = _fingerprint(requirements / TOOLS, *locks, *ours), venv / f".{profile}"
    if _is_whole(venv) and made.is_file() and made.read_text() == wanted and _holds(venv, locks):
        return
    began = time.monotonic()
    print(f"Installing what requirements/{PROFILES[profile][-1]} pins into {venv.name}, once:", flush=True)
    if not _is_whole(venv):
        version = "{}.{}.{}".format(*sys.version_info)
        _step(f"a virtual environment of Python {version}", [sys.executable, "-m", "venv", "--clear", str(venv)])
    with _marked(venv / UNFINISHED):
        _fill(venv, profile, requirements, "--compile" if compiled else "--no-compile")
    made.write_text(wanted)
    print(f"Installed in {time.monotonic() - began:.0f} s.", flush=True)


def _fill(venv: Path, profile: str, requirements: Path, bytecode: str) -> None:
    python = str(venv / "bin" / "python")
    for lock in (TOOLS, *PROFILES[profile]):
        what = (
            f"{len(_pins(requirements / lock))} packages, {PURPOSES[lock]}" if lock != TOOLS else "pip and setuptools"
        )
        _step(what, [python, *INSTALL, bytecode, "--require-hashes", "-r", str(requirements / lock)])
    if profile not in ONLY_LIBRARIES:
        # The folder of the repository has no hash, also where pip's settings ask for hashes of everything.
        _step("the fleet itself", [python, *INSTALL, bytecode, "-e", str(ROOT)], PIP_REQUIRE_HASHES="0")
    _step("whether it fits together", [python, *PIP, "check"])


def explanation(failure: StepFailed) -> str:
    lines = [line.rstrip() for line in failure.said.splitlines() if line.strip()]
    once = {re.sub(r"0x[0-9a-f]+|\d+", "", line): line for line in lines}  # of each retry pip says the same
    advice = next((advice for sign, advice in ADVICE if re.search(sign, failure.said)), UNKNOWN)
    said = "".join(f"    {line}\n" for line in list(once.values())[-SHOWN_LINES:])
    return f"\nThe installation stopped at: {failure.step}\n{said}{advice}\nThen give the same command again."


@contextmanager
def _alone() -> Generator[None]:
    """Two at the same time, of two terminals, would write into the same folder: the second waits."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another installation here …", flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


@contextmanager
def _marked(unfinished: Path) -> Generator[None]:
    """The mark stays when a package may be unpacked in part."""
    unfinished.touch()
    try:
        yield
    except StepFailed as failure:
        if not failure.halfway:
            unfinished.unlink()
        raise
    unfinished.unlink()


def _is_whole(venv: Path) -> bool:
    """False also when the folder was moved, since its scripts name it, and when the Python that made it is gone."""
    settings = venv / "pyvenv.cfg"
    if (venv / UNFINISHED).exists() or not settings.is_file() or f" {venv}\n" not in settings.read_text():
        return False
    works = [str(venv / "bin" / "python"), "-I", "-c", f"import sys, pip; sys.exit(sys.version_info < {OLDEST})"]
    try:
        return subprocess.run(works, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _fingerprint(*files: Path) -> str:
    """Of all that decides what is installed."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _holds(venv: Path, locks: list[Path]) -> bool:
    """False when somebody has installed another version since. Pins with a marker are not looked at."""
    folders = (path.name.removesuffix(".dist-info") for path in venv.glob("lib/python*/site-packages/*.dist-info"))
    there = {_normal(folder) for folder in folders}
    return all(pin in there for lock in locks for pin, marker in _pins(lock).items() if not marker)


def _pins(lock: Path) -> dict[str, str]:
    """The marker of each pin, which is name-version, or nothing."""
    found = re.findall(r"(?m)^([\w.-]+)==([\w.+!-]+)(?: ; ([^\n\\]+))?", lock.read_text())
    return {_normal(f"{name}-{version}"): marker for name, version, marker in found}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _step(what: str, command: list[str], **variables: str) -> None:
    """Runs `command` and says how long it took. What it prints is read only when it fails."""
    print(f"  {what} … ", end="", flush=True)
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as exc:
        print("failed", flush=True)
        raise StepFailed(what, str(exc)) from exc
    if done.returncode:
        print("failed", flush=True)
        # pip calls what went wrong while it unpacked an OSError; a negative code is a signal.
        raise StepFailed(what, done.stdout, halfway=done.returncode < 0 or "OSError" in done.stdout)
    print(f"{time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
