"""The package as others install it, beside code of their own: one import name, and everything below it."""

import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from contracts import errors
from fleet import errors as for_agents
from requirements import backend
from tests.acceptance.running import clean_environment

ROOT = Path(__file__).parents[2]
OF_THE_DEVELOPER = Path(sysconfig.get_path("purelib"))
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
HEAVY = ("typer", "rich", "uvloop", "sqlalchemy", "openai", "anthropic", "google", "hvac", "fastapi", "cryptography")

pytestmark = pytest.mark.slow


class Agent:
    """A folder with an agent's code, and an environment in which the wheel is installed."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder / "agent"
        self.bin = folder / "environment" / "bin"
        for package in backend.MOVED:
            (self.folder / package).mkdir(parents=True)
            (self.folder / package / "__init__.py").write_text(f"OWNER = 'the agent, {package}'\n")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.bin.parent)], check=True, timeout=300)
        into = (*PIP, "--python", str(self.bin / "python"), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
        subprocess.run(into, check=True, timeout=300)

    @property
    def site_packages(self) -> Path:
        (found,) = self.bin.parent.glob("lib/python*/site-packages")
        return found

    def run(self, *command: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.folder,
            env=clean_environment(TMPDIR=str(self.folder.parent)),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def python(self, code: str) -> str:
        done = self.run("python", "-W", "error", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = (
        *PIP,
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    )
    subprocess.run(command, check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Agent:
    """With what the base of the package asks for, and nothing else."""
    agent = Agent(tmp_path_factory.mktemp("thin"), wheel)
    for name in needed(["nats-py", "pydantic"]):
        for top in {Path(file).parts[0] for file in distribution(name).files or ()} - {"..", "__pycache__"}:
            (agent.site_packages / top).symlink_to(OF_THE_DEVELOPER / top)
    return agent


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Agent:
    """With all that is installed here, but for the folders of this repository."""
    agent = Agent(tmp_path_factory.mktemp("whole"), wheel)
    (agent.site_packages / "others.pth").write_text(f"{OF_THE_DEVELOPER}\n")
    for command in ("nats-server", "bao"):
        (agent.bin / command).symlink_to(Path(sys.executable).with_name(command))
    return agent


def needed(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            wanted = map(Requirement, distribution(name).requires or ())
            waiting += [r.name for r in wanted if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def test_a_wheel_takes_one_import_name(wheel: Path) -> None:
    names = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"fleet"}


def test_a_wheel_holds_every_module(wheel: Path) -> None:
    rooms = [ROOT / room for room in (backend.PACKAGE, *backend.MOVED)]
    modules = [path.relative_to(ROOT) for room in rooms for path in room.rglob("*.py")]
    expected = {str(path if path.parts[0] == "fleet" else "fleet" / path) for path in modules}
    assert {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("fleet/")} == expected


@pytest.mark.parametrize("package", backend.MOVED)
def test_an_agent_keeps_its_own_packages(thin: Agent, package: str) -> None:
    said = thin.python(f"from fleet.client import Client; import {package}; print({package}.OWNER, Client.__name__)")
    assert said == f"the agent, {package} Client"


def test_the_client_needs_nothing_but_its_base(thin: Agent) -> None:
    said = thin.python("import sys, fleet.client, fleet.errors; print(*{name.split('.')[0] for name in sys.modules})")
    assert "fleet" in said.split()
    assert set(said.split()) & {*HEAVY, *backend.MOVED} == set()


def test_the_command_of_the_client_alone_says_what_is_missing(thin: Agent) -> None:
    done = thin.run("fleet", "status")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "need typer, which is not installed" in done.stderr
    assert "[cli]" in done.stderr


@pytest.mark.parametrize("extra", ["cli", "worker", "usage", "admin", "local"])
def test_the_extras_are_those_of_the_repository(thin: Agent, extra: str) -> None:
    code = "import importlib.metadata as m; print(*m.metadata('fleet').get_all('Provides-Extra'))"
    assert extra in thin.python(code).split()


def test_every_module_can_be_imported(whole: Agent, wheel: Path) -> None:
    """Where everything is installed, that the rooms find each other, and never the agent's packages."""
    files = [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("fleet/")]
    kept = [name for name in files if "/migrations/" not in name and not name.endswith("__main__.py")]
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in kept]
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; print(*sys.modules)"
    assert set(whole.python(code).split()) & set(backend.MOVED) == set()


def test_the_fleet_runs_from_the_wheel(whole: Agent) -> None:
    done = whole.run("fleet", "demo", timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The demo worked" in done.stdout


def test_an_agent_can_name_every_error_of_the_contract() -> None:
    tree = [errors.FleetError]
    for error in tree:
        tree += error.__subclasses__()
    of_the_contract = {error.__name__ for error in tree if error.__module__ == errors.__name__}
    assert {name for name in vars(for_agents) if not name.startswith("_")} == of_the_contract | {"ErrorCode"}
