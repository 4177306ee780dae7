"""JSON that an agent wrote and a strict reader refuses: mended where its meaning is plain, else searched for its names.

Agents cut texts in the middle of a character, and their libraries write half a surrogate pair as an escape (RFC 8259,
section 8.2, warns of it). Strict readers take neither that nor a byte order mark.
"""

import json
import re
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, from_json

from contracts.wire import without_halves
from runtime import json_bounds

M = TypeVar("M", bound=BaseModel)

_PIECES_READ = 100_000
"""Strings, words and brackets that are looked at for a name; what lies between two of them is passed over in one step.
So a text is read once at most: 8 MB, the largest request, took 0.16 s where they were slowest to read."""

_PIECE = re.compile(
    r"""
    [^\w$"'{}\[\]]*+
    (?:
        "(?P<double>[^"\\]*+(?:\\.[^"\\]*+)*+)"(?P<names>\s*+:)?
        | '(?P<single>[^'\\]*+(?:\\.[^'\\]*+)*+)'(?P<names_too>\s*+:)?
        | (?P<bare>[A-Za-z_$][\w$]*+)\s*+:
        | (?P<word>[\w$]++)
        | (?P<opens>[{\[])
        | (?P<closes>[}\]])
        | (?P<cut>["'])
        | (?P<end>\Z)
    )
    """,
    re.VERBOSE | re.DOTALL,
)


def parse(model: type[M], data: bytes) -> tuple[M, bytes]:
    """What `data` says, and the JSON that says it to every reader: `data`, mended if need be.

    Halves of surrogate pairs and bytes that are no UTF-8 become U+FFFD, a byte order mark goes. Raises ValidationError,
    also for more than json_bounds.MOST_VALUES values, of which nothing is made then.
    """
    try:
        json_bounds.check(data)
    except json_bounds.TooManyValues as exc:
        too_many = InitErrorDetails(type=PydanticCustomError("too_many_values", "{why}", {"why": str(exc)}), input=None)
        raise ValidationError.from_exception_data(model.__name__, [too_many], hide_input=True) from None
    try:
        return model.model_validate_json(data, strict=True), data
    except ValidationError as exc:
        is_json = exc.error_count() > 1 or exc.errors(include_input=False)[0]["type"] != "json_invalid"
        if is_json or (mended := _mended(data)) is None:
            raise
    return model.model_validate_json(mended, strict=True), mended


def told(data: bytes, names: Collection[str]) -> Mapping[str, Any]:
    """What an object says under these names, as far as that can be read.

    A text that holds the object's JSON is read as well: agents write JSON twice by mistake.
    """
    try:
        json_bounds.check(data)
        body: Any = from_json(data)
        if isinstance(body, str):
            json_bounds.check(body.encode())
            body = from_json(body)
    except ValueError:
        return top_level_texts(data, names)
    return {name: body[name] for name in names if name in body} if isinstance(body, dict) else {}


def top_level_texts(data: bytes, names: Collection[str]) -> dict[str, str]:
    """The texts that an object has under these names, as far as they can be told although `data` may be no JSON.

    Cut off, with a comma too many, in single quotes, with bare names: the text is followed from bracket to bracket.
    What is nested in the object, or comes after it, does not count.
    """
    found: dict[str, str] = {}
    depth, name = 0, ""
    for piece in islice(_PIECE.finditer(_text(data)), _PIECES_READ):
        match piece.lastgroup:
            case "opens":
                if depth == 0 and piece["opens"] == "[":
                    break
                depth, name = depth + 1, ""
            case "closes":
                depth -= 1
                if depth <= 0:
                    break
            case "cut":
                break
            case "names" | "names_too":
                name = (piece["double"] or piece["single"] or "") if depth == 1 else ""
            case "bare":
                name = piece["bare"] if depth == 1 else ""
            case "word" | "end":
                pass
            case _:
                if depth == 1 and name in names:
                    found[name] = piece["double"] or piece["single"] or ""
                name = ""
    return found


def _mended(data: bytes) -> bytes | None:
    """JSON that every reader takes, from what Python's reader takes; None when that one does not take it either."""
    try:
        written = json.dumps(json.loads(_text(data)), ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None
    return without_halves(written).encode()


def _text(data: bytes) -> str:
    """The text of JSON in UTF-8, UTF-16 or UTF-32."""
    return data.decode(json.detect_encoding(data), errors="replace")
