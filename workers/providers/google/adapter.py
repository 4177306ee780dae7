"""Google's Gemini API, and every host that speaks it (`base_url`).

A completion is written, sent and read here, because that costs the SDK many times as much; the SDK is the oracle of
what is sent, lists the models, and asks for counts. For that its inner client builds the URL and the headers with the
key (`_build_request`), and sends and raises (`_async_request_once`), which hands out the HTTP response unread, so that
our bounds hold. `BaseApiClient` and the error for a key that it cannot use are exported nowhere (version 3.4.0). The
client is given all that it would otherwise look up in the environment (key, base URL, API version, Vertex and its
projects), and an HTTP client, without which it would take aiohttp and reconnect by itself.

The API version: of the base URL when it ends with one, else the endpoint's `api_version`, else `v1`, and `v1beta` for
`-latest` aliases, which v1 does not know.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
import msgspec

from contracts.errors import AuthenticationFailed, ProviderUnavailable
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
from workers.providers.shared.http.adapter import HttpAdapter, VendorRequest, json_headers
from workers.providers.shared.http.paths import in_path, url_behind
from workers.providers.shared.http.time_limits import connect_timeout
from workers.providers.shared.replies.token_counts import Count
from workers.providers.shared.requests.options import merged
from workers.providers.shared.token_estimates import texts_of

BASE_URL = "https://generativelanguage.googleapis.com"
MODELS_PER_PAGE = 1000
MAX_PAGES = 20

_VERSIONED = re.compile(r"/v\d+(?:(?:alpha|beta|main)\d*)?/?$")
_NO_KEY = "none"
_LIVE_KEY = "auth_tokens/"

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
        from google.genai._api_client import BaseApiClient  # pyright: ignore[reportPrivateUsage]
        from google.genai.types import HttpOptions, ResourceScope

        self._http = egress.client(tenant=tenant)
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

    async def send(self, method: str, path: str, target: Target, body: bytes) -> httpx2.Response:
        """A response with status 200 whose body is not read yet."""
        asked: Any = self._api._build_request(method, path, {})  # pyright: ignore[reportPrivateUsage]
        asked.data = body
        asked.timeout = connect_timeout(target.timeouts)
        if not self._key:
            del asked.headers["x-goog-api-key"]
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
    sdk = "google.genai._api_client"

    @cached_property
    def _unused(self) -> httpx2.Client:
        """A client of which the SDK would make one for each of its own."""
        return httpx2.Client(verify=self._egress.tls, trust_env=False)

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
        if "_unused" in vars(self):
            self._unused.close()

    def _client(self, base_url: str, key: str, tenant: str) -> _Client:
        return _Client(base_url, key, tenant, egress=self._egress, unused=self._unused)

    def _base_url(self, target: Target, *, model: str) -> str:
        return versioned_url(target, model=model)

    def _request(self, call: Call) -> VendorRequest:
        """`provider_options.google.stream: false` is for hosts that cannot stream.

        Raises AuthenticationFailed for a key of the Live API, which has a form of its own and goes elsewhere.
        """
        further = call.request.provider_options.get(NAME, {})
        body = merged(request_body(call.request, model=call.model), further)
        method, query = ("streamGenerateContent", "alt=sse") if body.pop("stream", True) else ("generateContent", "")
        headers = {**json_headers(call), "Accept": "*/*"}
        if key := self._usable_key(call.target):
            if key.startswith(_LIVE_KEY):
                raise AuthenticationFailed(f"the stored key for {NAME} is one of its Live API only", provider=NAME)
            headers["x-goog-api-key"] = key
        base_url = self._base_url(call.target, model=call.model)
        return VendorRequest(
            url_behind(base_url, f"{_path(call.model)}:{method}", query=query),
            headers,
            msgspec.json.encode(body),
            ignored(call.request, model=call.model),
        )

    def _is_success(self, status: int) -> bool:
        return status == 200

    def _reader(
        self, call: Call, sent: VendorRequest, *, headers: Mapping[str, str], classify: Classify
    ) -> ReplyReader:
        return ReplyReader(
            provider=self.name,
            classify=classify,
            warnings=sent.warnings,
            served_as=headers.get("x-gemini-service-tier"),
        )

    def _raised(self) -> tuple[type[Exception], ...]:
        from google.genai._api_client import EphemeralTokenAPIKeyError  # pyright: ignore[reportPrivateUsage]
        from google.genai.errors import APIError, UnknownApiResponseError

        return APIError, UnknownApiResponseError, EphemeralTokenAPIKeyError

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
