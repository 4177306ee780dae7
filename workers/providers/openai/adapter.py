"""OpenAI and every server that speaks its chat completions API (`base_url`).

The SDK builds, authenticates and sends the request; the reply's bytes are read by us, because the SDK's own iterator
costs five times as much a token.

The output limit: `max_completion_tokens` for OpenAI's own hosts, and for OpenAI's model names behind any other URL
(gateways pass them on, and reasoning models refuse `max_tokens`); `max_tokens` for everything else, which is the only
name that all compatible servers know. `provider_options.openai` can hold the other one. What else differs between the
servers of the format is in `openai_servers`.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import openai
from openai import AsyncOpenAI, AsyncStream, Omit, RequestOptions
from pydantic import SecretStr

from contracts.errors import ProviderUnavailable
from contracts.providers import Price
from contracts.requests import CompletionRequest
from contracts.rpc import CostEstimate, CountTokens, EstimateCost, ModelInfo, TokenCount
from runtime.egress import Egress
from runtime.prices import catalogue
from workers.providers.base import Call, Completion, Finish, StreamItem, Target, gather
from workers.providers.openai import errors as openai_errors
from workers.providers.openai import request as openai_request
from workers.providers.openai import tokens as openai_tokens
from workers.providers.openai.models import MODELS
from workers.providers.openai.reply import ChatReader
from workers.providers.openai.request import REASONING_FIELD, request_body
from workers.providers.openai.servers import OPENAI_MODEL, is_openais, server_at
from workers.providers.shared import token_estimates
from workers.providers.shared.cost_estimates import cost_estimate
from workers.providers.shared.http.client_pool import ClientPool, usable_key
from workers.providers.shared.http.reading import read_to_end
from workers.providers.shared.http.time_limits import TimeLimits, lookup_limits
from workers.providers.shared.http.transport import CONNECTION_ERRORS, Httpx2Reply, describe
from workers.providers.shared.json_text import NO_JSON
from workers.providers.shared.requests.options import overlaid

BASE_URL = "https://api.openai.com/v1"


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model] | None = None
    model_name: str | None = None
    """Azure's inference API tells about its one model in place of a list."""

    def __post_init__(self) -> None:
        if self.data is None:
            if self.model_name is None:
                raise ValueError("no list of models")
            self.data = [_Model(self.model_name)]


class OpenAI:
    """The adapter of the provider `openai`. What is another's about the same API is in methods of its own."""

    name = "openai"

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._clients = ClientPool(self._client)

    def check_supported(self, request: CompletionRequest, *, model: str) -> None:
        """The request's vocabulary is OpenAI's own; what a single model lacks, only the vendor knows.

        Raises InvalidRequest.
        """
        openai_request.check(request, provider=self.name)

    async def stream_completion(self, call: Call) -> AsyncGenerator[StreamItem]:
        target = call.target
        limits = TimeLimits(target.timeouts, time_left_s=call.time_left_s, provider=self.name)
        prompt = [text for message in call.request.messages for text in token_estimates.texts_of(message)]
        ignored = openai_request.ignored(call.request, provider=self.name)
        reader = ChatReader(
            provider=self.name,
            classify=lambda body: openai_errors.from_body(
                body, provider=self.name, key=self._secret(target), prompt=prompt
            ),
        )
        async with self._lease(target, prompt) as client:
            reply = Httpx2Reply(await limits.wait(self._ask(client, call)))
            async with aclosing(read_to_end(reply, reader, limits=limits, provider=self.name)) as items:
                async for item in items:
                    is_end = isinstance(item, Finish)
                    yield replace(item, warnings=(*item.warnings, *ignored)) if is_end and ignored else item

    async def complete(self, call: Call) -> Completion:
        async with aclosing(self.stream_completion(call)) as stream:
            return await gather(stream)

    async def count_tokens(self, question: CountTokens, *, model: str, target: Target) -> TokenCount:
        return await asyncio.to_thread(openai_tokens.count, question, model=model)

    def prepare(self) -> None:
        """The first count is not to wait for the vocabulary."""
        openai_tokens.load()

    async def check_health(self, target: Target) -> None:
        await self._models(target)

    async def get_supported_models(self, target: Target) -> tuple[ModelInfo, ...]:
        return tuple(
            ModelInfo(id=model.id, context_window=catalogue.context_window(self.name, model.id))
            for model in await self._models(target)
        )

    async def estimate_cost(
        self, question: EstimateCost, *, model: str, target: Target, prices: Mapping[str, Price]
    ) -> CostEstimate:
        counted = await self.count_tokens(question, model=model, target=target)
        return cost_estimate(question, counted, provider=self.name, models=MODELS, model=model, prices=prices)

    async def aclose(self) -> None:
        await self._clients.aclose()

    def _base_url(self, target: Target) -> str:
        return target.endpoint.base_url or BASE_URL

    def _secret(self, target: Target) -> SecretStr | None:
        """What the vendor knows us by, and no text may show."""
        return target.key

    def _client_key(self, target: Target) -> str:
        return target.key.get_secret_value() if target.key else ""

    def _body(self, call: Call) -> bytes:
        further = call.request.provider_options.get(self.name, {})
        return encode(
            request_body(
                call.request,
                model=call.model,
                max_tokens_field=given_limit(further) or max_tokens_field(call),
                stream_options={"include_usage": True, "include_obfuscation": False},
                server=server_at(_host_of(call.target), model=call.model),
            ),
            further,
        )

    async def _ask(self, client: AsyncOpenAI, call: Call) -> httpx2.Response:
        return await post(client, "/chat/completions", self._body(call), self._options(call.target, call.request))

    async def _list(self, client: AsyncOpenAI, target: Target) -> httpx2.Response:
        return await get(client, "/models", self._options(target))

    def _options(self, target: Target, request: CompletionRequest | None = None) -> RequestOptions:
        return options(target, {} if target.key else {"Authorization": Omit()}, request)

    async def _models(self, target: Target) -> list[_Model]:
        limits = lookup_limits(target.timeouts, provider=self.name)
        async with self._lease(target) as client:
            response = await limits.wait(self._list(client, target))
        try:
            return msgspec.json.decode(response.content, type=_Models).data or []
        except NO_JSON as exc:
            raise ProviderUnavailable(
                f"{self.name} did not answer with a list of models at {self._host(target)}; is the base_url right?",
                provider=self.name,
            ) from exc

    @asynccontextmanager
    async def _lease(self, target: Target, prompt: Sequence[str] = ()) -> AsyncGenerator[AsyncOpenAI]:
        """The client of a target; what its SDK raises becomes an error of the contract."""
        key = usable_key(self._client_key(target), provider=self.name)
        try:
            async with self._clients.client(self._base_url(target), key) as client:
                yield client
        except openai.OpenAIError as exc:
            raise openai_errors.from_sdk(
                exc, provider=self.name, key=self._secret(target), host=self._host(target), prompt=prompt
            ) from exc
        except CONNECTION_ERRORS as exc:
            raise ProviderUnavailable(
                f"{self.name} broke the connection at {self._host(target)}: {describe(exc)}", provider=self.name
            ) from exc

    def _host(self, target: Target) -> str:
        return urlsplit(self._base_url(target)).netloc

    def _client(self, base_url: str, key: str) -> AsyncOpenAI:
        """The SDK would take what it is not given from the environment, and one tenant's calls from another's key."""
        client = AsyncOpenAI(
            api_key=key,
            admin_api_key="",
            base_url=base_url,
            max_retries=0,
            http_client=self._egress.client(),
            _enforce_credentials=False,
        )
        client.organization = None
        client.project = None
        return client


def given_limit(further: Mapping[str, Any]) -> str | None:
    """The name under which further options give the output limit, so that it is not given under two."""
    return next((name for name in ("max_tokens", "max_completion_tokens") if further.get(name) is not None), None)


def max_tokens_field(call: Call) -> str:
    """The name under which the server at the other end knows the output limit; see the module's docstring."""
    is_own = is_openais(_host_of(call.target)) or OPENAI_MODEL.match(call.model)
    return "max_completion_tokens" if is_own else "max_tokens"


def encode(body: dict[str, Any], further: Mapping[str, Any]) -> bytes:
    """The body with the caller's further options, which win."""
    body = overlaid(body, {name: value for name, value in further.items() if name != REASONING_FIELD})
    if not body.get("stream"):
        body.pop("stream_options", None)
    return msgspec.json.encode(body)


def _host_of(target: Target) -> str:
    return urlsplit(target.endpoint.base_url or BASE_URL).hostname or ""


async def post(client: AsyncOpenAI, path: str, body: bytes, options: RequestOptions) -> httpx2.Response:
    """A reply whose body is still arriving."""
    response: Any = await client.post(
        path,
        cast_to=httpx2.Response,
        content=body,
        options=options,
        stream=True,
        stream_cls=AsyncStream[Any],
    )
    return response


async def get(client: AsyncOpenAI, path: str, options: RequestOptions) -> httpx2.Response:
    return await client.get(path, cast_to=httpx2.Response, options=options)


def options(
    target: Target, headers: Mapping[str, str | Omit], request: CompletionRequest | None = None
) -> RequestOptions:
    """Reads have no limit here: `TimeLimits` tells the first token, idling and the total apart."""
    connect_s = target.timeouts.connect_s
    named = {"X-Client-Request-Id": request.id} if request else {}
    return {
        "headers": {**headers, **named},
        "timeout": httpx2.Timeout(connect=connect_s, pool=connect_s, read=None, write=None),
        "security": {"bearer_auth": True},
    }
