"""OpenAI and every server that speaks its chat completions API (`base_url`).

A completion is written, sent and read here, because that costs the SDK many times as much; the SDK is the oracle of
what is sent, and lists the models.

The output limit: `max_completion_tokens` for OpenAI's own hosts, and for OpenAI's model names behind any other URL
(gateways pass them on, and reasoning models refuse `max_tokens`); `max_tokens` for everything else, which is the only
name that all compatible servers know. `provider_options.openai` can hold the other one. What else differs between the
servers of the format is in servers.py.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2
import msgspec

from contracts.providers import Endpoint
from contracts.requests import CompletionRequest
from contracts.rpc import CountTokens, ModelInfo, TokenCount
from runtime.egress import Egress
from runtime.prices import catalogue
from workers.providers.base import Call, Target
from workers.providers.openai.errors import ERRORS
from workers.providers.openai.models import MODELS
from workers.providers.openai.reply import ChatReader
from workers.providers.openai.request import REASONING_FIELD, check, ignored, request_body
from workers.providers.openai.servers import OPENAI_MODEL, is_openais, server_at
from workers.providers.openai.token_counter import TokenCounter
from workers.providers.shared.errors.vendor_errors import Classify
from workers.providers.shared.http.adapter import HttpAdapter, VendorRequest, json_headers
from workers.providers.shared.http.paths import url_behind
from workers.providers.shared.http.time_limits import connect_timeout
from workers.providers.shared.requests.options import overlaid

if TYPE_CHECKING:
    from openai import AsyncOpenAI, Omit, RequestOptions

    Headers = Mapping[str, str | Omit]

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


class OpenAI(HttpAdapter["AsyncOpenAI"]):
    """The adapter of the provider `openai`. Azure's is a subclass, which overrides the methods where the two differ."""

    name = "openai"
    models = MODELS
    errors = ERRORS
    sdk = "openai"

    def __init__(self, egress: Egress) -> None:
        super().__init__(egress)
        self._counter = TokenCounter()

    async def aclose(self) -> None:
        await super().aclose()
        await self._counter.aclose()

    def check_supported(self, request: CompletionRequest, *, model: str) -> None:
        """The request's vocabulary is OpenAI's own; what a single model lacks, only the vendor knows.

        Raises InvalidRequest.
        """
        check(request, provider=self.name)

    async def count_tokens(self, question: CountTokens, *, model: str, target: Target) -> TokenCount:
        return await self._counter.count(question, model=model)

    async def check_health(self, target: Target) -> None:
        await self._list_models(target)

    async def _listed_models(self, target: Target) -> tuple[ModelInfo, ...]:
        found = await self._list_models(target)
        return tuple(
            ModelInfo(id=model.id, context_window=catalogue.context_window(self.name, model.id))
            for model in found.data or ()
        )

    def _client(self, base_url: str, key: str, tenant: str) -> "AsyncOpenAI":
        """A client that takes nothing from the environment.

        The SDK looks there for an admin key, an organization and a project that it is not given, and would send the
        calls of every tenant under them.
        """
        from openai import AsyncOpenAI

        client = AsyncOpenAI(
            api_key=key,
            admin_api_key="",
            base_url=base_url,
            max_retries=0,
            http_client=self._egress.client(tenant=tenant),
            _enforce_credentials=False,
        )
        client.organization = None
        client.project = None
        return client

    def _base_url(self, target: Target, *, model: str) -> str:
        return target.endpoint.base_url or BASE_URL

    def _models_path(self, endpoint: Endpoint) -> str:
        return "/models"

    def _request(self, call: Call) -> VendorRequest:
        base_url = self._base_url(call.target, model=call.model)
        further = call.request.provider_options.get(self.name, {})
        body = request_body(
            call.request,
            model=call.model,
            max_tokens_field=given_limit(further) or max_tokens_field(call),
            stream_options={"include_usage": True, "include_obfuscation": False},
            server=server_at(urlsplit(base_url).hostname or "", model=call.model),
        )
        return VendorRequest(
            url_behind(base_url, "chat/completions"),
            {**json_headers(call), **self._authorization(call.target)},
            encode(body, further),
            ignored(call.request, provider=self.name),
        )

    def _authorization(self, target: Target) -> dict[str, str]:
        """The headers that say who asks."""
        key = self._usable_key(target)
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _reader(self, call: Call, sent: VendorRequest, *, headers: Mapping[str, str], classify: Classify) -> ChatReader:
        return ChatReader(provider=self.name, classify=classify, warnings=sent.warnings)

    async def _list_models(self, target: Target) -> _Models:
        async def get(client: "AsyncOpenAI") -> bytes:
            path = self._models_path(target.endpoint)
            response = await self._authenticated(
                target,
                lambda headers: client.get(path, cast_to=httpx2.Response, options=self._options(target, headers)),
            )
            return response.content

        return await self._look_up(target, get, _Models, what="with a list of models")

    async def _authenticated(
        self, target: Target, send: Callable[["Headers"], Awaitable[httpx2.Response]]
    ) -> httpx2.Response:
        """Calls `send` with the headers that say who asks, in place of the SDK's own, and returns its response."""
        from openai import Omit

        # Without a key the SDK would send an empty bearer token.
        return await send({"Authorization": Omit(), **self._authorization(target)})

    def _raised(self) -> tuple[type[Exception], ...]:
        from openai import OpenAIError

        return (OpenAIError,)

    def _options(self, target: Target, headers: "Headers") -> "RequestOptions":
        return {
            "headers": headers,
            "timeout": connect_timeout(target.timeouts),
            "security": {"bearer_auth": True},
        }


ADAPTER = OpenAI


def given_limit(further: Mapping[str, Any]) -> str | None:
    """The name under which further options give the output limit, so that it is not given under two."""
    return next((name for name in ("max_tokens", "max_completion_tokens") if further.get(name) is not None), None)


def max_tokens_field(call: Call) -> str:
    """The name under which the server at the other end knows the output limit; see the module's docstring."""
    host = urlsplit(call.target.endpoint.base_url or BASE_URL).hostname or ""
    return "max_completion_tokens" if is_openais(host) or OPENAI_MODEL.match(call.model) else "max_tokens"


def encode(body: dict[str, Any], further: Mapping[str, Any]) -> bytes:
    """The body with the caller's further options, which win."""
    body = overlaid(body, {name: value for name, value in further.items() if name != REASONING_FIELD})
    if not body.get("stream"):
        body.pop("stream_options", None)
    return msgspec.json.encode(body)
