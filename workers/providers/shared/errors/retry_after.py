"""When a vendor wants to be asked again: from its headers, from the body of its error, else from its words."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_WAIT_S = 86_400.0
"""The most that a bare number in a header counts for: days are believed only when they are written out."""
MAX_RETRY_AFTER_S = 7 * 86_400.0

_HEADERS = (("retry-after-ms", 0.001), ("x-ms-retry-after-ms", 0.001), ("retry-after", 1.0))
"""With the seconds that a bare number in them counts."""
_VALUE_CHARS = 256
"""Of a header; what is longer names no wait."""
_SEARCHED_CHARS = 2_000
"""Characters of a message in which a wait is looked for; a server may answer with megabytes."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER = r"\d{1,9}(?:\.\d{1,12})?"
_UNIT = r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![^\W\d])"
"""A unit ends before a digit, too: `1m30s`."""
_IN_TEXT = re.compile(
    rf"\b(?:again (?:in|after)|retry (?:after|in)|wait(?: for)?)\s+(?:about\s+)?"
    rf"((?:{_NUMBER}\s*[a-z]+[\s,]*(?:and\s+)?)+)",
    re.IGNORECASE,
)
"""`Please try again in 1m30.5s`, `Please retry after 26 seconds`, `wait 2 days`."""
_AMOUNT = re.compile(rf"({_NUMBER})\s*({_UNIT})", re.IGNORECASE)
_AMOUNTS = re.compile(rf"(?:{_NUMBER}\s*{_UNIT}\s*)+", re.IGNORECASE)
_SECONDS = re.compile(r"\+?[0-9]+(?:\.[0-9]+)?(?:[eE]\+?[0-9]+)?")

_UNIX_S, _UNIX_MS = 1e9, 1e12
"""Numbers from here on are no waits but points in time (September 2001), in seconds or milliseconds."""
_NEAR_S = 3600.0
"""Such a point further ahead is the mistake of a server's clock or units: limits of a minute or an hour write it."""


def retry_after_s(
    headers: Mapping[str, str], *, now: datetime, text: str = "", told_s: float | None = None
) -> float | None:
    """Seconds until the vendor wants to be asked again; None where it does not say.

    Headers hold milliseconds, seconds, a date or a Unix time. `told_s`: what the error's body tells. `text`: its
    message, which counts when nothing else says it. Where the headers disagree (Azure sends `retry-after: 1` with
    `retry-after-ms: 0`) the longer wait is kept. What cannot be a wait counts as if it were not there.
    """
    waits = [wait for name, unit_s in _HEADERS for wait in _waits(headers.get(name) or "", now=now, unit_s=unit_s)]
    if told_s is not None:
        waits.append(told_s)
    if not waits and (found := _IN_TEXT.search(text[:_SEARCHED_CHARS])) and (amounts := _amounts_s(found[1])):
        waits = [sum(amounts)]
    return min(max(waits), MAX_RETRY_AFTER_S) if waits else None


def _waits(value: str, *, now: datetime, unit_s: float) -> list[float]:
    """All waits in the value of one header, in seconds: of a date, else of each part between the commas with which a
    proxy joins two headers."""
    date: datetime | None = None
    value = value[:_VALUE_CHARS]
    with suppress(ValueError, OverflowError):
        date = parsedate_to_datetime(value)
    if date is not None:
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return [max((date - now).total_seconds(), 0.0)]
    waits: list[float] = []
    for text in (part.strip(' "') for part in value.split(",")):
        number = float(text) if _SECONDS.fullmatch(text) else math.inf
        if _AMOUNTS.fullmatch(text):
            waits.append(sum(_amounts_s(text)))
        elif number < _UNIX_S:
            waits.append(min(number * unit_s, MAX_WAIT_S))
        elif math.isfinite(number):
            ahead_s = (number / 1000 if number >= _UNIX_MS else number) - now.timestamp()
            if ahead_s <= _NEAR_S:
                waits.append(max(ahead_s, 0.0))
    return waits


def _amounts_s(text: str) -> list[float]:
    """The seconds of each amount with a unit in `text`."""
    amounts = [(float(amount), unit.lower()) for amount, unit in _AMOUNT.findall(text)]
    return [amount * _UNITS["ms" if unit.startswith(("ms", "milli")) else unit[0]] for amount, unit in amounts]
