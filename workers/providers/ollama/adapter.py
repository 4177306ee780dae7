"""Ollama's native API, at one's own machine, on the LAN, or in its cloud.

Its SDK hands out no bytes, reads images from files that a text happens to name, and is on another HTTP library, so
this adapter speaks HTTP itself; the SDK is the oracle of its tests. See docs/decisions/0007.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import msgspec

from contracts.errors import FleetError, ProviderUnavailable
from contracts.providers import Price
from contracts.requests import CompletionRequest
from contracts.rpc import CostEstimate, CountTokens, EstimateCost, ModelInfo, TokenCount
from runtime.egress import Egress
from workers.providers.base import Call, Completion, StreamItem, Target, gather
from workers.providers.ollama import errors as ollama_errors
from workers.providers.ollama.models import MODELS
from workers.providers.ollama.reply import OllamaReader
from workers.providers.ollama.request import NAME, chat_body, check, ignored
from workers.providers.shared import token_estimates
from workers.providers.shared.cost_estimates import cost_estimate
from workers.providers.shared.http.client_pool import ClientPool, usable_key
from workers.providers.shared.http.reading import read_to_end
from workers.providers.shared.http.time_limits import TimeLimits, lookup_limits
from workers.providers.shared.http.transport import CONNECTION_ERRORS, Httpx2Reply
from workers.providers.shared.json_text import NO_JSON

BASE_URL = "http://127.0.0.1:11434"
SHOWN_MODELS = 50
"""A server with more of them is not asked for the context window of each."""
_SHOWN_AT_ONCE = 8

T = TypeVar("T")


class _Tag(msgspec.Struct):
    name: str = ""
    model: str = ""


class _Tags(msgspec.Struct):
    models: list[_Tag] | None


class _Shown(msgspec.Struct):
    model_info: dict[str, Any] | None = None


class Ollama:
    """The adapter of the provider `ollama`."""

    name = NAME

    def __init__(self, egress: Egress) -> None:
        self._clients = ClientPool(lambda base_url, key: _Client(base_url, key, egress))

    def check_supported(self, request: CompletionRequest, *, model: str) -> None:
        check(request)

    async def stream_completion(self, call: Call) -> AsyncGenerator[StreamItem]:
        target, request = call.target, call.request
        limits = TimeLimits(target.timeouts, time_left_s=call.time_left_s, provider=NAME)
        prompt = [text for message in request.messages for text in token_estimates.texts_of(message)]
        reader = OllamaReader(
            classify=lambda body: ollama_errors.from_body(body, model=call.model, key=target.key, prompt=prompt),
            estimate_input=lambda: token_estimates.estimate_input(request),
            warnings=ignored(request),
        )
        async with self._lease(target) as client:
            reply = Httpx2Reply(await limits.wait(_post_chat(client, call, prompt)))
            async with aclosing(read_to_end(reply, reader, limits=limits, provider=NAME)) as items:
                async for item in items:
                    yield item

    async def complete(self, call: Call) -> Completion:
        async with aclosing(self.stream_completion(call)) as stream:
            return await gather(stream)

    async def count_tokens(self, question: CountTokens, *, model: str, target: Target) -> TokenCount:
        """An estimate: Ollama has no endpoint for it, and each model its own vocabulary."""
        return TokenCount(input_tokens=token_estimates.estimate_input(question), exact=False)

    async def check_health(self, target: Target) -> None:
        await self._looked_up(target, _tags)

    async def get_supported_models(self, target: Target) -> tuple[ModelInfo, ...]:
        """The models that are on the server, with the context window that each was made for."""
        return await self._looked_up(target, _models)

    async def estimate_cost(
        self, question: EstimateCost, *, model: str, target: Target, prices: Mapping[str, Price]
    ) -> CostEstimate:
        counted = await self.count_tokens(question, model=model, target=target)
        return cost_estimate(question, counted, provider=NAME, models=MODELS, model=model, prices=prices)

    async def aclose(self) -> None:
        await self._clients.aclose()

    async def _looked_up(self, target: Target, look: Callable[["_Client", Target], Awaitable[T]]) -> T:
        limits = lookup_limits(target.timeouts, provider=NAME)
        async with self._lease(target) as client:
            return await limits.wait(look(client, target))

    @asynccontextmanager
    async def _lease(self, target: Target) -> AsyncGenerator["_Client"]:
        """The client of a target; what httpx2 raises becomes an error of the contract."""
        key = usable_key(target.key.get_secret_value() if target.key else "", provider=NAME)
        base_url = base_url_of(target)
        try:
            async with self._clients.client(base_url, key) as client:
                yield client
        except CONNECTION_ERRORS as exc:
            raise ollama_errors.from_exception(exc, host=urlsplit(base_url).netloc) from exc


class _Client:
    """The connections to one server."""

    def __init__(self, base_url: str, key: str, egress: Egress) -> None:
        self._http = egress.client(base_url=base_url, headers={"Authorization": f"Bearer {key}"} if key else {})

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        """A reply whose body is still arriving, whatever its status."""
        return await self._http.send(request, stream=True)

    def request(
        self, method: str, path: str, *, connect_s: float, body: bytes | None = None, request_id: str | None = None
    ) -> httpx2.Request:
        """Reads have no limit here: `TimeLimits` tells the first token, idling and the total apart."""
        headers = {"Content-Type": "application/json"} if body else {}
        named = {"X-Request-Id": request_id} if request_id else {}
        timeout = httpx2.Timeout(connect=connect_s, pool=connect_s, read=None, write=None)
        return self._http.build_request(method, path, content=body, headers={**headers, **named}, timeout=timeout)

    async def close(self) -> None:
        await self._http.aclose()


def base_url_of(target: Target) -> str:
    """The server; an address that names the API on it is one as well."""
    return (target.endpoint.base_url or BASE_URL).rstrip("/").removesuffix("/api")


async def _post_chat(client: _Client, call: Call, prompt: Sequence[str]) -> httpx2.Response:
    request = client.request(
        "POST",
        "/api/chat",
        connect_s=call.target.timeouts.connect_s,
        body=msgspec.json.encode(chat_body(call.request, model=call.model)),
        request_id=call.request.id,
    )
    return await _successful(await client.send(request), call.target, model=call.model, prompt=prompt)


async def _successful(
    response: httpx2.Response, target: Target, *, model: str | None = None, prompt: Sequence[str] = ()
) -> httpx2.Response:
    """Raises what the server reports when it is no success."""
    if response.is_success:
        return response
    try:
        await response.aread()
    finally:
        await response.aclose()
    raise ollama_errors.from_response(response, model=model, key=target.key, prompt=prompt)


async def _tags(client: _Client, target: Target) -> list[str]:
    found = await _look_up(
        client.request("GET", "/api/tags", connect_s=target.timeouts.connect_s), client, target, _Tags
    )
    return [name for tag in found.models or () if (name := tag.model or tag.name)]


async def _models(client: _Client, target: Target) -> tuple[ModelInfo, ...]:
    names = await _tags(client, target)
    if len(names) > SHOWN_MODELS:
        return tuple(ModelInfo(id=name) for name in names)
    slots = asyncio.Semaphore(_SHOWN_AT_ONCE)

    async def shown(name: str) -> ModelInfo:
        async with slots:
            return ModelInfo(id=name, context_window=await _context_window(client, target, name))

    return tuple(await asyncio.gather(*map(shown, names)))


async def _context_window(client: _Client, target: Target, model: str) -> int | None:
    """None: the server does not say, or the model is gone meanwhile."""
    body = msgspec.json.encode({"model": model})
    request = client.request("POST", "/api/show", connect_s=target.timeouts.connect_s, body=body)
    try:
        shown = await _look_up(request, client, target, _Shown)
    except FleetError:
        return None
    windows = [value for name, value in (shown.model_info or {}).items() if name.endswith(".context_length")]
    return windows[0] if windows and isinstance(windows[0], int) else None


async def _look_up(request: httpx2.Request, client: _Client, target: Target, form: type[T]) -> T:
    response = await _successful(await client.send(request), target)
    try:
        return msgspec.json.decode(await response.aread(), type=form)
    except NO_JSON as exc:
        raise ProviderUnavailable(
            f"{NAME} did not answer {request.url.path} as Ollama does at {request.url.host}; is the base_url right?",
            provider=NAME,
        ) from exc
    finally:
        await response.aclose()
