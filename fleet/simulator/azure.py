"""Azure OpenAI's classic and v1 paths, its content filter's annotations, and Entra ID beside it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fleet.simulator import openai
from fleet.simulator.entra import Entra, is_token
from fleet.simulator.script import Script
from fleet.simulator.vendor import Ask, Frame, HttpAnswer, HttpRequest

_CHAT = re.compile(r"/openai/(?:deployments/(?P<deployment>[^/]+)|v1)/chat/completions")
_MODELS = re.compile(r"/openai/(?:v1/)?models")

_SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
_FILTERED = {**_SAFE, "violence": {"filtered": True, "severity": "high"}}
_PROMPT_FILTERED = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": _FILTERED},
    }
}
_ERRORS: dict[str, tuple[int, dict[str, Any]]] = {
    "content_policy_violation": (400, _PROMPT_FILTERED),
    "invalid_api_key": (
        401,
        {
            "error": {
                "code": "401",
                "message": "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide "
                "a valid key for an active subscription and use a correct regional API endpoint for your resource.",
            }
        },
    ),
    "model_not_found": (
        404,
        {
            "error": {
                "code": "DeploymentNotFound",
                "message": "The API deployment for this resource does not exist. If you created the deployment within "
                "the last 5 minutes, please wait a moment and try again.",
            }
        },
    ),
    "rate_limit_exceeded": (
        429,
        {"error": {"code": "RateLimitReached", "message": "Your requests to the deployment exceeded the rate limit."}},
    ),
}
_TOKEN_REFUSED = {
    "statusCode": 401,
    "message": "Unauthorized. Access token is missing, invalid, audience is incorrect, or have expired.",
}


class Azure(openai.OpenAI):
    """OpenAI's format on Azure's paths, see `Vendor`, with tokens of Entra ID beside keys."""

    name = "azure"
    prefix = ""

    def __init__(self, entra: Entra) -> None:
        super().__init__()
        self._entra = entra

    def answer(self, request: HttpRequest) -> HttpAnswer | Ask | None:
        if granted := self._entra.answer(request):
            return granted
        chat, models = _CHAT.fullmatch(request.path), _MODELS.fullmatch(request.path)
        if not (chat and request.method == "POST") and not (models and request.method == "GET"):
            return None
        is_v1 = request.path.startswith("/openai/v1/")
        if not is_v1 and "api-version=" not in request.query:
            return _error(404, {"error": {"code": "404", "message": "Resource not found"}})
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if is_token(bearer) and not self._entra.takes(bearer):
            return _error(401, _TOKEN_REFUSED)
        key = request.headers.get("api-key") or (bearer if is_v1 or is_token(bearer) else None)
        if not chat:
            return self.refusal(key) or openai.list_models("")
        return self.ask(request, key, deployment=chat["deployment"])

    def error(self, ask: Ask, script: Script) -> HttpAnswer:
        named = script.error if isinstance(script.error, str) else ""
        if found := _ERRORS.get(named):
            return _error(script.status or found[0], found[1])
        return super().error(ask, script)

    def stream_headers(self) -> Mapping[str, str]:
        return {"content-type": "text/event-stream; charset=utf-8", "apim-request-id": "sim", "x-ms-region": "Sim"}

    def frames(self, ask: Ask, script: Script) -> Iterator[Frame]:
        filtered = {"prompt_index": 0, "content_filter_results": _SAFE}
        empty = {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": [filtered]}
        yield Frame(b"data: " + json.dumps(empty).encode() + b"\n\n", is_output=False)
        yield from super().frames(ask, script)

    def whole(self, ask: Ask, script: Script) -> bytes:
        body = json.loads(super().whole(ask, script))
        result = _FILTERED if script.finish_reason == "content_filter" else _SAFE
        body["choices"][0]["content_filter_results"] = result
        body["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": _SAFE}]
        return json.dumps(body, ensure_ascii=False).encode()

    def refusal(self, key: str | None) -> HttpAnswer | None:
        if key is None or openai.REFUSED_KEY in key:
            return _error(*_ERRORS["invalid_api_key"])
        return None


def _error(status: int, body: dict[str, Any]) -> HttpAnswer:
    return HttpAnswer(status, json.dumps(body).encode())
