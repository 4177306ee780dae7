"""Builds the package: setuptools, except that a wheel takes one import name, `fleet`.

The folders of the repository are packages of their own, and an agent may well have a folder `contracts` too. So a
wheel is built from a copy in which they lie below `fleet`: `contracts/errors.py` is `fleet/contracts/errors.py`, and
what says `from contracts.errors import …` says `from fleet.contracts.errors import …`. An editable installation keeps
the names of the folders.
"""

import ast
import re
import shutil
from collections.abc import Generator
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

PACKAGE = "fleet"
MOVED = ("contracts", "runtime", "migrations", "workers", "admin_api")
_TEXTS = ("pyproject.toml", "README.md", "LICENSE")
_MODULE = re.compile(rf"(?:{'|'.join(MOVED)})(?:\.\w+)+\.?")


class NotMovable(Exception):
    """A module is named in a way that would lead nowhere in the wheel. The message says where."""


def build_wheel(folder: str, config: dict[str, Any] | None = None, metadata: str | None = None) -> str:
    with _moved():
        return build_meta.build_wheel(folder, config, metadata)


def prepare_metadata_for_build_wheel(folder: str, config: dict[str, Any] | None = None) -> str:
    with _moved():
        return build_meta.prepare_metadata_for_build_wheel(folder, config)


@contextmanager
def _moved() -> Generator[None]:
    """Works in the copy. Frontends give absolute paths, as PEP 517 does not say; pip, build and uv do."""
    with TemporaryDirectory() as folder:
        copy(Path.cwd(), Path(folder))
        with chdir(folder):
            yield


def copy(source: Path, target: Path) -> None:
    for name in _TEXTS:
        shutil.copy(source / name, target)
    for room in (PACKAGE, *MOVED):
        for path in sorted((source / room).rglob("*.py")):
            place = target / (PACKAGE if room != PACKAGE else "") / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(rewritten(path.read_text("utf-8"), str(path)), "utf-8")


def rewritten(code: str, where: str) -> str:
    """`code` with the import names of the wheel; nothing else of it changes, not even a line's number.

    Raises NotMovable for `import contracts.errors`, which binds a name that would be another one, and for a module that
    is named in a string, as for importlib: `__package__` says where a module is.
    """
    lines = code.splitlines(keepends=True)
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.ImportFrom(module=str(module), level=0) if _is_moved(module):
                line = lines[node.lineno - 1]
                start = len(line.encode()[: node.col_offset].decode())
                lines[node.lineno - 1] = line[:start] + line[start:].replace(module, f"{PACKAGE}.{module}", 1)
            case ast.Import(names=names) if any(_is_moved(name.name) for name in names):
                raise NotMovable(f"{where}:{node.lineno}: write it as `from … import …`")
            case ast.Constant(value=str(text)) if _MODULE.fullmatch(text):
                raise NotMovable(f"{where}:{node.lineno}: {text!r} names a module; name it relative to __package__")
            case _:
                pass
    return "".join(lines)


def _is_moved(module: str) -> bool:
    return module.partition(".")[0] in MOVED
