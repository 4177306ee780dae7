"""Writes the generated parts of docs/architecture.md: the way of a request, the map, and who may import whom."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.documents import ARCHITECTURE, generated
from tests.repository import ROOMS, ROOT, modules
from tests.way import steps

_SENTENCE = re.compile(r".*?[.?!](?= [A-Z`(]| http|$)|.*")
_CODE = re.compile(r"(`[^`]*`)")


def page(text: str) -> str:
    """The page with its generated parts made anew."""
    return generated(text, {"way": _way(), "layers": _layers(), **{room: _map(room) for room in ROOMS}})


def summary(module: Path) -> str:
    """The first sentence of a module's docstring; empty when it has none."""
    paragraph, _, _ = (ast.get_docstring(ast.parse(module.read_text())) or "").partition("\n\n")
    sentence = _SENTENCE.match(" ".join(paragraph.split()))
    return sentence[0] if sentence else ""


def _way() -> str:
    """The functions that a plain request passes, a line for each module where the reader stays in it."""
    way: list[tuple[str, list[str]]] = []
    for step in steps():
        if not way or way[-1][0] != step.module:
            way.append((step.module, []))
        way[-1][1].append(f"`{step.function}`")
    rows = [["module", "functions"], ["---", "---"], *([f"`{module}`", ", ".join(found)] for module, found in way)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _map(room: str) -> str:
    """A table for each package of the room: the package with its summary, below it each module with its own."""
    packages = [path.parent for path in modules() if path.is_relative_to(ROOT / room) and path.name == "__init__.py"]
    return "\n".join(_package(folder) for folder in sorted(packages))


def _package(folder: Path) -> str:
    head = [f"`{folder.relative_to(ROOT)}/`", _cell(summary(folder / "__init__.py"))]
    inside = [path for path in modules() if path.parent == folder and path.name != "__init__.py"]
    rows = [head, ["---", "---"], *([f"`{path.name}`", _cell(summary(path))] for path in sorted(inside))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _cell(text: str) -> str:
    """A sentence as the cell of a table shows it: what Markdown would take for more than text is escaped."""
    parts = (part if part.startswith("`") else re.sub(r"([<*])", r"\\\1", part) for part in _CODE.split(text))
    return "".join(parts).replace("|", "\\|")


def _layers() -> str:
    """The contracts of import-linter that say in which order packages lie above each other."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return "\n".join(_contract(contract) for contract in contracts if contract["type"] == "layers")


def _contract(contract: dict[str, Any]) -> str:
    exceptions = "".join(f"\nExcept: `{allowed}`\n" for allowed in contract.get("ignore_imports", []))
    shown = "\n".join(_without_common_prefix(contract["layers"]))
    name = contract["name"]
    return f"{name[0].upper()}{name[1:]}\n\n```\n{shown}\n```\n{exceptions}"


def _without_common_prefix(layers: list[str]) -> Iterator[str]:
    """`request` of `workers.request`, where all begin alike."""
    names = [name for layer in layers for name in re.split(r" [|:] ", layer)]
    prefix = names[0].rpartition(".")[0]
    is_common = prefix and all(name.rpartition(".")[0] == prefix for name in names)
    for layer in layers:
        yield layer.replace(f"{prefix}.", "") if is_common else layer


if __name__ == "__main__":
    ARCHITECTURE.write_text(page(ARCHITECTURE.read_text()))
