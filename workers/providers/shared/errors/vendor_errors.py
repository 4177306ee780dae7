"""What all vendors' errors have in common: what a status means, when to come back, and words that must not leave."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

from pydantic import SecretStr

from contracts.errors import (
    AuthenticationFailed,
    ContextLengthExceeded,
    FleetError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
)
from contracts.wire import utc_now
from workers.providers.shared.errors import words
from workers.providers.shared.errors.body import Reported

MAX_MESSAGE_CHARS = 500
MAX_WAIT_S = 86_400.0
"""Of a number in a header: days are believed only when they are written out."""
MAX_RETRY_AFTER_S = 7 * 86_400.0

BY_STATUS: dict[int, type[FleetError]] = {
    401: AuthenticationFailed,
    402: QuotaExhausted,
    403: AuthenticationFailed,
    404: ModelNotFound,
    407: ProviderUnavailable,
    408: ProviderTimeout,
    409: ProviderUnavailable,
    413: ContextLengthExceeded,
    420: RateLimited,
    421: ProviderUnavailable,
    423: ProviderUnavailable,
    424: ProviderUnavailable,
    425: ProviderUnavailable,
    429: RateLimited,
    430: RateLimited,
    444: ProviderUnavailable,  # nginx hung up
    451: AuthenticationFailed,
    460: ProviderUnavailable,  # AWS: the load balancer's client hung up
    498: Overloaded,  # Groq: no capacity for the flex tier
    499: ProviderUnavailable,  # something between us and the vendor hung up on it; Google's CANCELLED
    503: Overloaded,
    504: ProviderTimeout,
    522: ProviderTimeout,  # Cloudflare
    524: ProviderTimeout,
    529: Overloaded,
    598: ProviderTimeout,
}
"""A status that is not listed is InvalidRequest below 500, else ProviderUnavailable (also Cloudflare's 520 to 530)."""

_KEY_LIKE = re.compile(
    r"""
      \b(?:sk|pk|rk|sess|xai)-[\w*.\-…]*           # OpenAI, Anthropic and others, also cut down to the prefix
    | \b(?:gsk|hf|nvapi|pplx|r8)[_-][\w*\-]{8,}
    | \bAIza[\w*\-]+ | \bAQ\.[\w*\-]{8,}         # Google's older keys and its newer ones
    | \beyJ[\w\-]+\.[\w.\-]+                        # a token of Entra ID
    | (?<![\w\-])[\w\-]*\*{3,}[\w\-*]*             # masked by the vendor
    | (?<=Bearer\s)\S+
    """,
    re.VERBOSE,
)
_SHOWN_RUN = 6
"""So many characters of a key in a row are a part of it; fewer happen by chance."""
_SHORTEST_SECRET = 4
_REPEATED_RUN = 64

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER = r"\d{1,9}(?:\.\d{1,12})?"
_UNIT = r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)\b"
_IN_TEXT = re.compile(
    rf"\b(?:again (?:in|after)|retry (?:after|in)|wait(?: for)?)\s+(?:about\s+)?"
    rf"((?:{_NUMBER}\s*[a-z]+[\s,]*(?:and\s+)?)+)",
    re.IGNORECASE,
)
_AMOUNT = re.compile(rf"({_NUMBER})\s*({_UNIT})", re.IGNORECASE)
_AMOUNTS = re.compile(rf"(?:{_NUMBER}\s*{_UNIT}\s*)+", re.IGNORECASE)
_SECONDS = re.compile(r"\+?[0-9]+(?:\.[0-9]+)?(?:[eE]\+?[0-9]+)?")

_UNIX_S, _UNIX_MS = 1e9, 1e12
"""Numbers from here on are no waits but points in time (September 2001), in seconds or milliseconds."""
_NEAR_S = 3600.0
"""Such a point further ahead is the mistake of a server's clock or units: limits of a minute or an hour write it."""


class Classify(Protocol):
    def __call__(self, body: object) -> FleetError:
        """The error that a vendor reports inside its reply."""
        ...


def of_status(status: int) -> type[FleetError]:
    """What an HTTP status says on its own."""
    return BY_STATUS.get(status) or (InvalidRequest if 400 <= status < 500 else ProviderUnavailable)


def of_class(exc: Exception, table: Mapping[str, type[FleetError]]) -> type[FleetError]:
    """What an SDK's exception is by a table of class names; the nearest parent counts."""
    return next(table[parent.__name__] for parent in type(exc).__mro__ if parent.__name__ in table)


def first_of(table: Mapping[str, type[FleetError]], names: Iterable[str]) -> type[FleetError] | None:
    """The error of the first name that is in the table."""
    return next((table[name] for name in names if name in table), None)


def cause_of(
    said: Reported,
    *,
    status: int | None,
    headers: Mapping[str, str],
    prompt: Iterable[str],
    told_s: float | None = None,
) -> type[FleetError] | None:
    """The kind of an error, where its names, its words or its sender tell it; None where only its status does.

    `told_s`: when to come back, as the body tells. Words that repeat the prompt are not the vendor's, and count for
    nothing.
    """
    if _refused_on_the_way(said, status=status, headers=headers):
        return ProviderUnavailable
    if repeats(said.wording, prompt):
        said = replace(said, wording="")
    comes_back_in_s = retry_after_s(headers, now=utc_now(), text=said.wording, told_s=told_s)
    return words.cause(said, status=status, comes_back_in_s=comes_back_in_s)


def _refused_on_the_way(said: Reported, *, status: int | None, headers: Mapping[str, str]) -> bool:
    """Whether the page of a firewall or of Cloudflare's check for browsers came: no vendor has seen the key.

    A page with 401 can be a proxy's that wants the key, and one with 404 a wrong base_url: those stay what they are.
    """
    return (said.is_page and status == 403) or (status is not None and "cf-mitigated" in headers)


def answered(
    kind: type[FleetError],
    said: Reported,
    *,
    provider: str,
    names: Iterable[object],
    status: int | None,
    key: SecretStr | None,
    prompt: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    told_s: float | None = None,
) -> FleetError:
    """An error that a vendor answered with, in words without a key or a prompt.

    `names`: what it is called besides its message. `told_s`: when to come back, as the body tells.
    """
    headline = " ".join(dict.fromkeys(str(name) for name in names if name))
    words = "it repeats the prompt, so its words are left out" if repeats(said.message, prompt) else said.message
    if _refused_on_the_way(said, status=status, headers=headers or {}):
        words = "an HTML page in place of the API's answer; something on the way to the vendor refused the call"
    return kind(
        redact(f"{provider} answered {headline or 'with an error'}: {words}", key=key),
        provider=provider,
        status=status,
        retry_after_s=retry_after_s(headers or {}, now=utc_now(), text=said.message, told_s=told_s)
        if kind.retryable
        else None,
    )


def redact(text: str, *, key: SecretStr | None) -> str:
    """`text` without the key, its parts, and whatever looks like a key; cut to MAX_MESSAGE_CHARS."""
    text = text[: 4 * MAX_MESSAGE_CHARS]
    if key:
        text = _without_parts_of(key.get_secret_value(), text)
    text = " ".join(_KEY_LIKE.sub("[redacted]", text).split())
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[: MAX_MESSAGE_CHARS - 1]}…"


def repeats(text: str, prompt: Iterable[str]) -> bool:
    """Whether a vendor's words hold a piece of what it was asked, as those of servers that show the input they refuse.

    A run of at least _REPEATED_RUN characters is found for certain.
    """
    half = _REPEATED_RUN // 2
    pieces = {piece for at in range(len(text) - half + 1) if (piece := text[at : at + half]).strip()}
    return any(asked[at : at + half] in pieces for asked in prompt for at in range(0, len(asked) - half + 1, half))


def _without_parts_of(secret: str, text: str) -> str:
    run = min(_SHOWN_RUN, len(secret))
    if run < _SHORTEST_SECRET:
        return text
    runs = {secret[at : at + run] for at in range(len(secret) - run + 1)}
    shown = bytearray(len(text))
    for at in range(len(text) - run + 1):
        if text[at : at + run] in runs:
            shown[at : at + run] = b"\1" * run
    parts: list[str] = []
    for at, char in enumerate(text):
        if not shown[at]:
            parts.append(char)
        elif not at or not shown[at - 1]:
            parts.append("[redacted]")
    return "".join(parts)


def retry_after_s(
    headers: Mapping[str, str], *, now: datetime, text: str = "", told_s: float | None = None
) -> float | None:
    """When the vendor wants to be asked again: its headers (milliseconds, seconds, a date or a Unix time), what its
    body tells, else its words.

    Where the headers disagree (Azure sends `retry-after: 1` with `retry-after-ms: 0`) the longer wait is kept. What
    cannot be a wait counts as if it were not there.
    """
    waits = [
        *_waits(headers.get("retry-after-ms"), now=now, unit_s=0.001),
        *_waits(headers.get("x-ms-retry-after-ms"), now=now, unit_s=0.001),
        *_waits(headers.get("retry-after"), now=now, unit_s=1.0),
    ]
    if told_s is not None:
        waits.append(told_s)
    if not waits and (in_words := _in_words(text)) is not None:
        waits = [in_words]
    return min(max(waits), MAX_RETRY_AFTER_S) if waits else None


def _waits(value: str | None, *, now: datetime, unit_s: float) -> list[float]:
    """All that one header says; a proxy joins two of them with a comma."""
    if not value:
        return []
    if (date := _date(value)) is not None:
        return [max((date - now).total_seconds(), 0.0)]
    found = (_wait(part.strip(' "'), now=now, unit_s=unit_s) for part in value.split(","))
    return [wait for wait in found if wait is not None]


def _wait(text: str, *, now: datetime, unit_s: float) -> float | None:
    if _AMOUNTS.fullmatch(spaced := _spaced(text)):
        return _sum(spaced)
    number = float(text) if _SECONDS.fullmatch(text) else math.inf
    if number < _UNIX_S:
        return min(number * unit_s, MAX_WAIT_S)
    if not math.isfinite(number):
        return None
    ahead_s = (number / 1000 if number >= _UNIX_MS else number) - now.timestamp()
    return max(ahead_s, 0.0) if ahead_s <= _NEAR_S else None


def _date(value: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _in_words(text: str) -> float | None:
    """`Please try again in 1m30.5s`, `Please retry after 26 seconds`, `wait 2 days`."""
    found = _IN_TEXT.search(text[: 4 * MAX_MESSAGE_CHARS])
    return _sum(_spaced(found.group(1))) if found else None


def _sum(text: str) -> float | None:
    amounts = _AMOUNT.findall(text)
    return sum(float(amount) * _UNITS[_unit(unit)] for amount, unit in amounts) if amounts else None


def _spaced(text: str) -> str:
    """`1m30s` as `1m 30s`, so that each unit ends at a word's end."""
    return re.sub(r"(?<=[a-z])(?=\d)", " ", text, flags=re.IGNORECASE)


def _unit(word: str) -> str:
    word = word.lower()
    return "ms" if word.startswith(("ms", "milli")) else word[0]
