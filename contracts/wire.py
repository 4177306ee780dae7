"""The two kinds of wire model, the tokens that may stand in a subject, and errors as one line."""

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
)
from pydantic_core import PydanticSerializationError

T = TypeVar("T")

TOKEN_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"  # noqa: S105 - a subject token
MODEL_PATTERN = r"^[^\x00-\x20\x7f]{1,256}$"

Token = Annotated[str, StringConstraints(pattern=TOKEN_PATTERN)]
"""One token of a NATS subject: tenants, agents, request ids."""

ModelName = Annotated[str, StringConstraints(pattern=MODEL_PATTERN)]
"""`provider/model`, a bare model, a bare provider, or a tenant's alias; no blanks, no control characters."""


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999 in UTC") from None


UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc)]


def _finite(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    pending: list[JsonValue] = [value]
    while pending:
        match pending.pop():
            case dict() as members:
                pending.extend(members.values())
            case list() as items:
                pending.extend(items)
            case float() as number if not math.isfinite(number):
                raise ValueError("numbers must be finite")
            case _:
                pass
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_finite)]
"""Any JSON object; NaN and Infinity, which pydantic's parser takes, are no JSON."""


Items = Annotated[tuple[T, ...], Field(fail_fast=True)]
"""A list that is checked up to its first bad item: a request has room for millions, and each would be told."""


def without_halves(text: str) -> str:
    """`text` with U+FFFD, the replacement character, in place of lone halves of surrogate pairs.

    UTF-16 writes a character beyond U+FFFF as a pair; a text that was cut within one ends in what UTF-8 cannot write.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def all_without_halves(value: Any) -> Any:
    """`value` with each text in it, names of members too, as `without_halves` makes it; mappings become dicts, and
    tuples lists."""
    match value:
        case str():
            return value if value.isascii() else without_halves(value)
        case Mapping():
            return {all_without_halves(name): all_without_halves(member) for name, member in value.items()}
        case list() | tuple():
            return [all_without_halves(item) for item in value]
        case _:
            return value


_PROBLEMS_NAMED = 5
_PROBLEMS_BUILT = 1000
_NAME_CHARS, _PATH_CHARS, _MESSAGE_CHARS = 64, 200, 300


def errors_in_one_line(exc: ValidationError, *, name: Callable[[str], str] = str, missing: str | None = None) -> str:
    """Which fields are wrong and why, on one line and without their values.

    Up to five are named and the others counted. `name` makes a field's name of its path, as `messages.0.role`;
    `missing` is said of a field that is not there, in place of pydantic's words.
    """
    count = exc.error_count()
    # pydantic builds all problems or none, and a text has room for a million.
    if count > _PROBLEMS_BUILT:
        return f"it has {count} problems, too many to name them"
    named: list[str] = []
    for error in exc.errors(include_url=False, include_input=False, include_context=False)[:_PROBLEMS_NAMED]:
        # What is in a path is the sender's: the names of members that are unknown.
        path = name(".".join(str(part)[:_NAME_CHARS] for part in error["loc"])[:_PATH_CHARS])
        why = missing if missing and error["type"] == "missing" else error["msg"].removeprefix("Value error, ")
        named.append(f"{path}: {why[:_MESSAGE_CHARS]}" if path else why[:_MESSAGE_CHARS])
    more = f"; and {count - _PROBLEMS_NAMED} more" if count > _PROBLEMS_NAMED else ""
    return " ".join(("; ".join(named) + more).split())


def reason(exc: BaseException) -> str:
    """What went wrong: the exception's class and what it says, if it says anything."""
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__


def utc_now() -> datetime:
    return datetime.now(UTC)


def optional(**constraints: Any) -> Any:
    """A field that is left out of the JSON when it has no value."""
    return Field(default=None, exclude_if=lambda value: value is None, **constraints)


class WireModel(BaseModel):
    """What we write: frozen, and tolerant of fields that a later version adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def to_json(self) -> bytes:
        """With U+FFFD in place of halves of surrogate pairs."""
        try:
            return self.__pydantic_serializer__.to_json(self)
        except PydanticSerializationError:
            written = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))
            return without_halves(written).encode()


class StrictWireModel(WireModel):
    """What others write for us: unknown fields are refused by name instead of being silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
