"""From a message to a usage record, or to the reason why it is none."""

import json
from typing import Any

from pydantic import ValidationError

from contracts import subjects
from contracts.usage import UsageRecord
from contracts.wire import errors_in_one_line

_SUBJECT = subjects.USAGE.removesuffix(".>")
_NUL_ESCAPE = b"\\u0000"
_REPLACEMENT = "\ufffd"


class Malformed(Exception):
    """A message that cannot be booked; sending it again changes nothing. The text repeats none of its values."""


def parse(subject: str, payload: bytes) -> UsageRecord:
    """The record in a message on `llm.v1.usage.<provider>.<tenant>`. Raises Malformed."""
    try:
        record = UsageRecord.model_validate_json(payload)
        if _NUL_ESCAPE in payload:
            # PostgreSQL's text holds no NUL, and a bill must not be lost over one.
            record = UsageRecord.model_validate(_without_nul(json.loads(payload)))
    except (ValidationError, RecursionError) as exc:
        raise Malformed("nested too deep" if isinstance(exc, RecursionError) else errors_in_one_line(exc)) from None
    if subject != f"{_SUBJECT}.{record.provider}.{record.tenant}":
        raise Malformed("provider and tenant differ from the subject's")
    return record


def _without_nul(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", _REPLACEMENT)
        case list():
            return [_without_nul(item) for item in value]
        case dict():
            return {_without_nul(key): _without_nul(item) for key, item in value.items()}
        case _:
            return value
