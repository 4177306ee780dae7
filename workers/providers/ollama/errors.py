"""What Ollama's errors mean: `{"error": "…"}`, with a status or inside the stream.

There are no codes, so words decide, Ollama's own before those of all vendors: other servers speak its API too, and its
cloud passes on the words of others.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import httpx2
import msgspec

from contracts.errors import (
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    UnsupportedFeature,
)
from workers.providers.base import NotReached
from workers.providers.shared.errors.answer import text_of
from workers.providers.shared.errors.body import Reported, reported
from workers.providers.shared.errors.vendor_errors import ErrorAnswer, Kind, VendorErrors
from workers.providers.shared.json_text import NO_JSON

BY_HTTPX2_CLASS: dict[str, Kind] = {
    "ConnectTimeout": NotReached,
    "PoolTimeout": NotReached,
    "TimeoutException": ProviderTimeout,
    "UnsupportedProtocol": InvalidRequest,
    "RequestError": NotReached,
    "StreamError": ProviderUnavailable,
    "InvalidURL": InvalidRequest,
    "Exception": ProviderUnavailable,
}
"""What the HTTP client raises. An error with a status goes by what the server answered."""

_BY_WORDS: tuple[tuple[str, Kind], ...] = (
    (r"does not support (?:thinking|tools|chat|image|vision)", UnsupportedFeature),
    (r"think value .* is not supported|missing data required for image input", UnsupportedFeature),
    (r"usage limit", QuotaExhausted),
    (r"model .{0,300} not found|no such model", ModelNotFound),
    (r"server busy|maximum pending requests|overloaded", Overloaded),
)
"""In Ollama's own words (server/routes.go, server/sched.go, llm/server.go)."""
_SPEAKS = (400, 403, 404, 422, 429, 500, 503, None)
"""Statuses under which those words count; others say it themselves."""


def _answer_in(exc: Exception) -> ErrorAnswer | None:
    """What the server answered. Its body is there already: the client reads it before it raises."""
    if not isinstance(exc, httpx2.HTTPStatusError):
        return None
    response = exc.response
    return ErrorAnswer(_decoded(response.content, response.headers), response.status_code, response.headers)


def _decoded(body: bytes, headers: Mapping[str, str]) -> object:
    try:
        return msgspec.json.decode(body)
    except NO_JSON:
        return text_of(body, headers)


def _read(body: object, _headers: Mapping[str, str]) -> Reported:
    """Ollama never says when to come back; what another server behind its API writes about that is left alone."""
    return replace(reported(body), retry_after_s=None)


def _certain(said: Reported, status: int | None) -> Kind | None:
    if status not in _SPEAKS:
        return None
    words = said.wording.lower()
    return next((kind for pattern, kind in _BY_WORDS if re.search(pattern, words)), None)


ERRORS = VendorErrors(
    by_class=BY_HTTPX2_CLASS,
    answer_in=_answer_in,
    decoded=_decoded,
    read=_read,
    certain=_certain,
    shows_names=False,
    advice={ModelNotFound: " (get it with `fleet models pull {model}`)"},
)
