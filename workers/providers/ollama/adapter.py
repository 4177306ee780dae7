"""Ollama's native API, at one's own machine, on the LAN, or in its cloud.

Its SDK hands out no bytes, reads images from files that a text happens to name, and is on another HTTP library, so
this adapter speaks HTTP itself; the SDK is the oracle of its tests. See docs/decisions/0007.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2
import msgspec

from contracts.errors import FleetError
from contracts.providers import Timeouts
from contracts.requests import CompletionRequest
from contracts.rpc import CountTokens, ModelInfo, TokenCount
from runtime.egress import Egress
from workers.providers.base import Call, Target
from workers.providers.ollama.errors import ERRORS
from workers.providers.ollama.models import MODELS
from workers.providers.ollama.reply import OllamaReader
from workers.providers.ollama.request import NAME, chat_body, check, ignored
from workers.providers.shared.errors.vendor_errors import Classify
from workers.providers.shared.http.adapter import HttpAdapter, VendorRequest, json_headers
from workers.providers.shared.http.paths import url_behind
from workers.providers.shared.http.time_limits import connect_timeout, lookup_limits
from workers.providers.shared.http.transport import CONNECTION_ERRORS
from workers.providers.shared.token_estimates import estimate_input

BASE_URL = "http://127.0.0.1:11434"
SHOWN_MODELS = 50
"""A server with more of them is not asked for the context window of each."""
_SHOWN_AT_ONCE = 8


class _Tag(msgspec.Struct):
    name: str = ""
    model: str = ""


class _Tags(msgspec.Struct):
    models: list[_Tag] | None


class _Shown(msgspec.Struct):
    model_info: dict[str, Any] | None = None


class _Client:
    """The connections to one server."""

    def __init__(self, base_url: str, key: str, tenant: str, *, egress: Egress) -> None:
        self._http = egress.client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            tenant=tenant,
        )

    async def fetch(self, method: str, path: str, timeouts: Timeouts, *, body: bytes | None = None) -> bytes:
        """The whole body of a reply. Raises httpx2.HTTPStatusError for one without success."""
        headers = {"Content-Type": "application/json"} if body else {}
        response = await self._http.request(
            method, path, content=body, headers=headers, timeout=connect_timeout(timeouts)
        )
        return response.raise_for_status().content

    async def close(self) -> None:
        await self._http.aclose()


class Ollama(HttpAdapter[_Client]):
    """The adapter of the provider `ollama`."""

    name = NAME
    models = MODELS
    errors = ERRORS

    def check_supported(self, request: CompletionRequest, *, model: str) -> None:
        check(request)

    async def count_tokens(self, question: CountTokens, *, model: str, target: Target) -> TokenCount:
        """An estimate: Ollama has no endpoint for it, and each model its own vocabulary."""
        return TokenCount(input_tokens=estimate_input(question), exact=False)

    async def check_health(self, target: Target) -> None:
        limits = lookup_limits(target.timeouts, provider=NAME)
        async with self._lease(target) as client:
            await limits.wait(self._names(client, target))

    async def _listed_models(self, target: Target) -> tuple[ModelInfo, ...]:
        """The models that are on the server, with the context window that each was made for."""
        limits = lookup_limits(target.timeouts, provider=NAME)
        slots = asyncio.Semaphore(_SHOWN_AT_ONCE)
        async with self._lease(target) as client:

            async def shown(name: str) -> ModelInfo:
                async with slots:
                    return ModelInfo(id=name, context_window=await self._context_window(client, target, name))

            names = await limits.wait(self._names(client, target))
            if len(names) > SHOWN_MODELS:
                return tuple(ModelInfo(id=name) for name in names)
            return tuple(await limits.wait(asyncio.gather(*map(shown, names))))

    def _client(self, base_url: str, key: str, tenant: str) -> _Client:
        return _Client(base_url, key, tenant, egress=self._egress)

    def _base_url(self, target: Target, *, model: str) -> str:
        """The server's address. One with the API's path behind it (`/api`) means the same server."""
        return (target.endpoint.base_url or BASE_URL).rstrip("/").removesuffix("/api")

    def _request(self, call: Call) -> VendorRequest:
        headers = json_headers(call)
        headers["X-Request-Id"] = headers.pop("X-Client-Request-Id")
        if key := self._usable_key(call.target):
            headers["Authorization"] = f"Bearer {key}"
        url = url_behind(self._base_url(call.target, model=call.model), "api/chat")
        body = msgspec.json.encode(chat_body(call.request, model=call.model))
        return VendorRequest(url, headers, body, ignored(call.request))

    def _raised(self) -> tuple[type[Exception], ...]:
        return httpx2.HTTPStatusError, *CONNECTION_ERRORS

    def _reader(
        self, call: Call, sent: VendorRequest, *, headers: Mapping[str, str], classify: Classify
    ) -> OllamaReader:
        return OllamaReader(
            classify=classify, estimate_input=lambda: estimate_input(call.request), warnings=sent.warnings
        )

    async def _names(self, client: _Client, target: Target) -> list[str]:
        content = await client.fetch("GET", "/api/tags", target.timeouts)
        found = self._decode(content, _Tags, what="with a list of models", target=target)
        return [name for tag in found.models or () if (name := tag.model or tag.name)]

    async def _context_window(self, client: _Client, target: Target, model: str) -> int | None:
        """The context window of a model; None when the server does not say it, or the model is gone meanwhile."""
        body = msgspec.json.encode({"model": model})
        try:
            content = await client.fetch("POST", "/api/show", target.timeouts, body=body)
            shown = self._decode(content, _Shown, what="with a model's description", target=target)
        except (httpx2.HTTPStatusError, FleetError):
            return None
        windows = [value for name, value in (shown.model_info or {}).items() if name.endswith(".context_length")]
        return windows[0] if windows and isinstance(windows[0], int) else None


ADAPTER = Ollama
