"""The repository as tests read it: its files, what a module imports, and what pyproject.toml asks for."""

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("contracts", "runtime", "workers", "admin_api", "migrations", "fleet")
"""The packages that are installed."""

_TEXTS = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".sh",
    ".yaml",
    ".yml",
    ".json",
    ".conf",
    ".hcl",
    ".ini",
    ".mako",
    ".example",
    "",
}
_SKIPPED = {"build", "dist", "node_modules"}
_DOTTED = {".ci", ".dockerignore", ".env.example", ".gitignore"}
_IMPORT_NAMES = {"google-genai": {"google.genai"}}
"""Of distributions that share their top-level package with others."""


@cache
def files() -> tuple[Path, ...]:
    """Every text of the repository."""
    found: list[Path] = []
    for folder, below, names in os.walk(ROOT):
        below[:] = sorted(n for n in below if not _is_foreign(n))
        found.extend(Path(folder, n) for n in sorted(names) if _is_text(n))
    return tuple(found)


def _is_text(file: str) -> bool:
    return file in _DOTTED or (not file.startswith(".") and Path(file).suffix in _TEXTS)


def _is_foreign(folder: str) -> bool:
    hidden = folder.startswith(".") and folder not in _DOTTED
    return hidden or folder in _SKIPPED or folder.endswith((".egg-info", "__pycache__"))


def modules() -> list[Path]:
    return [path for path in files() if path.suffix == ".py"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def extras() -> dict[str, list[str]]:
    """Requirements by extra; the base is `""`."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": table["dependencies"], **table["optional-dependencies"]}


def project() -> dict[str, list[str]]:
    """Distributions by extra. Extras of our own are left out."""
    return {
        extra: [distribution(r) for r in wanted if not r.startswith("fleet[")] for extra, wanted in extras().items()
    }


def distribution(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names that a module imports, also those within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=aliases):
                found |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0, names=aliases):
                found |= {module, *(f"{module}.{alias.name}" for alias in aliases)}
            case _:
                pass
    return frozenset(found)


def prefixes(dotted: str) -> Iterator[str]:
    parts = dotted.split(".")
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])


@cache
def owners() -> dict[str, set[str]]:
    """Which distributions bring a top-level package."""
    return {top: {distribution(dist) for dist in dists} for top, dists in packages_distributions().items()}


@cache
def import_names(dist: str) -> frozenset[str]:
    if dist in _IMPORT_NAMES:
        return frozenset(_IMPORT_NAMES[dist])
    return frozenset(top for top, brought_by in owners().items() if dist in brought_by)
