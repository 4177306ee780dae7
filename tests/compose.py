"""compose.yaml as Compose reads it: anchors merged, variables filled in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Z0-9_]+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\})")


def read() -> dict[str, Any]:
    """As it is written, with its anchors merged."""
    return yaml.load((ROOT / "compose.yaml").read_text(), yaml.CSafeLoader)


def variables(node: Any) -> dict[str, bool]:
    """The variables below `node`, and whether each is required."""
    found: dict[str, bool] = {}
    for text in _texts(node):
        for match in _VARIABLE.finditer(text):
            if match["name"]:
                found[match["name"]] = found.get(match["name"], False) or match["kind"] == "?"
    return found


def fill_in(node: Any, environment: Mapping[str, str]) -> Any:
    """Raises KeyError, with the name, when a required variable has no value."""
    match node:
        case str():
            return _VARIABLE.sub(lambda match: _value(match, environment), node)
        case dict():
            return {key: fill_in(value, environment) for key, value in node.items()}  # pyright: ignore[reportUnknownVariableType]
        case list():
            return [fill_in(item, environment) for item in node]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return node


def env_example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _value(match: re.Match[str], environment: Mapping[str, str]) -> str:
    if match["name"] is None:
        return "$"
    if value := environment.get(match["name"]):
        return value
    if match["kind"] == "?":
        raise KeyError(match["name"])
    return match["rest"] or ""


def _texts(node: Any) -> list[str]:
    match node:
        case str():
            return [node]
        case dict():
            return [text for value in node.values() for text in _texts(value)]  # pyright: ignore[reportUnknownVariableType]
        case list():
            return [text for item in node for text in _texts(item)]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return []
