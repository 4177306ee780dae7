"""Azure OpenAI: OpenAI's chat completions at endpoints of one's own, where models are called by their deployments.

Keys go as `api-key` to the classic API and as bearer tokens to v1, as the SDK sends them; `auth: entra_id` sends a
token of Entra ID to both.
"""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx2
from pydantic import SecretStr

from contracts.errors import FleetError
from contracts.providers import Endpoint
from contracts.rpc import ModelInfo
from runtime.egress import Egress
from runtime.prices import catalogue
from workers.providers.azure import entra
from workers.providers.azure.addresses import (
    base_url,
    chat_url,
    deployment_of,
    knows_stream_options,
    max_tokens_field,
    model_and_deployment,
    models_url,
)
from workers.providers.azure.models import MODELS
from workers.providers.base import Call, CredentialReplaced, Target
from workers.providers.openai.adapter import OpenAI, encode, given_limit
from workers.providers.openai.request import ignored, request_body
from workers.providers.openai.servers import server_of_azure
from workers.providers.shared.errors.redaction import Secrets
from workers.providers.shared.http.adapter import VendorRequest, json_headers
from workers.providers.shared.http.client import HttpReply

if TYPE_CHECKING:
    from openai import RequestOptions

    from workers.providers.openai.adapter import Headers

_UNAUTHORIZED = 401


class Azure(OpenAI):
    """The adapter of the provider `azure`."""

    name = "azure"
    models = MODELS

    def __init__(self, egress: Egress) -> None:
        super().__init__(egress)
        self._tokens = entra.Tokens(egress)

    async def get_supported_models(self, target: Target) -> tuple[ModelInfo, ...]:
        """The endpoint's deployments where they are configured, else every model that the resource could deploy."""
        if not target.endpoint.deployments:
            return await super().get_supported_models(target)
        return tuple(
            ModelInfo(id=model, context_window=catalogue.context_window(self.name, model))
            for model in target.endpoint.deployments
        )

    async def aclose(self) -> None:
        await super().aclose()
        await self._tokens.aclose()

    def _base_url(self, target: Target, *, model: str) -> str:
        return base_url(target.endpoint)

    def _models_path(self, endpoint: Endpoint) -> str:
        return models_url(endpoint)

    def _secret(self, target: Target) -> SecretStr | None:
        if target.endpoint.auth == "entra_id":
            return entra.credentials_of(target.key).client_secret
        return target.key

    def _secrets(self, target: Target) -> Secrets:
        if target.endpoint.auth == "entra_id":
            return Secrets(*self._tokens.secrets_of(entra.credentials_of(target.key)))
        return super()._secrets(target)

    def _client_key(self, target: Target) -> str:
        if target.endpoint.auth == "entra_id":
            return entra.credentials_of(target.key).client_id
        return super()._client_key(target)

    def _request(self, call: Call) -> VendorRequest:
        further = call.request.provider_options.get(self.name, {})
        endpoint = call.target.endpoint
        body = request_body(
            call.request,
            model=deployment_of(endpoint, call.model),
            max_tokens_field=given_limit(further) or max_tokens_field(call),
            stream_options={"include_usage": True} if knows_stream_options(endpoint) else None,
            server=server_of_azure(model_and_deployment(call)),
        )
        return VendorRequest(
            chat_url(endpoint, call.model),
            {**json_headers(call), **self._authorization(call.target)},
            encode(body, further),
            ignored(call.request, provider=self.name),
        )

    def _authorization(self, target: Target) -> dict[str, str]:
        """The headers of a key; a token of Entra ID has to be awaited."""
        if target.endpoint.auth == "entra_id":
            return {}
        if not target.endpoint.api_version:
            return super()._authorization(target)
        key = self._usable_key(target)
        return {"api-key": key} if key else {}

    def _options(self, target: Target, headers: "Headers") -> "RequestOptions":
        version = target.endpoint.api_version
        query: RequestOptions = {"params": {"api-version": version}} if version else {}
        return {**super()._options(target, headers), **query}

    async def _send(
        self,
        sent: VendorRequest,
        target: Target,
        may_send: Callable[[], Awaitable[None]],
        *,
        refuse: Callable[..., FleetError],
    ) -> HttpReply:
        if target.endpoint.auth == "api_key":
            return await super()._send(sent, target, may_send, refuse=refuse)
        async with self._token(target) as bearer:
            sent = replace(sent, headers={**sent.headers, **bearer})
            return await super()._send(sent, target, may_send, refuse=refuse)

    async def _authenticated(
        self, target: Target, send: Callable[["Headers"], Awaitable[httpx2.Response]]
    ) -> httpx2.Response:
        if target.endpoint.auth == "api_key":
            return await super()._authenticated(target, send)
        async with self._token(target) as bearer:
            return await send(bearer)

    @asynccontextmanager
    async def _token(self, target: Target) -> AsyncGenerator[dict[str, str]]:
        """The header with a token of Entra ID for one call.

        Raises CredentialReplaced when the token is refused that was good before, and another one is there.
        """
        credentials = entra.credentials_of(target.key)
        asked_at = time.monotonic()
        token = await self._tokens.get(credentials)
        try:
            yield {"Authorization": f"Bearer {token.value}"}
        except Exception as exc:
            if _status_of(exc) != _UNAUTHORIZED or token.obtained_at >= asked_at:
                raise
            if not await self._tokens.replace(credentials, token):
                raise
            raise CredentialReplaced(
                f"{self.name} refused a token of Entra ID before its time; it was replaced",
                provider=self.name,
                status=_UNAUTHORIZED,
            ) from exc


ADAPTER = Azure


def _status_of(exc: Exception) -> int | None:
    """The status with which the vendor refused a call, as an error of ours or of the SDK has it."""
    return exc.status if isinstance(exc, FleetError) else getattr(exc, "status_code", None)
