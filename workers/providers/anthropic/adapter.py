"""Anthropic's Messages API, and every server that speaks it (`base_url`, with or without its `/v1`).

A completion is written, sent and read here, because that costs the SDK many times as much; the SDK is the oracle of
what is sent, lists the models, and asks for counts.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import httpx2
import msgspec

from contracts.requests import CompletionRequest
from contracts.rpc import CountTokens, ModelInfo, TokenCount
from runtime.prices import catalogue
from workers.providers.anthropic.errors import ERRORS
from workers.providers.anthropic.models import MODELS
from workers.providers.anthropic.reply import MessageReader
from workers.providers.anthropic.request import PROVIDER, check, conversation, messages_request
from workers.providers.base import Call, Target
from workers.providers.shared.errors.vendor_errors import Classify
from workers.providers.shared.http.adapter import HttpAdapter, VendorRequest, json_headers
from workers.providers.shared.http.paths import url_behind
from workers.providers.shared.http.time_limits import connect_timeout
from workers.providers.shared.replies.token_counts import Count
from workers.providers.shared.token_estimates import texts_of

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic, RequestOptions

BASE_URL = "https://api.anthropic.com"
_VERSION = "2026-10-21"
"""Of the API, as anthropic 2.12.0 sends it."""
_MODELS_PER_PAGE = 1000
_MAX_PAGES = 100


class _Model(msgspec.Struct):
    id: str
    max_input_tokens: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]
    has_more: bool = False
    last_id: str | None = None


class _TokenCount(msgspec.Struct):
    input_tokens: Count


class Anthropic(HttpAdapter["AsyncAnthropic"]):
    """The adapter of the provider `anthropic`."""

    name = PROVIDER
    models = MODELS
    errors = ERRORS
    sdk = "anthropic"

    def check_supported(self, request: CompletionRequest, *, model: str) -> None:
        check(request)

    async def count_tokens(self, question: CountTokens, *, model: str, target: Target) -> TokenCount:
        """The vendor counts, free of charge; a limit of requests per minute applies to this, too."""
        body = msgspec.json.encode({"model": model, **conversation(question.messages, question.tools)})

        async def post(client: "AsyncAnthropic") -> bytes:
            response = await client.post(
                "/v1/messages/count_tokens", cast_to=httpx2.Response, content=body, options=_options(target)
            )
            return response.content

        prompt = [text for message in question.messages for text in texts_of(message)]
        counted = await self._look_up(target, post, _TokenCount, what="with a count of tokens", prompt=prompt)
        return TokenCount(input_tokens=counted.input_tokens, exact=True)

    async def check_health(self, target: Target) -> None:
        await self._list_models(target, limit=1)

    async def _listed_models(self, target: Target) -> tuple[ModelInfo, ...]:
        found: list[_Model] = []
        after: str | None = None
        for _ in range(_MAX_PAGES):
            page = await self._list_models(target, limit=_MODELS_PER_PAGE, after=after)
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

    def _client(self, base_url: str, key: str, tenant: str) -> "AsyncAnthropic":
        """A client that takes nothing from the environment.

        The SDK looks there for keys, an address and headers that it is not given, and would use them for the calls of
        every tenant.
        """
        from anthropic import AsyncAnthropic

        client = AsyncAnthropic(
            api_key=key,
            webhook_key="",
            base_url=base_url,
            max_retries=0,
            open_telemetry=False,
            http_client=self._egress.client(tenant=tenant),
        )
        # The SDK (anthropic 2.12.0) adds the headers of ANTHROPIC_CUSTOM_HEADERS to `default_headers`, also in `copy`,
        # and no argument keeps it from that.
        client._custom_headers = {}  # pyright: ignore[reportPrivateUsage]
        return client

    def _base_url(self, target: Target, *, model: str) -> str:
        """Without the API's `/v1`, which the SDK adds itself; other vendors' base URLs end with it."""
        return (target.endpoint.base_url or BASE_URL).rstrip("/").removesuffix("/v1")

    def _request(self, call: Call) -> VendorRequest:
        written = messages_request(call.request, model=call.model)
        headers = {**json_headers(call), "anthropic-version": _VERSION}
        if key := self._usable_key(call.target):
            headers["Authorization"] = f"Bearer {key}"
        if written.betas:
            headers["anthropic-beta"] = ",".join(written.betas)
        url = url_behind(self._base_url(call.target, model=call.model), "v1/messages")
        return VendorRequest(url, headers, msgspec.json.encode(written.body), written.warnings)

    def _reader(
        self, call: Call, sent: VendorRequest, *, headers: Mapping[str, str], classify: Classify
    ) -> MessageReader:
        return MessageReader(classify=classify, warnings=sent.warnings)

    def _raised(self) -> tuple[type[Exception], ...]:
        from anthropic import AnthropicError

        return (AnthropicError,)

    async def _list_models(self, target: Target, *, limit: int, after: str | None = None) -> _Models:
        options = _options(target)
        options["params"] = {"limit": limit, **({"after_id": after} if after else {})}

        async def get(client: "AsyncAnthropic") -> bytes:
            return (await client.get("/v1/models", cast_to=httpx2.Response, options=options)).content

        return await self._look_up(target, get, _Models, what="with a list of models")


ADAPTER = Anthropic


def _options(target: Target) -> "RequestOptions":
    from anthropic import Omit

    without_key = {} if target.key else {"Authorization": Omit()}
    return {"headers": without_key, "timeout": connect_timeout(target.timeouts)}
