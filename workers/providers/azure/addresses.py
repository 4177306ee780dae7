"""Where a model is called at an endpoint of Azure OpenAI, and what the API there is given.

| endpoint | called at |
|---|---|
| with `api_version` | `<base_url>/openai/deployments/<deployment>/chat/completions?api-version=…`, the classic API |
| without | `<base_url>/openai/v1/chat/completions`, the v1 API |
| `base_url` ends with `/v1`, `/models` or a deployment | as it is given, with the `api-version` if there is one |

The output limit: v1 knows `max_completion_tokens`, but not of every other maker's models: Mistral in Foundry refuses it
(422, `extra_forbidden`). The classic API knows it for reasoning models only, which refuse `max_tokens`. Models are told
by their name, so that a deployment with another name needs its entry in `deployments`.
`stream_options` came with the classic API of 2024-09-01; an older one refuses it and states no usage for a stream.
"""

import re
from urllib.parse import urlsplit

from contracts.errors import NoProvider
from contracts.providers import Endpoint
from workers.providers.base import Call
from workers.providers.openai.servers import is_of_another_maker
from workers.providers.shared.http.paths import in_path, url_behind

_REASONING_MODEL = re.compile(r"^(?:o\d|gpt-[5-9]|codex-)")
_SEGMENT_SAFE = "!$&'()*+,;=:@"
"""What is not quoted in a deployment's name, beside letters and digits (RFC 3986, 3.3)."""
_STREAM_OPTIONS_SINCE = "2024-09-01"


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


def chat_url(endpoint: Endpoint, model: str) -> str:
    """Where a model is asked for a chat completion."""
    url, path = base_url(endpoint), "chat/completions"
    if endpoint.api_version and not _is_complete(url):
        deployment = in_path(deployment_of(endpoint, model), provider="azure", safe=_SEGMENT_SAFE)
        path = f"deployments/{deployment}/{path}"
    return url_behind(url, path, query=f"api-version={endpoint.api_version}" if endpoint.api_version else "")


def models_url(endpoint: Endpoint) -> str:
    """Where an endpoint's models are listed: at its resource, because a deployment's own address lists none.

    The inference API has no list. It tells about its one model at `/info`.
    """
    url = base_url(endpoint)
    if _is_inference(url):
        return "/info"
    return f"{url.partition('/deployments/')[0]}/models"


def deployment_of(endpoint: Endpoint, model: str) -> str:
    """The name under which the endpoint knows a model: its own where no deployment is configured."""
    return (endpoint.deployments or {}).get(model, model)


def max_tokens_field(call: Call) -> str:
    """The name under which the endpoint knows the output limit; see the module's docstring."""
    endpoint = call.target.endpoint
    names = model_and_deployment(call)
    if not endpoint.api_version and not _is_inference(base_url(endpoint)):
        return "max_tokens" if is_of_another_maker(names) else "max_completion_tokens"
    return "max_completion_tokens" if any(map(_REASONING_MODEL.match, names)) else "max_tokens"


def model_and_deployment(call: Call) -> tuple[str, str]:
    """Both names of a model: either may tell whose it is."""
    return call.model, deployment_of(call.target.endpoint, call.model)


def knows_stream_options(endpoint: Endpoint) -> bool:
    """Whether the endpoint's API states the usage of a stream when it is asked to."""
    is_classic = endpoint.api_version and not _is_inference(base_url(endpoint))
    return not is_classic or (endpoint.api_version or "") >= _STREAM_OPTIONS_SINCE


def _is_inference(url: str) -> bool:
    """Whether a URL is that of Azure's inference API, which serves the models of other makers."""
    return urlsplit(url).path.endswith("/models")


def _is_complete(url: str) -> bool:
    path = urlsplit(url).path
    return _is_inference(url) or path.endswith("/v1") or "/deployments/" in path
