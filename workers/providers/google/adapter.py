"""Google's Gemini API, and every host that speaks it (`base_url`).

google-genai offers no reply whose bytes are read by its caller, and its iterator costs over ten times as much a token.
So its inner client builds the URL and the headers with the key (`_build_request`), and sends and raises
(`_async_request_once`), which hands out the HTTP response unread; the body is ours, and so is the reading. The client
is given all that it would otherwise look up in the environment (key, base URL, API version, Vertex and its projects),
and an HTTP client, without which it would take aiohttp and reconnect by itself. Its retries, and the loop in which its
`generate_content` asks on when a reply ends with `CONTINUATION`, are above what is used here.

The API version: of the base URL when it ends with one, else the endpoint's `api_version`, else `v1`, and `v1beta` for
`-latest` aliases, which v1 does not know.
"""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
import msgspec
from google.genai import errors
from google.genai._api_client import (  # pyright: ignore[reportPrivateUsage]
    BaseApiClient,
    EphemeralTokenAPIKeyError,
)
from google.genai.types import HttpOptions, ResourceScope

from contracts.errors import ProviderUnavailable
from contracts.providers import Price
from contracts.requests import CompletionRequest
from contracts.rpc import CostEstimate, CountTokens, EstimateCost, ModelInfo, TokenCount
from runtime.egress import Egress
from runtime.prices import catalogue
from workers.providers.base import Call, Completion, StreamItem, Target, gather
from workers.providers.google import errors as google_errors
from workers.providers.google import request as google_request
from workers.providers.google.models import MODELS
from workers.providers.google.reply import ReplyReader
from workers.providers.shared import token_estimates
from workers.providers.shared.cost_estimates import cost_estimate
from workers.providers.shared.http.client_pool import ClientPool, usable_key
from workers.providers.shared.http.paths import in_path
from workers.providers.shared.http.reading import read_to_end
from workers.providers.shared.http.time_limits import TimeLimits, lookup_limits
from workers.providers.shared.http.transport import CONNECTION_ERRORS, Httpx2Reply, describe
from workers.providers.shared.json_text import NO_JSON
from workers.providers.shared.requests.options import merged

BASE_URL = "https://generativelanguage.googleapis.com"
MODELS_PER_PAGE = 1000
MAX_PAGES = 20

_VERSIONED = re.compile(r"/v\d+(?:(?:alpha|beta|main)\d*)?/?$")
_NO_KEY = "none"
_FAILURES = (errors.APIError, errors.UnknownApiResponseError, EphemeralTokenAPIKeyError)
"""What the part of the SDK that is used here raises."""

T = TypeVar("T")


class _Model(msgspec.Struct, rename="camel"):
    name: str
    input_token_limit: int | None = None
    supported_generation_methods: list[str] | None = None


class _Models(msgspec.Struct, rename="camel"):
    models: list[_Model] = []
    next_page_token: str | None = None


class _Count(msgspec.Struct, rename="camel"):
    total_tokens: int


class Google:
    """The adapter of the provider `google`."""

    name = google_request.NAME

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._unused = httpx2.Client(verify=egress.tls, trust_env=False)
        """The SDK would make one for each client."""
        self._clients = ClientPool(self._client)

    def check_supported(self, request: CompletionRequest, *, model: str) -> None:
        google_request.check_supported(request, model=model)

    async def stream_completion(self, call: Call) -> AsyncGenerator[StreamItem]:
        target, request = call.target, call.request
        limits = TimeLimits(target.timeouts, time_left_s=call.time_left_s, provider=self.name)
        prompt = [text for message in request.messages for text in token_estimates.texts_of(message)]
        method, body = _asked(call)
        async with self._lease(target, model=call.model, prompt=prompt) as client:
            path = f"{_path(call.model)}:{method}"
            response = await limits.wait(client.send("post", path, target, body, request_id=request.id))
            reader = ReplyReader(
                provider=self.name,
                classify=lambda body: google_errors.from_body(body, provider=self.name, key=target.key, prompt=prompt),
                warnings=google_request.ignored(request, model=call.model),
                served_as=response.headers.get("x-gemini-service-tier"),
            )
            reply = Httpx2Reply(response)
            async with aclosing(read_to_end(reply, reader, limits=limits, provider=self.name)) as items:
                async for item in items:
                    yield item

    async def complete(self, call: Call) -> Completion:
        async with aclosing(self.stream_completion(call)) as stream:
            return await gather(stream)

    async def count_tokens(self, question: CountTokens, *, model: str, target: Target) -> TokenCount:
        prompt = google_request.prompt(question.messages, question.tools, model=model)
        body = {"generateContentRequest": {"model": _path(model), **prompt}}
        texts = [text for message in question.messages for text in token_estimates.texts_of(message)]
        path = f"{_path(model)}:countTokens"
        counted = await self._looked_up(target, "post", path, _Count, body=body, model=model, prompt=texts)
        return TokenCount(input_tokens=counted.total_tokens, exact=True)

    async def check_health(self, target: Target) -> None:
        await self._looked_up(target, "get", "models?pageSize=1", _Models)

    async def get_supported_models(self, target: Target) -> tuple[ModelInfo, ...]:
        """The models that generate content."""
        found: list[_Model] = []
        after = ""
        for _ in range(MAX_PAGES):
            page = await self._looked_up(target, "get", f"models?pageSize={MODELS_PER_PAGE}{after}", _Models)
            found += page.models
            if not page.next_page_token:
                break
            after = f"&pageToken={quote(page.next_page_token, safe='')}"
        return tuple(self._info(model) for model in found if _generates(model))

    async def estimate_cost(
        self, question: EstimateCost, *, model: str, target: Target, prices: Mapping[str, Price]
    ) -> CostEstimate:
        counted = await self.count_tokens(question, model=model, target=target)
        return cost_estimate(question, counted, provider=self.name, models=MODELS, model=model, prices=prices)

    async def aclose(self) -> None:
        await self._clients.aclose()
        self._unused.close()

    def _info(self, model: _Model) -> ModelInfo:
        name = model.name.removeprefix("models/")
        return ModelInfo(id=name, context_window=model.input_token_limit or catalogue.context_window(self.name, name))

    async def _looked_up(
        self,
        target: Target,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: dict[str, Any] | None = None,
        model: str = "",
        prompt: Sequence[str] = (),
    ) -> T:
        limits = lookup_limits(target.timeouts, provider=self.name)
        encoded = msgspec.json.encode(body) if body else b""
        async with self._lease(target, model=model, prompt=prompt) as client:
            response = await limits.wait(client.send(method, path, target, encoded))
            try:
                content = await limits.wait(response.aread())
            finally:
                await response.aclose()
        try:
            return msgspec.json.decode(content, type=kind)
        except NO_JSON as exc:
            host = urlsplit(target.endpoint.base_url or BASE_URL).netloc
            raise ProviderUnavailable(
                f"{self.name} did not answer as Gemini does at {host}; is the base_url right?", provider=self.name
            ) from exc

    @asynccontextmanager
    async def _lease(self, target: Target, *, model: str = "", prompt: Sequence[str] = ()) -> AsyncGenerator["_Client"]:
        """The client of a target; what the SDK raises becomes an error of the contract."""
        key = usable_key(target.key.get_secret_value() if target.key else "", provider=self.name)
        base_url = versioned_url(target, model=model)
        host = urlsplit(base_url).netloc
        try:
            async with self._clients.client(base_url, key) as client:
                yield client
        except _FAILURES as exc:
            raise google_errors.from_sdk(exc, provider=self.name, key=target.key, host=host, prompt=prompt) from exc
        except CONNECTION_ERRORS as exc:
            raise ProviderUnavailable(
                f"{self.name} broke the connection at {host}: {describe(exc)}", provider=self.name
            ) from exc

    def _client(self, base_url: str, key: str) -> "_Client":
        return _Client(base_url, key, egress=self._egress, unused=self._unused)


class _Client:
    """The SDK's client of one base URL and key."""

    def __init__(self, base_url: str, key: str, *, egress: Egress, unused: httpx2.Client) -> None:
        self._http = egress.client()
        self._key = key
        self._api = BaseApiClient(
            vertexai=False,
            api_key=key or _NO_KEY,
            http_options=HttpOptions(
                base_url=base_url,
                base_url_resource_scope=ResourceScope.COLLECTION,
                httpx_client=unused,
                httpx_async_client=self._http,
                async_client_args={"ssl": egress.tls},
            ),
        )

    async def send(
        self, method: str, path: str, target: Target, body: bytes, *, request_id: str | None = None
    ) -> httpx2.Response:
        """A response with status 200 whose body is not read yet.

        Reads have no limit here: `TimeLimits` tells the first token, idling and the total apart.
        """
        connect_s = target.timeouts.connect_s
        asked: Any = self._api._build_request(method, path, {})  # pyright: ignore[reportPrivateUsage]
        asked.data = body
        asked.timeout = httpx2.Timeout(connect=connect_s, pool=connect_s, read=None, write=None)
        if not self._key:
            del asked.headers["x-goog-api-key"]
        if request_id:
            asked.headers["X-Client-Request-Id"] = request_id
        try:
            response: Any = await self._api._async_request_once(asked, stream=True)  # pyright: ignore[reportPrivateUsage]
        except (ValueError, RecursionError) as exc:  # the SDK reads the body of an error
            host = urlsplit(asked.url).netloc
            raise ProviderUnavailable(
                f"google answered with an error that cannot be read at {host}", provider=google_request.NAME
            ) from exc
        return response.response_stream

    async def close(self) -> None:
        await self._http.aclose()


def versioned_url(target: Target, *, model: str = "") -> str:
    """The base URL with its API version; see the module's docstring."""
    base_url = (target.endpoint.base_url or BASE_URL).rstrip("/")
    if _VERSIONED.search(base_url):
        return base_url
    version = target.endpoint.api_version or ("v1beta" if model.endswith("-latest") else "v1")
    return f"{base_url}/{version}"


def _asked(call: Call) -> tuple[str, bytes]:
    """The method and the body. `provider_options.google.stream: false` is for hosts that cannot stream."""
    options = call.request.provider_options.get(google_request.NAME, {})
    body = merged(google_request.request_body(call.request, model=call.model), options)
    streams = body.pop("stream", True)
    return "streamGenerateContent?alt=sse" if streams else "generateContent", msgspec.json.encode(body)


def _path(model: str) -> str:
    named = model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"
    return in_path(named, provider=google_request.NAME, safe="/@-._~")


def _generates(model: _Model) -> bool:
    methods = model.supported_generation_methods
    return methods is None or "generateContent" in methods
