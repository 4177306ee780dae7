"""From what Ollama reports to the errors of the contract: `{"error": "…"}`, with a status or inside the stream.

There are no codes, so words decide: Ollama's own, then what all vendors' words mean (`words.py`; other servers speak
its API too, and its cloud passes on the words of others), then the status.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import httpx2
import msgspec
from pydantic import SecretStr

from contracts.errors import (
    FleetError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    UnsupportedFeature,
)
from workers.providers.shared.errors.body import Reported, reported
from workers.providers.shared.errors.vendor_errors import answered, cause_of, of_class, of_status
from workers.providers.shared.http.transport import describe
from workers.providers.shared.json_text import NO_JSON

PROVIDER = "ollama"

BY_HTTPX2_CLASS: dict[str, type[FleetError]] = {
    "ConnectTimeout": ProviderUnavailable,
    "PoolTimeout": ProviderUnavailable,
    "TimeoutException": ProviderTimeout,
    "UnsupportedProtocol": InvalidRequest,
    "RequestError": ProviderUnavailable,
    "StreamError": ProviderUnavailable,
    "InvalidURL": InvalidRequest,
    "Exception": ProviderUnavailable,
}
"""What the client raises; the nearest parent counts."""

_BY_WORDS: tuple[tuple[str, type[FleetError]], ...] = (
    (r"does not support (?:thinking|tools|chat|image|vision)", UnsupportedFeature),
    (r"think value .* is not supported|missing data required for image input", UnsupportedFeature),
    (r"usage limit", QuotaExhausted),
    (r"model .{0,300} not found|no such model", ModelNotFound),
    (r"server busy|maximum pending requests|overloaded", Overloaded),
)
"""In Ollama's own words (server/routes.go, server/sched.go, llm/server.go)."""
_SPEAKS = (400, 403, 404, 422, 429, 500, 503, None)
"""Statuses under which those words count; others say it themselves."""


def from_exception(exc: Exception, *, host: str) -> FleetError:
    """What a call through httpx2 raised."""
    kind = of_class(exc, BY_HTTPX2_CLASS)
    return kind(f"{PROVIDER} cannot be used at {host}: {describe(exc)}", provider=PROVIDER)


def from_response(
    response: httpx2.Response, *, model: str | None, key: SecretStr | None, prompt: Iterable[str] = ()
) -> FleetError:
    """A reply whose status is no success; its body was read."""
    try:
        body: Any = msgspec.json.decode(response.content)
    except NO_JSON:
        body = response.text
    return from_body(body, model=model, key=key, prompt=prompt, status=response.status_code, headers=response.headers)


def from_body(
    body: object,
    *,
    model: str | None,
    key: SecretStr | None,
    prompt: Iterable[str] = (),
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> FleetError:
    """What an error says. Without `status` it came inside a stream. `model`: the one that was asked for."""
    said, prompt = reported(body), tuple(prompt)
    status = status or said.status
    kind = _chosen(said, status=status, headers=headers or {}, prompt=prompt)
    if kind is ModelNotFound and model:
        said = replace(said, message=f"{said.message} (get it with `fleet models pull {model}`)")
    return answered(
        kind, said, provider=PROVIDER, names=[status], status=status, key=key, prompt=prompt, headers=headers
    )


def _chosen(
    said: Reported, *, status: int | None, headers: Mapping[str, str], prompt: Iterable[str]
) -> type[FleetError]:
    if status in _SPEAKS:
        words = said.wording.lower()
        if found := next((kind for pattern, kind in _BY_WORDS if re.search(pattern, words)), None):
            return found
    if found := cause_of(said, status=status, headers=headers, prompt=prompt):
        return found
    return ProviderUnavailable if status is None else of_status(status)
