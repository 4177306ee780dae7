"""JSON that somebody else wrote: read as far as it can be read.

Servers that speak a vendor's format get single fields wrong: a number where a text belongs, a list in place of an
object, half a surrogate pair, a literal `NaN`. What is odd is left out alone; everything beside it counts.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from contracts.wire import all_without_halves
from workers.providers.shared.http.sse import EventTooLarge

NO_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What decoding raises for bytes that are no JSON of the wanted form, are no text, or are nested too deeply."""

T = TypeVar("T", bound=msgspec.Struct)
T_Item = TypeVar("T_Item")

# The possessive quantifiers keep a hostile text from being read more than once. The outer one of _TO_A_BRACKET is not
# possessive, because Python 3.11.2 (Debian 12) then goes on from the middle of a repetition that did not match.
_BETWEEN_VALUES = re.compile(r"(?:\s|data:)*+")
"""What parts two values, also where a line end between two events is missing."""
_TO_A_BRACKET = re.compile(r'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*', re.DOTALL)
"""Everything before a bracket that stands in no text; less, when a text does not end."""
_TO_A_QUOTE = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""Everything of a text before its end."""
_MAX_DIGITS = 4300
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
"""How a truth value is written: msgspec takes texts and numbers for one, too, where nothing beside it is odd."""
MOST_IN_A_ROW = 500
MOST_BYTES_IN_A_ROW = 64 * 1024
"""Texts that are read of one event or line, and its bytes: what loses line ends does so with a few. Each takes some
20 µs, between which nobody else has a turn."""
MOST_CONTAINERS = 150_000
MOST_COMMAS = 500_000
"""How many objects and lists, and members of them, one JSON text may have. They take 100 ms at most. The texts of
vendors have a few hundred, and a whole reply of 2,000 tokens with 20 `top_logprobs` each has 86,000 and 206,000."""
MOST_LENIENT_BYTES = 12 * 1024**2
MOST_LENIENT_VALUES = 10_000
MOST_LENIENT_ESCAPES = 200_000
"""Of a JSON text that only a lenient reader takes, which needs twenty times as long for its values."""
_SMALL_BYTES = 16 * 1024
"""No text of so few bytes has too many of anything."""
_COUNTED_BYTES = 256 * 1024
_ODD: Any = object()
"""A value that does not fit its field."""

_decode_strictly = msgspec.json.Decoder().decode
_lenient = json.JSONDecoder(strict=False)


def decode_any(data: bytes | msgspec.Raw) -> Any:
    """The value of a JSON text. Raises one of NO_JSON, and never a msgspec.ValidationError.

    A text that only a strict reader refuses is read all the same: bytes that are no UTF-8 and halves of surrogate
    pairs become replacement characters, control characters in strings stay, and what is no number that anybody can
    write again (NaN, Infinity, 1e999, thousands of digits) becomes None.
    """
    refuse_too_many(data)
    try:
        return _decode_strictly(data)
    except (msgspec.DecodeError, UnicodeError) as strictly:
        _refuse_too_many_for_lenience(data)
        try:
            text = bytes(data).decode(errors="replace")
            value = _finite_only.decode(text)
        except ValueError:
            # msgspec reports a number of too many digits as a ValidationError, which is for JSON of another form.
            raise msgspec.DecodeError(str(strictly)) from None
        return all_without_halves(value)


def refuse_too_many(data: bytes | msgspec.Raw) -> None:
    """Raises msgspec.DecodeError for a JSON text of so many values that it would hold the event loop.

    Brackets and commas inside its texts are counted as well, because to tell them apart takes as long as to read it.
    """
    if _has_too_many(data):
        raise msgspec.DecodeError("too many values")


def _has_too_many(data: bytes | msgspec.Raw) -> bool:
    text = memoryview(data)
    if text.nbytes <= _SMALL_BYTES:
        return False
    text = bytes(text)
    return _has_more(text, b"{[", than=MOST_CONTAINERS) or _has_more(text, b",", than=MOST_COMMAS)


def _refuse_too_many_for_lenience(data: bytes | msgspec.Raw) -> None:
    text = memoryview(data)
    if text.nbytes <= _SMALL_BYTES:
        return
    is_long = text.nbytes > MOST_LENIENT_BYTES
    text = bytes(text)
    if is_long or _has_more(text, b"{[,", than=MOST_LENIENT_VALUES) or text.count(b"\\u") > MOST_LENIENT_ESCAPES:
        raise msgspec.DecodeError("too many values for a text that is no proper JSON")


def no_more_than(most: int, items: Sequence[T_Item]) -> Sequence[T_Item]:
    """A list of an event. Raises EventTooLarge where it is longer: nothing of a reply is left out silently."""
    if len(items) > most:
        raise EventTooLarge(f"a list of more than {most} items")
    return items


def _has_more(text: bytes, characters: bytes, *, than: int) -> bool:
    """Whether so many of the characters are in a text; looked for a part at a time, because there may be millions."""
    found = 0
    for at in range(0, len(text), _COUNTED_BYTES):
        found += sum([text.count(character, at, at + _COUNTED_BYTES) for character in characters])
        if found > than:
            return True
    return False


def in_a_row(data: bytes) -> Iterator[bytes]:
    """The JSON objects that stand one behind the other in `data`, at most MOST_IN_A_ROW in MOST_BYTES_IN_A_ROW; what is
    no whole object is the last item."""
    if len(data) > MOST_BYTES_IN_A_ROW:
        yield data
        return
    text = data.decode(errors="replace")
    at = 0
    for _ in range(MOST_IN_A_ROW):
        if (at := match_end(_BETWEEN_VALUES, text, at)) == len(text):
            return
        try:
            end = _lenient.raw_decode(text, at)[1] if text[at] == "{" else len(text)
        except (ValueError, RecursionError):
            end = len(text)
        yield text[at:end].encode()
        at = end


class EndFinder:
    """Finds where an object or a list ends whose JSON text comes in fragments. Looks at each character once."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = False
        self._after_backslash = False
        self.ended = False

    def feed(self, fragment: str, at: int = 0) -> int:
        """Where in `fragment`, from `at` on, the value ends; the fragment's length when it goes on."""
        length = len(fragment)
        if self._in_text and at < length:
            if '"' not in fragment and "\\" not in fragment:
                self._after_backslash = False
                return length
            at = self._leave_text(fragment, at + self._after_backslash)
        while not self.ended and (at := match_end(_TO_A_BRACKET, fragment, at)) < length:
            match fragment[at]:
                case '"':
                    at = self._leave_text(fragment, at + 1)
                case "{" | "[":
                    self._depth += 1
                    at += 1
                case _:
                    self.ended = self._depth == 1
                    self._depth = max(self._depth - 1, 0)
                    at += 1
        return at

    def _leave_text(self, fragment: str, at: int) -> int:
        at = match_end(_TO_A_QUOTE, fragment, at)
        self._after_backslash = at < len(fragment) and fragment[at] == "\\"
        self._in_text = at == len(fragment) or self._after_backslash
        return len(fragment) if self._in_text else at + 1


class FieldwiseDecoder(Generic[T]):
    """Decodes a JSON object into a struct whose fields all have defaults; a field that does not fit keeps its default.

    As fast as msgspec for what fits, which is nearly everything.
    """

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        self._decode = msgspec.json.Decoder(kind, strict=False).decode
        self._form: inspect.Type | None = None

    def __call__(self, data: bytes | msgspec.Raw) -> T:
        """Raises one of NO_JSON; msgspec.ValidationError for JSON that is no object; EventTooLarge."""
        if _has_too_many(data):
            raise EventTooLarge("an event of more values than can be read")
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeError):
            _refuse_too_many_for_lenience(data)
            value = decode_any(data)
        if self._form is None:
            self._form = inspect.type_info(self.kind)
        fitted = _fitted(value, self._form)
        if fitted is _ODD:
            raise msgspec.ValidationError(f"Expected `object`, got `{type(value).__name__}`")
        return fitted


def _fitted(value: Any, form: inspect.Type) -> Any:
    """A decoded value as one of `form`, or _ODD."""
    match form:
        case inspect.UnionType():
            for one in form.types:
                if (fitted := _fitted(value, one)) is not _ODD:
                    return fitted
            return _ODD
        case inspect.StructType():
            return _fitted_struct(value, form)
        case inspect.StrType():
            return value if isinstance(value, str) else _ODD
        case inspect.NoneType():
            return value if value is None else _ODD
        case inspect.IntType():
            return _integer(value)
        case inspect.ListType():
            return _fitted_list(value, form)
        case inspect.AnyType():
            return value
        case inspect.RawType():
            return msgspec.Raw(msgspec.json.encode(value))
        case inspect.BoolType():
            return _TRUTHS.get(str(value).lower(), _ODD) if isinstance(value, str | int) else _ODD
        case inspect.DictType():
            return value if isinstance(value, dict) else _ODD
        case _:
            raise TypeError(f"no field of a vendor's reply is a {type(form).__name__}")


def _fitted_struct(value: Any, form: inspect.StructType) -> Any:
    """A field that does not fit keeps its default."""
    if not isinstance(value, dict):
        return _ODD
    given: dict[str, Any] = {}
    for field in form.fields:
        name = field.encode_name
        if name in value and (fitted := _fitted(value[name], field.type)) is not _ODD:
            given[field.name] = fitted
    return form.cls(**given)


def _fitted_list(value: Any, form: inspect.ListType) -> Any:
    """An odd item of a list of structs becomes an empty one, so that the others keep their places.

    A struct in place of a list of them is its only item: some servers leave the brackets out.
    """
    empty = form.item_type.cls if isinstance(form.item_type, inspect.StructType) else None
    if empty and value and isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return _ODD
    items = [_fitted(item, form.item_type) for item in value]
    return [empty() if item is _ODD and empty else item for item in items if item is not _ODD or empty]


def _integer(value: Any) -> Any:
    """A whole number, which also comes as text, and with a fraction."""
    if isinstance(value, bool):
        return _ODD
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return round(value) if math.isfinite(value) else _ODD
    try:
        return int(value) if isinstance(value, str) and len(value) <= len(str(2**64)) else _ODD
    except ValueError:
        return _ODD


def match_end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """The end of what an always matching pattern matches from `at` on."""
    found = pattern.match(text, at)
    return found.end() if found else at


def _finite(text: str) -> float | None:
    """A number; None for NaN and Infinity, which are no JSON, and for 1e999, which is JSON and no number that anybody
    could write again."""
    value = float(text)
    return value if math.isfinite(value) else None


def _short_enough(digits: str) -> int | None:
    """An integer; None for one of more digits than Python makes a number of, by which no number is meant."""
    return int(digits) if len(digits) <= _MAX_DIGITS else None


_finite_only = json.JSONDecoder(strict=False, parse_constant=_finite, parse_float=_finite, parse_int=_short_enough)
