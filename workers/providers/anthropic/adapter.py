"""Anthropic's Messages API, and every server that speaks it (`base_url`, with or without its `/v1`).

The SDK builds, authenticates and sends the request; the reply's bytes are read by us, because the SDK's own iterator
costs several times as much a token.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anthropic
import httpx2
import msgspec
from anthropic import AsyncAnthropic, AsyncStream, Omit, RequestOptions

from contracts.errors import ProviderUnavailable
from contracts.providers import Price
from contracts.requests import CompletionRequest
from contracts.rpc import CostEstimate, CountTokens, EstimateCost, ModelInfo, TokenCount
from runtime.egress import Egress
from runtime.prices import catalogue
from workers.providers.anthropic import errors as anthropic_errors
from workers.providers.anthropic import request as anthropic_request
from workers.providers.anthropic.models import MODELS
from workers.providers.anthropic.reply import MessageReader
from workers.providers.anthropic.request import PROVIDER, conversation, messages_request
from workers.providers.base import Call, Completion, StreamItem, Target, gather
from workers.providers.shared import token_estimates
from workers.providers.shared.cost_estimates import cost_estimate
from workers.providers.shared.http.client_pool import ClientPool, usable_key
from workers.providers.shared.http.reading import read_to_end
from workers.providers.shared.http.time_limits import TimeLimits, lookup_limits
from workers.providers.shared.http.transport import CONNECTION_ERRORS, Httpx2Reply, describe
from workers.providers.shared.json_text import NO_JSON

BASE_URL = "https://api.anthropic.com"
_MODELS_PER_PAGE = 1000
_MAX_PAGES = 100

T = TypeVar("T")


class _Model(msgspec.Struct):
    id: str
    max_input_tokens: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]
    has_more: bool = False
    last_id: str | None = None


class _TokenCount(msgspec.Struct):
    input_tokens: int


class Anthropic:
    """The adapter of the provider `anthropic`."""

    name = PROVIDER

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._clients = ClientPool(self._client)

    def check_supported(self, request: CompletionRequest, *, model: str) -> None:
        anthropic_request.check(request)

    async def stream_completion(self, call: Call) -> AsyncGenerator[StreamItem]:
        target = call.target
        limits = TimeLimits(target.timeouts, time_left_s=call.time_left_s, provider=PROVIDER)
        prompt = [text for message in call.request.messages for text in token_estimates.texts_of(message)]
        asked = messages_request(call.request, model=call.model)
        reader = MessageReader(
            classify=lambda body: anthropic_errors.from_body(body, provider=PROVIDER, key=target.key, prompt=prompt),
            warnings=asked.warnings,
        )
        headers = {"X-Client-Request-Id": call.request.id}
        if asked.betas:
            headers["anthropic-beta"] = ",".join(asked.betas)
        async with self._lease(target, prompt) as client:
            reply = Httpx2Reply(await limits.wait(_post(client, msgspec.json.encode(asked.body), target, headers)))
            async with aclosing(read_to_end(reply, reader, limits=limits, provider=PROVIDER)) as items:
                async for item in items:
                    yield item

    async def complete(self, call: Call) -> Completion:
        async with aclosing(self.stream_completion(call)) as stream:
            return await gather(stream)

    async def count_tokens(self, question: CountTokens, *, model: str, target: Target) -> TokenCount:
        """Counted by the vendor, for nothing; a limit of requests per minute holds for it, too."""
        limits = lookup_limits(target.timeouts, provider=PROVIDER)
        body = msgspec.json.encode({"model": model, **conversation(question.messages, question.tools)})
        prompt = [text for message in question.messages for text in token_estimates.texts_of(message)]
        async with self._lease(target, prompt) as client:
            response = await limits.wait(
                client.post(
                    "/v1/messages/count_tokens", cast_to=httpx2.Response, content=body, options=_options(target)
                )
            )
        counted = _decode(response, _TokenCount, what="a count of tokens", target=target)
        return TokenCount(input_tokens=counted.input_tokens, exact=True)

    async def check_health(self, target: Target) -> None:
        await self._models(target, limit=1)

    async def get_supported_models(self, target: Target) -> tuple[ModelInfo, ...]:
        found: list[_Model] = []
        after: str | None = None
        for _ in range(_MAX_PAGES):
            page = await self._models(target, limit=_MODELS_PER_PAGE, after=after)
            found += page.data
            if not page.has_more or page.last_id in (None, after):
                break
            after = page.last_id
        return tuple(
            ModelInfo(
                id=model.id, context_window=model.max_input_tokens or catalogue.context_window(PROVIDER, model.id)
            )
            for model in found
        )

    async def estimate_cost(
        self, question: EstimateCost, *, model: str, target: Target, prices: Mapping[str, Price]
    ) -> CostEstimate:
        counted = await self.count_tokens(question, model=model, target=target)
        return cost_estimate(question, counted, provider=PROVIDER, models=MODELS, model=model, prices=prices)

    async def aclose(self) -> None:
        await self._clients.aclose()

    async def _models(self, target: Target, *, limit: int, after: str | None = None) -> _Models:
        limits = lookup_limits(target.timeouts, provider=PROVIDER)
        options = _options(target)
        options["params"] = {"limit": limit, **({"after_id": after} if after else {})}
        async with self._lease(target) as client:
            response = await limits.wait(client.get("/v1/models", cast_to=httpx2.Response, options=options))
        return _decode(response, _Models, what="a list of models", target=target)

    @asynccontextmanager
    async def _lease(self, target: Target, prompt: Sequence[str] = ()) -> AsyncGenerator[AsyncAnthropic]:
        """The client of a target; what its SDK raises becomes an error of the contract."""
        key = usable_key(target.key.get_secret_value() if target.key else "", provider=PROVIDER)
        try:
            async with self._clients.client(_base_url(target), key) as client:
                yield client
        except anthropic.AnthropicError as exc:
            raise anthropic_errors.from_sdk(
                exc, provider=PROVIDER, key=target.key, host=_host(target), prompt=prompt
            ) from exc
        except CONNECTION_ERRORS as exc:
            raise ProviderUnavailable(
                f"{PROVIDER} broke the connection at {_host(target)}: {describe(exc)}", provider=PROVIDER
            ) from exc

    def _client(self, base_url: str, key: str) -> AsyncAnthropic:
        """The SDK would take what it is not given from the environment, and one tenant's calls from another's key."""
        client = AsyncAnthropic(
            api_key=key,
            webhook_key="",
            base_url=base_url,
            max_retries=0,
            open_telemetry=False,
            http_client=self._egress.client(),
        )
        client._custom_headers = {}  # pyright: ignore[reportPrivateUsage] - those of ANTHROPIC_CUSTOM_HEADERS
        return client


async def _post(client: AsyncAnthropic, body: bytes, target: Target, headers: Mapping[str, str]) -> httpx2.Response:
    response: Any = await client.post(
        "/v1/messages",
        cast_to=httpx2.Response,
        content=body,
        options=_options(target, headers),
        stream=True,
        stream_cls=AsyncStream[Any],
    )
    return response


def _options(target: Target, headers: Mapping[str, str] | None = None) -> RequestOptions:
    """Reads have no limit here: `TimeLimits` tells the first token, idling and the total apart."""
    connect_s = target.timeouts.connect_s
    without_key = {} if target.key else {"Authorization": Omit()}
    return {
        "headers": {**without_key, **(headers or {})},
        "timeout": httpx2.Timeout(connect=connect_s, pool=connect_s, read=None, write=None),
    }


def _decode(response: httpx2.Response, kind: type[T], *, what: str, target: Target) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except NO_JSON as exc:
        raise ProviderUnavailable(
            f"{PROVIDER} did not answer with {what} at {_host(target)}; is the base_url right?", provider=PROVIDER
        ) from exc


def _base_url(target: Target) -> str:
    """The SDK adds `/v1` itself; other vendors' base URLs end with it."""
    return (target.endpoint.base_url or BASE_URL).rstrip("/").removesuffix("/v1")


def _host(target: Target) -> str:
    return urlsplit(_base_url(target)).netloc
