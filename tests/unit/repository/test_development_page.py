"""docs/development.md names every place that has to know of a new provider."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from contracts.subjects import Provider
from tests.documents import DEVELOPMENT, quoted, rows, section
from tests.repository import ROOMS, ROOT, modules, name

PROVIDERS = {provider.value for provider in Provider}
_NAMES = "|".join(PROVIDERS)
OF_ONE = re.compile(rf"workers/providers/(?:{_NAMES})/\w+\.py|fleet/simulator/(?:{_NAMES}|entra)(?:_\w+)?\.py")
"""A provider's adapter, and its part of the simulator; Entra ID is Azure's."""


def test_the_page_names_every_place_that_names_a_provider() -> None:
    table = rows(section(DEVELOPMENT, "Adding a provider"), "| place | what it says of a provider |")
    listed = {place for row in table for place in quoted(row[0])}
    places = {
        name(path)
        for path in modules()
        if path.relative_to(ROOT).parts[0] in ROOMS and not OF_ONE.fullmatch(name(path)) and _named(path)
    }

    new = places - listed
    assert not new, f"{sorted(new)} name a provider: say in docs/development.md what a new one needs there"
    gone = listed - places
    assert not gone, f"{sorted(gone)} name no provider: take them out of docs/development.md"


def _named(path: Path) -> set[str]:
    """The providers that a module names, in its code or in what it says to others."""
    words = (word for text in _texts(ast.parse(path.read_text())) for word in re.split(r"[^a-z]+", text.lower()))
    return PROVIDERS & {*words}


def _texts(tree: ast.Module) -> Iterator[str]:
    """Names and strings, without docstrings."""
    documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.alias(name=text) | ast.arg(arg=text):
                yield text
            case ast.ImportFrom(module=str(text)):
                yield text
            case ast.Constant(value=str(text)) if node not in documentation:
                yield text
            case _:
                pass
