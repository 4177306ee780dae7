"""JSON that somebody else wrote: read as far as it can be read.

Servers that speak a vendor's format get single fields wrong: a number where a text belongs, a list in place of an
object, half a surrogate pair, a literal `NaN`. What is odd is left out alone; everything beside it counts.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from contracts.wire import all_without_halves

NO_JSON = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What decoding raises for bytes that are no JSON of the wanted form, are no text, or are nested too deeply."""

T = TypeVar("T", bound=msgspec.Struct)
_Fit = Callable[[Any], Any]

# The possessive quantifiers keep a hostile text from being read more than once. The outer one of _TO_A_BRACKET is not
# possessive, because Python 3.11.2 (Debian 12) then goes on from the middle of a repetition that did not match.
_BETWEEN_VALUES = re.compile(r"(?:\s|data:)*+")
"""What parts two values, also where a line end between two events is missing."""
_TO_A_BRACKET = re.compile(r'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*', re.DOTALL)
"""Everything before a bracket that stands in no text; less, when a text does not end."""
_TO_A_QUOTE = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""Everything of a text before its end."""
_MAX_DIGITS = 4300
MOST_IN_A_ROW = 100_000
"""Texts that are read of one event or line: as many as the longest reply has chunks. A server can send millions."""
_ODD: Any = object()
"""A value that does not fit its field."""

_decode_strictly = msgspec.json.Decoder().decode
_lenient = json.JSONDecoder(strict=False)


def decode_any(data: bytes | msgspec.Raw) -> Any:
    """The value of a JSON text. Raises one of NO_JSON.

    A text that only a strict reader refuses is read all the same: bytes that are no UTF-8 and halves of surrogate
    pairs become replacement characters, control characters in strings stay, and what is no number that anybody can
    write again (NaN, Infinity, 1e999, thousands of digits) becomes None.
    """
    try:
        return _decode_strictly(data)
    except (msgspec.DecodeError, UnicodeError) as strictly:
        try:
            text = bytes(data).decode(errors="replace")
            value = json.loads(
                text, strict=False, parse_constant=_no_number, parse_float=_finite, parse_int=_short_enough
            )
        except ValueError:
            raise strictly from None
        return all_without_halves(value)


def in_a_row(data: bytes) -> Iterator[bytes]:
    """The JSON objects that stand one behind the other in `data`, at most MOST_IN_A_ROW; what is no whole object is the
    last item."""
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
        self._kind = kind
        self._decode = msgspec.json.Decoder(kind, strict=False).decode
        self._fit: _Fit | None = None

    def __call__(self, data: bytes | msgspec.Raw) -> T:
        """Raises one of NO_JSON; msgspec.ValidationError for JSON that is no object."""
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeError):
            value = decode_any(data)
        if self._fit is None:
            self._fit = _fitting(inspect.type_info(self._kind))
        fitted = self._fit(value)
        if fitted is _ODD:
            raise msgspec.ValidationError(f"Expected `object`, got `{type(value).__name__}`")
        return fitted


def _fitting(kind: inspect.Type) -> _Fit:
    """The function that turns a decoded value into one of `kind`, or into _ODD."""
    match kind:
        case inspect.StructType():
            return _fitting_struct(kind)
        case inspect.UnionType():
            return _first_of([_fitting(one) for one in kind.types])
        case inspect.ListType():
            return _fitting_list(kind)
        case inspect.IntType():
            return _integer
        case inspect.AnyType():
            return lambda value: value
        case inspect.RawType():
            return lambda value: msgspec.Raw(msgspec.json.encode(value))
        case inspect.BoolType():
            return _boolean
        case inspect.StrType():
            return _instance_of(str)
        case inspect.DictType():
            return _instance_of(dict)
        case inspect.NoneType():
            return _instance_of(type(None))
        case _:
            raise TypeError(f"no field of a vendor's reply is a {type(kind).__name__}")


def _fitting_struct(kind: inspect.StructType) -> _Fit:
    fields = [(field.name, field.encode_name, _fitting(field.type)) for field in kind.fields]

    def fit(value: Any) -> Any:
        if not isinstance(value, dict):
            return _ODD
        given = ((name, to_fit(value[key])) for name, key, to_fit in fields if key in value)
        return kind.cls(**{name: fitted for name, fitted in given if fitted is not _ODD})

    return fit


def _fitting_list(kind: inspect.ListType) -> _Fit:
    """An odd item of a list of structs becomes an empty one, so that the others keep their places.

    A struct in place of a list of them is its only item: some servers leave the brackets out.
    """
    to_fit = _fitting(kind.item_type)
    empty = kind.item_type.cls if isinstance(kind.item_type, inspect.StructType) else None

    def fit(value: Any) -> Any:
        if empty and value and isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            return _ODD
        items = [to_fit(item) for item in value]
        return [empty() if item is _ODD and empty else item for item in items if item is not _ODD or empty]

    return fit


def _first_of(alternatives: list[_Fit]) -> _Fit:
    def fit(value: Any) -> Any:
        return next((fitted for one in alternatives if (fitted := one(value)) is not _ODD), _ODD)

    return fit


def _instance_of(kind: type) -> _Fit:
    def fit(value: Any) -> Any:
        return value if isinstance(value, kind) else _ODD

    return fit


def _boolean(value: Any) -> Any:
    """A truth value, which also comes as text and as 0 or 1: msgspec takes those where nothing beside it is odd."""
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), _ODD)
    return bool(value) if isinstance(value, int) and value in (0, 1) else _ODD


def _integer(value: Any) -> Any:
    """A whole number, which also comes as text, and with a fraction."""
    if isinstance(value, bool):
        return _ODD
    if isinstance(value, int | float):
        return round(value) if math.isfinite(value) else _ODD
    try:
        return int(value) if isinstance(value, str) and len(value) <= len(str(2**64)) else _ODD
    except ValueError:
        return _ODD


def match_end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """The end of what an always matching pattern matches from `at` on."""
    found = pattern.match(text, at)
    return found.end() if found else at


def _no_number(_: str) -> None:
    """Takes NaN and Infinity, which are no JSON."""
    return


def _finite(digits: str) -> float | None:
    """A number; None for 1e999, which is JSON and no number that could be written again."""
    value = float(digits)
    return value if math.isfinite(value) else None


def _short_enough(digits: str) -> int | None:
    """An integer; None for one of more digits than Python makes a number of, by which no number is meant."""
    return int(digits) if len(digits) <= _MAX_DIGITS else None
