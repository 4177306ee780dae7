"""Modelfiles: from which model a new one is made, and how it differs.

Source: Ollama's Modelfile reference. What names a file (weights, adapters) is refused: it would have to be uploaded.
"""

import re
from dataclasses import dataclass, field
from typing import Any

_INSTRUCTION = re.compile(r"([A-Za-z]+)[ \t]+(.*)", re.DOTALL)
_FILE = re.compile(r"^(?:[./~]|[A-Za-z]:\\)|\.(?:gguf|safetensors|bin)$", re.IGNORECASE)
_QUOTES = ('"""', '"')
_ROLES = ("system", "user", "assistant")


class NoModelfile(ValueError):
    """The text is no Modelfile. The message says where and why."""


@dataclass(slots=True)
class Modelfile:
    """What a Modelfile says. `base`: the model that the new one is made from."""

    base: str
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    """`system`, `template`, `license`, `parameters` and `messages`, as /api/create takes them."""


def parse(text: str) -> Modelfile:
    """Reads a Modelfile. Raises NoModelfile."""
    base: str | None = None
    fields: dict[str, Any] = {}
    for number, name, value in _instructions(text):
        match name:
            case "FROM":
                if _FILE.search(value):
                    raise NoModelfile(
                        f"line {number}: FROM names a file, which would have to be uploaded; name a model"
                    )
                base = value
            case "SYSTEM" | "TEMPLATE":
                fields[name.lower()] = value
            case "LICENSE":
                fields.setdefault("license", []).append(value)
            case "PARAMETER":
                _add_parameter(fields.setdefault("parameters", {}), value, number)
            case "MESSAGE":
                fields.setdefault("messages", []).append(_message(value, number))
            case "ADAPTER":
                raise NoModelfile(f"line {number}: ADAPTER names a file, which would have to be uploaded")
            case _:
                raise NoModelfile(f"line {number}: there is no instruction {name[:32]!r}")
    if base is None:
        raise NoModelfile("there is no FROM: which model is it made from?")
    return Modelfile(base, fields)


def _instructions(text: str) -> list[tuple[int, str, str]]:
    """Line number, name in capitals and value of each instruction; a value in triple quotes goes over lines."""
    found: list[tuple[int, str, str]] = []
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        instruction = _INSTRUCTION.fullmatch(line.strip())
        if not instruction:
            raise NoModelfile(f"line {number}: an instruction and its value are expected")
        name, value = instruction[1].upper(), instruction[2].strip()
        head, opened, rest = value.partition('"""')
        while opened and '"""' not in rest:
            try:
                rest += "\n" + next(lines)[1]
            except StopIteration:
                raise NoModelfile(f'line {number}: its """ is never closed') from None
        found.append((number, name, f"{head}{opened}{rest}".rstrip()))
    return [(number, name, value if name == "MESSAGE" else _unquoted(value)) for number, name, value in found]


def _unquoted(value: str) -> str:
    for quote in _QUOTES:
        if len(value) >= 2 * len(quote) and value.startswith(quote) and value.endswith(quote):
            return value[len(quote) : -len(quote)]
    return value


def _message(value: str, number: int) -> dict[str, str]:
    role, _, content = value.partition(" ")
    if role.lower() not in _ROLES:
        raise NoModelfile(f"line {number}: MESSAGE begins with one of {', '.join(_ROLES)}")
    return {"role": role.lower(), "content": _unquoted(content.strip())}


def _add_parameter(parameters: dict[str, Any], value: str, number: int) -> None:
    name, _, given = value.partition(" ")
    if not given.strip():
        raise NoModelfile(f"line {number}: PARAMETER needs a name and a value")
    if name == "stop":
        parameters.setdefault("stop", []).append(_unquoted(given.strip()))
    else:
        parameters[name] = _typed(given.strip())


def _typed(value: str) -> int | float | bool | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(value.lower(), _unquoted(value))
