"""Google's Gemini API, and every host that speaks it (`base_url`).

google-genai offers no reply whose bytes are read by its caller, and its iterator costs over ten times as much a token.
So its inner client builds the URL and the headers with the key (`_build_request`), and sends and raises
(`_async_request_once`), which hands out the HTTP response unread; the body is ours, and so is the reading. Of version
3.4.0 these are the only ways to it: `async_request` reads the whole body, `async_request_streamed` parses each line,
and `BaseApiClient` and the error for a key that it cannot use are exported nowhere. The client is given all that it
would otherwise look up in the environment (key, base URL, API version, Vertex and its projects), and an HTTP client,
without which it would take aiohttp and reconnect by itself. Its retries, and the loop in which its `generate_content`
asks on when a reply ends with `CONTINUATION`, are above what is used here.

The API version: of the base URL when it ends with one, else the endpoint's `api_version`, else `v1`, and `v1beta` for
`-latest` aliases, which v1 does not know.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
import msgspec
from google.genai._api_client import (  # pyright: ignore[reportPrivateUsage]
    BaseApiClient,
    EphemeralTokenAPIKeyError,
)
from google.genai.errors import APIError, UnknownApiResponseError
from google.genai.types import HttpOptions, ResourceScope

from contracts.errors import ProviderUnavailable
from contracts.requests import CompletionRequest
from contracts.rpc import CountTokens, ModelInfo, TokenCount
from runtime.egress import Egress
from runtime.prices import catalogue
from workers.providers.base import Call, Target
from workers.providers.google.errors import ERRORS
from workers.providers.google.models import MODELS
from workers.providers.google.reply import ReplyReader
from workers.providers.google.request import NAME, check_supported, ignored, prompt, request_body
from workers.providers.shared.errors.vendor_errors import Classify
from workers.providers.shared.http.adapter import HttpAdapter, VendorRequest
from workers.providers.shared.http.paths import in_path
from workers.providers.shared.http.time_limits import connect_timeout
from workers.providers.shared.replies.token_counts import Count
from workers.providers.shared.requests.options import merged
from workers.providers.shared.token_estimates import texts_of

BASE_URL = "https://generativelanguage.googleapis.com"
MODELS_PER_PAGE = 1000
MAX_PAGES = 20

_VERSIONED = re.compile(r"/v\d+(?:(?:alpha|beta|main)\d*)?/?$")
_NO_KEY = "none"

T = TypeVar("T")


class _Model(msgspec.Struct, rename="camel"):
    name: str
    input_token_limit: int | None = None
    supported_generation_methods: list[str] | None = None


class _Models(msgspec.Struct, rename="camel"):
    models: list[_Model] = []
    next_page_token: str | None = None


class _Count(msgspec.Struct, rename="camel"):
    total_tokens: Count


class _Client:
    """The SDK's client of one base URL and key."""

    def __init__(self, base_url: str, key: str, tenant: str, *, egress: Egress, unused: httpx2.Client) -> None:
        self._http = egress.client(tenant=tenant, asks_first=True)
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
        """A response with status 200 whose body is not read yet."""
        asked: Any = self._api._build_request(method, path, {})  # pyright: ignore[reportPrivateUsage]
        asked.data = body
        asked.timeout = connect_timeout(target.timeouts)
        if not self._key:
            del asked.headers["x-goog-api-key"]
        if request_id:
            asked.headers["X-Client-Request-Id"] = request_id
        try:
            response: Any = await self._api._async_request_once(asked, stream=True)  # pyright: ignore[reportPrivateUsage]
        except (ValueError, RecursionError) as exc:  # the SDK reads the body of an error
            host = urlsplit(asked.url).netloc
            raise ProviderUnavailable(
                f"{NAME} answered with an error that cannot be read at {host}", provider=NAME
            ) from exc
        return response.response_stream

    async def close(self) -> None:
        await self._http.aclose()


class Google(HttpAdapter[_Client]):
    """The adapter of the provider `google`."""

    name = NAME
    models = MODELS
    errors = ERRORS
    raised = (APIError, UnknownApiResponseError, EphemeralTokenAPIKeyError)

    def __init__(self, egress: Egress) -> None:
        super().__init__(egress)
        self._unused = httpx2.Client(verify=egress.tls, trust_env=False)
        """The SDK would make one for each client."""

    def check_supported(self, request: CompletionRequest, *, model: str) -> None:
        check_supported(request, model=model)

    async def count_tokens(self, question: CountTokens, *, model: str, target: Target) -> TokenCount:
        body = {
            "generateContentRequest": {
                "model": _path(model),
                **prompt(question.messages, question.tools, model=model),
            }
        }
        texts = [text for message in question.messages for text in texts_of(message)]
        path = f"{_path(model)}:countTokens"
        counted = await self._ask(target, "post", path, _Count, body=body, model=model, prompt=texts)
        return TokenCount(input_tokens=counted.total_tokens, exact=True)

    async def check_health(self, target: Target) -> None:
        await self._ask(target, "get", "models?pageSize=1", _Models)

    async def _listed_models(self, target: Target) -> tuple[ModelInfo, ...]:
        """The models that generate content."""
        found: list[_Model] = []
        after = ""
        for _ in range(MAX_PAGES):
            page = await self._ask(target, "get", f"models?pageSize={MODELS_PER_PAGE}{after}", _Models)
            found += page.models
            if not page.next_page_token:
                break
            after = f"&pageToken={quote(page.next_page_token, safe='')}"
        return tuple(
            ModelInfo(
                id=(name := model.name.removeprefix("models/")),
                context_window=model.input_token_limit or catalogue.context_window(self.name, name),
            )
            for model in found
            if model.supported_generation_methods is None or "generateContent" in model.supported_generation_methods
        )

    async def aclose(self) -> None:
        await super().aclose()
        self._unused.close()

    def _client(self, base_url: str, key: str, tenant: str) -> _Client:
        return _Client(base_url, key, tenant, egress=self._egress, unused=self._unused)

    def _base_url(self, target: Target, *, model: str) -> str:
        return versioned_url(target, model=model)

    def _request(self, call: Call) -> VendorRequest:
        """`provider_options.google.stream: false` is for hosts that cannot stream."""
        further = call.request.provider_options.get(NAME, {})
        body = merged(request_body(call.request, model=call.model), further)
        method = "streamGenerateContent?alt=sse" if body.pop("stream", True) else "generateContent"
        return VendorRequest(
            f"{_path(call.model)}:{method}",
            msgspec.json.encode(body),
            warnings=ignored(call.request, model=call.model),
        )

    async def _send(self, client: _Client, call: Call, sent: VendorRequest) -> httpx2.Response:
        return await client.send("post", sent.path, call.target, sent.body, request_id=call.request.id)

    def _reader(
        self, call: Call, sent: VendorRequest, *, headers: Mapping[str, str], classify: Classify
    ) -> ReplyReader:
        return ReplyReader(
            provider=self.name,
            classify=classify,
            warnings=sent.warnings,
            served_as=headers.get("x-gemini-service-tier"),
        )

    async def _ask(
        self,
        target: Target,
        method: str,
        path: str,
        form: type[T],
        *,
        body: dict[str, Any] | None = None,
        model: str = "",
        prompt: Sequence[str] = (),
    ) -> T:
        encoded = msgspec.json.encode(body) if body else b""

        async def content(client: _Client) -> bytes:
            response = await client.send(method, path, target, encoded)
            try:
                return await response.aread()
            finally:
                await response.aclose()

        return await self._look_up(target, content, form, what="as Gemini does", model=model, prompt=prompt)


ADAPTER = Google


def versioned_url(target: Target, *, model: str = "") -> str:
    """The base URL with its API version; see the module's docstring."""
    base_url = (target.endpoint.base_url or BASE_URL).rstrip("/")
    if _VERSIONED.search(base_url):
        return base_url
    version = target.endpoint.api_version or ("v1beta" if model.endswith("-latest") else "v1")
    return f"{base_url}/{version}"


def _path(model: str) -> str:
    named = model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"
    return in_path(named, provider=NAME, safe="/@-._~")
