"""Azure OpenAI: OpenAI's chat completions at endpoints of one's own, where models are called by their deployments.

| endpoint | called at |
|---|---|
| with `api_version` | `<base_url>/openai/deployments/<deployment>/chat/completions?api-version=…`, the classic API |
| without | `<base_url>/openai/v1/chat/completions`, the v1 API |
| `base_url` ends with `/v1`, `/models` or a deployment | as it is given, with the `api-version` if there is one |

Keys go as `api-key` to the classic API and as bearer tokens to v1, as the SDK sends them; `auth: entra_id` sends a
token of Entra ID to both.

The output limit: v1 knows `max_completion_tokens`, but not of every other maker's models: Mistral in Foundry refuses it
(422, `extra_forbidden`). The classic API knows it for reasoning models only, which refuse `max_tokens`. Models are told
by their name, so that a deployment with another name needs its entry in `deployments`.
`stream_options` came with the classic API of 2024-09-01; an older one refuses it and states no usage for a stream.
"""

import re
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import httpx2
import openai
from openai import Omit, RequestOptions
from pydantic import SecretStr

from contracts.errors import NoProvider
from contracts.providers import Endpoint
from contracts.rpc import ModelInfo
from runtime.egress import Egress
from runtime.prices import catalogue
from workers.providers.azure import entra
from workers.providers.azure.models import MODELS
from workers.providers.base import Call, CredentialReplaced, Target
from workers.providers.openai.adapter import Headers, OpenAI, encode, given_limit
from workers.providers.openai.request import ignored, request_body
from workers.providers.openai.servers import is_of_another_maker, server_of_azure
from workers.providers.shared.http.adapter import VendorRequest
from workers.providers.shared.http.paths import in_path

_REASONING_MODEL = re.compile(r"^(?:o\d|gpt-[5-9]|codex-)")
_STREAM_OPTIONS_SINCE = "2024-09-01"


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
            stream_options={"include_usage": True} if _knows_stream_options(endpoint) else None,
            server=server_of_azure(_model_and_deployment(call)),
        )
        return VendorRequest(
            chat_path(endpoint, call.model),
            encode(body, further),
            warnings=ignored(call.request, provider=self.name),
        )

    def _options(self, target: Target, headers: Headers) -> RequestOptions:
        version = target.endpoint.api_version
        query: RequestOptions = {"params": {"api-version": version}} if version else {}
        return {**super()._options(target, headers), **query}

    async def _authenticated(
        self, target: Target, send: Callable[[Headers], Awaitable[httpx2.Response]]
    ) -> httpx2.Response:
        """Raises CredentialReplaced when a token is refused that was good before, and another one is there."""
        if target.endpoint.auth == "api_key":
            return await send(_key_headers(target))
        credentials = entra.credentials_of(target.key)
        asked_at = time.monotonic()
        token = await self._tokens.get(credentials)
        try:
            return await send({"Authorization": f"Bearer {token.value}"})
        except openai.AuthenticationError as exc:
            if token.obtained_at >= asked_at or not await self._tokens.replace(credentials, token):
                raise
            raise CredentialReplaced(
                f"{self.name} refused a token of Entra ID before its time; it was replaced",
                provider=self.name,
                status=exc.status_code,
            ) from exc


ADAPTER = Azure


def base_url(endpoint: Endpoint) -> str:
    """What all calls to an endpoint begin with. Raises NoProvider when the endpoint names no resource."""
    if endpoint.base_url is None:
        raise NoProvider(
            f"the endpoint {endpoint.name} of azure has no base_url; give it the resource's address, as "
            "https://<resource>.openai.azure.com, with PUT /api/v1/llm-providers/{id}",
            provider="azure",
        )
    url = endpoint.base_url.rstrip("/")
    if _is_complete(url):
        return url
    root = url if urlsplit(url).path.endswith("/openai") else f"{url}/openai"
    return root if endpoint.api_version else f"{root}/v1"


def chat_path(endpoint: Endpoint, model: str) -> str:
    """The path of a chat completion behind the base URL."""
    if not endpoint.api_version or _is_complete(base_url(endpoint)):
        return "/chat/completions"
    return f"/deployments/{in_path(deployment_of(endpoint, model), provider=Azure.name)}/chat/completions"


def models_url(endpoint: Endpoint) -> str:
    """A deployment's own address lists nothing, its resource's does; the inference API tells about its model only."""
    url = base_url(endpoint)
    if _is_inference(url):
        return "/info"
    return f"{url.partition('/deployments/')[0]}/models"


def deployment_of(endpoint: Endpoint, model: str) -> str:
    return (endpoint.deployments or {}).get(model, model)


def max_tokens_field(call: Call) -> str:
    """The name under which the endpoint knows the output limit; see the module's docstring."""
    endpoint = call.target.endpoint
    names = _model_and_deployment(call)
    if not endpoint.api_version and not _is_inference(base_url(endpoint)):
        return "max_tokens" if is_of_another_maker(names) else "max_completion_tokens"
    return "max_completion_tokens" if any(map(_REASONING_MODEL.match, names)) else "max_tokens"


def _model_and_deployment(call: Call) -> tuple[str, str]:
    """Both names of a model: either may tell whose it is."""
    return call.model, deployment_of(call.target.endpoint, call.model)


def _knows_stream_options(endpoint: Endpoint) -> bool:
    is_classic = endpoint.api_version and not _is_inference(base_url(endpoint))
    return not is_classic or (endpoint.api_version or "") >= _STREAM_OPTIONS_SINCE


def _is_inference(url: str) -> bool:
    """Whether a URL is that of Azure's inference API, which serves the models of other makers."""
    return urlsplit(url).path.endswith("/models")


def _is_complete(url: str) -> bool:
    path = urlsplit(url).path
    return _is_inference(url) or path.endswith("/v1") or "/deployments/" in path


def _key_headers(target: Target) -> Headers:
    key = target.key.get_secret_value() if target.key else None
    if not target.endpoint.api_version:
        return {} if key else {"Authorization": Omit()}
    return {"Authorization": Omit(), **({"api-key": key} if key else {})}
