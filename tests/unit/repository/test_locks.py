"""A lock is installed as it stands: what it does not hold is not there, on any machine that it is for."""

import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.locks import Pin, pins

ROOT = Path(__file__).parents[3]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {"dev.txt": ["dev"], "local.txt": ["local"], "runtime.txt": ["worker", "usage", "admin", "cli"]}
"""The extras that each lock is made from, as lock.sh says."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SUPPORTED = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("darwin", "x86_64"))
ELSEWHERE = (("win32", "AMD64"), ("emscripten", "wasm32"))
"""Nobody runs the fleet there; its libraries' requirements for it are pinned all the same."""
SYSTEMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows", "emscripten": "Emscripten"}

Environment = dict[str, str]


def environment(python: str, platform: str, machine: str) -> Environment:
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.2",
        "os_name": "nt" if platform == "win32" else "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": SYSTEMS[platform],
        "platform_version": "",
        "python_full_version": f"{python}.2",
        "python_version": python,
        "sys_platform": platform,
    }


def held(lock: str, where: Environment) -> dict[str, Pin]:
    return {pin.name: pin for pin in _pins(lock) if not pin.marker or pin.marker.evaluate(where)}


@cache
def _pins(lock: str) -> list[Pin]:
    return pins((ROOT / "requirements" / lock).read_text())


def tree(lock: str, where: Environment) -> dict[str, list[tuple[str, Requirement]]]:
    """Every requirement of what the lock is made from, and of what that needs: by package, with who asks for it."""
    found: dict[str, list[tuple[str, Requirement]]] = {}
    followed: set[tuple[str, str]] = set()
    waiting = [("fleet", extra) for extra in ("", *LOCKS[lock])]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in followed:
            continue
        followed.add((name, extra))
        for requirement in _requirements(name):
            if requirement.marker and not requirement.marker.evaluate({**where, "extra": extra}):
                continue
            other = canonicalize_name(requirement.name)
            waiting += [(other, more) for more in ("", *requirement.extras)]
            if other != "fleet":
                found.setdefault(other, []).append((name, requirement))
    return found


@cache
def _requirements(name: str) -> list[Requirement]:
    if name == "fleet":
        extras = PROJECT["project"]["optional-dependencies"].items()
        more = [_of_extra(text, extra) for extra, texts in extras for text in texts]
        return [Requirement(text) for text in (*PROJECT["project"]["dependencies"], *more)]
    try:
        return [Requirement(text) for text in distribution(name).requires or ()]
    except PackageNotFoundError:
        return []  # for other machines only, which a test says


def _of_extra(text: str, extra: str) -> str:
    wanted, _, marker = text.partition(";")
    condition = f"({marker.strip()}) and extra == '{extra}'" if marker else f"extra == '{extra}'"
    return f"{wanted} ; {condition}"


@pytest.mark.parametrize(("platform", "machine"), SUPPORTED)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_the_whole_tree(lock: str, python: str, platform: str, machine: str) -> None:
    where = environment(python, platform, machine)
    pinned = held(lock, where)

    lacking = {
        f"{asking} asks for {requirement}; pinned is {pinned[name].version if name in pinned else 'nothing'}"
        for name, requirements in tree(lock, where).items()
        for asking, requirement in requirements
        if name not in pinned or not requirement.specifier.contains(pinned[name].version, prereleases=True)
    }

    assert lacking == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_that_a_lock_pins_is_needed_somewhere(lock: str) -> None:
    places = [environment(python, *place) for python, place in product(PYTHONS, (*SUPPORTED, *ELSEWHERE))]
    needed = {name for where in places for name in tree(lock, where)}
    assert {pin.name for pin in _pins(lock)} - needed == set()


@pytest.mark.parametrize("lock", LOCKS)
def test_what_other_machines_need_can_be_looked_into_here(lock: str) -> None:
    """Else its own requirements would be missed."""
    places = [environment(python, *place) for python, place in product(PYTHONS, SUPPORTED)]
    named = {name for where in places for name in held(lock, where)}
    assert {name for name in named if not _is_installed(name)} == set()


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_one_version_for_each_machine(lock: str) -> None:
    for python, place in product(PYTHONS, SUPPORTED):
        where = environment(python, *place)
        names = [pin.name for pin in _pins(lock) if not pin.marker or pin.marker.evaluate(where)]
        assert len(names) == len(set(names))


def test_what_builds_is_pinned_to_one_version() -> None:
    """pip builds the package, and what comes as source, with it; a newcomer's pip too, in a clone or from a URL."""
    (setuptools,) = [pin for pin in _pins("tools.txt") if pin.name == "setuptools"]
    assert setuptools == held("dev.txt", environment("3.11", "linux", "x86_64"))["setuptools"]
    assert PROJECT["build-system"]["requires"] == [f"setuptools=={setuptools.version}"]
