"""The arguments of a tool call as agents get them: the text of a JSON object."""

from typing import Any

import msgspec

from workers.providers.shared.json_text import NO_JSON, decode_any

NONE = "{}"
_SAYS_NONE = frozenset({"", "null", "[]"})


def of_raw(given: msgspec.Raw) -> str:
    """Arguments as they were sent, byte for byte where they are an object."""
    try:
        value = msgspec.json.decode(given)
        return bytes(given).decode() if isinstance(value, dict) else of_value(value)
    except NO_JSON:
        pass
    try:
        return of_value(decode_any(given))
    except NO_JSON:
        return bytes(given).decode(errors="replace") or NONE


def of_value(given: Any) -> str:
    """Arguments as a value.

    A text holds them already, as some models' templates and gateways write them. Nothing, an empty list (PHP's empty
    object) and what can be no arguments is none.
    """
    match given:
        case str():
            return NONE if given.strip() in _SAYS_NONE else unquoted(given)
        case {**members}:
            return msgspec.json.encode(members).decode()
        case [_, *_]:
            return msgspec.json.encode(given).decode()
        case _:
            return NONE


def unquoted(text: str) -> str:
    """The object that a text holds inside a text, as models and gateways write it that encode it twice."""
    if not text.lstrip().startswith('"'):
        return text
    try:
        inner = msgspec.json.decode(text)
        if isinstance(inner, str):
            msgspec.json.decode(inner, type=dict[str, msgspec.Raw])
            return inner
        return text
    except NO_JSON:
        return text
