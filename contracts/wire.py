"""The two kinds of wire model, and the tokens that may stand in a subject."""

import math
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

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


def utc_now() -> datetime:
    return datetime.now(UTC)


def optional(**constraints: Any) -> Any:
    """A field that is left out of the JSON when it has no value."""
    return Field(default=None, exclude_if=lambda value: value is None, **constraints)


class WireModel(BaseModel):
    """What we write: frozen, and tolerant of fields that a later version adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def to_json(self) -> bytes:
        return self.__pydantic_serializer__.to_json(self)


class StrictWireModel(WireModel):
    """What others write for us: unknown fields are refused by name instead of being silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
