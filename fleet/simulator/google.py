"""Gemini's generateContent, countTokens, models and error bodies, as generativelanguage.googleapis.com sends them.

Under `/google`, because other vendors list their models on the same path. From Gemini 3 on, calls are signed, and a
conversation whose calls have lost their signature is refused; so are blank parts, calls that no user's turn leads to,
and images of other types.
"""

import base64
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

from fleet.simulator.request_body import BadBody, Form, read_body
from fleet.simulator.script import Script
from fleet.simulator.vendor import Ask, Frame, HttpAnswer, HttpRequest, Stated
from workers.providers.shared.token_estimates import estimate_output

MODELS = ("gemini-2.5-flash", "gemini-2.5-pro", "gemini-3-flash-preview", "gemini-3.8-flash")
SIGNATURE = base64.b64encode(b"signed by the simulator").decode()

_INPUT_LIMIT = 1_048_576
_REFUSED_KEY = "invalid"
_PATH = re.compile(
    r"/google/v1(?:alpha|beta)?/(?P<name>(?:models|tunedModels)(?:/(?P<model>[^:]+))?)(?::(?P<method>\w+))?"
)
_SIGNS = re.compile(r"gemini-(?:[3-9]|\d\d)")
_FINISH_REASONS = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
"""The usual names, for scripts that do not care which vendor they are for."""
_IMAGES = frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"})
_TEXT = "\N{REPLACEMENT CHARACTER} text"

_ERRORS: dict[str, tuple[int, str, str, tuple[dict[str, Any], ...]]] = {
    "invalid_request_error": (400, "INVALID_ARGUMENT", "Invalid value at 'generation_config.temperature'.", ()),
    "context_length_exceeded": (
        400,
        "INVALID_ARGUMENT",
        "The input token count (1250074) exceeds the maximum number of tokens allowed (1048576).",
        (),
    ),
    "content_policy_violation": (
        400,
        "INVALID_ARGUMENT",
        "The prompt could not be submitted. It contains words that violate Google's Responsible AI practices.",
        (),
    ),
    "invalid_api_key": (
        400,
        "INVALID_ARGUMENT",
        "API key not valid. Please pass a valid API key.",
        (
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": "generativelanguage.googleapis.com"},
            },
        ),
    ),
    "unsupported_country_region_territory": (
        403,
        "PERMISSION_DENIED",
        "User location is not supported for the API use.",
        (),
    ),
    "model_not_found": (
        404,
        "NOT_FOUND",
        "models/{model} is not found for API version v1, or is not supported for generateContent. Call "
        "ModelService.ListModels to see the list of available models and their supported methods.",
        (),
    ),
    "timeout": (408, "DEADLINE_EXCEEDED", "The request timed out.", ()),
    "conflict": (409, "ABORTED", "The operation was aborted.", ()),
    "too_large": (413, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes.", ()),
    "unprocessable": (422, "INVALID_ARGUMENT", "The request could not be processed.", ()),
    "insufficient_quota": (
        429,
        "RESOURCE_EXHAUSTED",
        "Your prepayment credits are depleted. Please go to AI Studio to manage your project and billing.",
        (),
    ),
    "rate_limit_exceeded": (
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details. * Quota exceeded for metric: "
        "generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 15, model: {model}",
        (
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [
                    {
                        "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                        "quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
                        "quotaValue": "15",
                    }
                ],
            },
        ),
    ),
    "server_error": (500, "INTERNAL", "An internal error has occurred. Please retry.", ()),
    "bad_gateway": (502, "UNKNOWN", "Bad gateway.", ()),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", ()),
    "gateway_timeout": (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete.", ()),
    "missing_signature": (
        400,
        "INVALID_ARGUMENT",
        "Function call is missing a thought_signature in functionCall parts. This is required for tools to work "
        "correctly.",
        (),
    ),
}
_BY_STATUS = {status: name for name, (status, *_) in reversed(_ERRORS.items())} | {400: "invalid_request_error"}


class _Form(Form):
    model_config = ConfigDict(alias_generator=to_camel)


class _Blob(_Form):
    mime_type: str | None = None


class _Part(_Form):
    text: str | None = None
    inline_data: _Blob | None = None


class _Content(_Form):
    role: str | None = None
    parts: list[_Part] | None = None


class _Generation(_Form):
    contents: list[_Content]
    system_instruction: _Content | None = None


class _NamedGeneration(_Generation):
    model: str | None = None


class _Count(_Form):
    generate_content_request: _NamedGeneration | None = None


class Google:
    """Gemini's format; see `Vendor`."""

    name = "google"
    prefix = "/google"
    ping = b": ping\r\n\r\n"

    def __init__(self) -> None:
        self._serial = itertools.count(1)

    def answer(self, request: HttpRequest) -> HttpAnswer | Ask | None:
        found = _PATH.fullmatch(request.path)
        if not found:
            return None
        query = parse_qs(request.query)
        key = request.headers.get("x-goog-api-key") or next(iter(query.get("key", [])), None)
        if key is None:
            return _answer("Method doesn't allow unregistered callers.", status=403, kind="PERMISSION_DENIED")
        if _REFUSED_KEY in key:
            return _named("invalid_api_key", model="")
        match request.method, found["model"], found["method"]:
            case "GET", model, None:
                return _models(model, query)
            case "POST", str(model), ("generateContent" | "streamGenerateContent") as method:
                return _ask(request, model=model, key=key, stream=method == "streamGenerateContent")
            case "POST", str(model), "countTokens":
                counted = read_body(request.body, _Count).get("generateContentRequest")
                if counted is None:
                    counted = read_body(request.body, _Generation)
                elif counted.get("model") != f"models/{model}":
                    return _answer("GenerateContentRequest.model: unexpected model name format")
                tokens = _input_tokens(counted)
                details = [{"modality": "TEXT", "tokenCount": tokens}]
                return HttpAnswer(200, json.dumps({"totalTokens": tokens, "promptTokensDetails": details}).encode())
            case _:
                return _named("model_not_found", model=found["name"])

    def bad_request(self, fault: BadBody) -> HttpAnswer:
        if not fault.path:
            return _answer("Invalid JSON payload received.")
        if fault.is_missing:
            return _answer(f"GenerateContentRequest.{fault.path[-1]}: {fault.path[-1]} is not specified")
        return _answer(f"Invalid value at '{fault.place}'.")

    def error(self, ask: Ask, script: Script) -> HttpAnswer:
        if isinstance(script.error, dict):
            return HttpAnswer(script.status or 400, json.dumps(script.error).encode())
        named = _named(script.error or _BY_STATUS.get(script.status or 500, "server_error"), model=ask.model)
        return HttpAnswer(script.status or named.status, named.body)

    def error_frame(self, ask: Ask, script: Script) -> bytes:
        return b"data: " + json.dumps(json.loads(self.error(ask, script).body)).encode() + b"\r\n\r\n"

    def stream_headers(self) -> Mapping[str, str]:
        return {"content-type": "text/event-stream", "vary": "Origin", "x-content-type-options": "nosniff"}

    def frames(self, ask: Ask, script: Script) -> Iterator[Frame]:
        envelope = self._envelope(ask)
        usage = _usage(ask, script)
        given = usage["promptTokenCount"]
        begun = {"promptTokenCount": given, "totalTokenCount": given, "serviceTier": usage["serviceTier"]}
        running: dict[str, Any] = {"usageMetadata": begun} if script.usage else {}

        def event(parts: list[dict[str, Any]], **candidate: Any) -> bytes:
            content = {"parts": parts, "role": "model"}
            body = {"candidates": [{"content": content, **candidate, "index": 0}], **running, **envelope}
            return b"data: " + _encode(body).encode() + b"\r\n\r\n"

        for fields, said in (({"thought": True}, script.reasoning), ({}, _text(ask, script))):
            before, after = event([{"text": _TEXT, **fields}]).split(_encode(_TEXT).encode())
            for piece in script.pieces(said):
                yield Frame(before + _encode(piece).encode() + after)
        for part in _call_parts(ask, script):
            yield Frame(event([part]))
        if script.end_marker:
            running = {"usageMetadata": usage} if script.usage else {}
            yield Frame(event([{"text": ""}], finishReason=_finish_reason(script)), is_output=False)

    def whole(self, ask: Ask, script: Script) -> bytes:
        thought = [{"text": script.reasoning, "thought": True}] if script.reasoning else []
        said = [{"text": text}] if (text := _text(ask, script)) else []
        content = {"parts": [*thought, *said, *_call_parts(ask, script)], "role": "model"}
        candidate = {"content": content, "finishReason": _finish_reason(script), "index": 0}
        usage = {"usageMetadata": _usage(ask, script)} if script.usage else {}
        body = {"candidates": [candidate], **usage, **self._envelope(ask)}
        return json.dumps(body, ensure_ascii=False, indent=2).encode()

    def stated(self, ask: Ask, script: Script) -> Stated | None:
        if script.usage is None:
            return None
        usage = _usage(ask, script)
        return Stated(usage["promptTokenCount"], usage["candidatesTokenCount"] + usage["thoughtsTokenCount"])

    def _envelope(self, ask: Ask) -> dict[str, Any]:
        return {"modelVersion": ask.model, "responseId": f"sim{next(self._serial)}"}


_encode = json.JSONEncoder(ensure_ascii=False).encode


def _ask(request: HttpRequest, *, model: str, key: str, stream: bool) -> HttpAnswer | Ask:
    body = read_body(request.body, _Generation)
    contents = body["contents"]
    if not all(content.get("parts") for content in contents):
        return _answer("GenerateContentRequest.contents: contents.parts must not be empty.")
    if fault := _fault_of([*contents, body.get("systemInstruction") or {}]):
        return _answer(fault)
    if _SIGNS.match(model):
        for content in contents:
            calls = [part for part in content["parts"] if "functionCall" in part]
            if calls and "thoughtSignature" not in calls[0]:
                return _named("missing_signature", model=model)
    return Ask(model=model, stream=stream, body=body, key=key, request_id=request.headers.get("x-client-request-id"))


def _fault_of(contents: list[dict[str, Any]]) -> str | None:
    """What the API refuses about a conversation: empty parts, other types of images, calls that follow no user's turn.
    None: nothing."""
    before = "model"
    for content in contents:
        for part in content.get("parts") or ():
            if not part or (part.get("text") == "" and "thoughtSignature" not in part):
                return "parts.data: required oneof field 'data' must have one initialized field"
            media_type = (part.get("inlineData") or {}).get("mimeType")
            if media_type and media_type not in _IMAGES:
                return f"Unsupported MIME type: {media_type}"
            if "functionCall" in part and before == "model":
                return (
                    "Please ensure that function call turn comes immediately after a user turn or after a function "
                    "response turn."
                )
        before = content.get("role", "user")
    return None


def _models(model: str | None, query: Mapping[str, list[str]]) -> HttpAnswer:
    listed = [
        {
            "name": f"models/{name}",
            "displayName": name,
            "inputTokenLimit": _INPUT_LIMIT,
            "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }
        for name in MODELS
    ]
    if model:
        found = [entry for entry in listed if entry["name"] == f"models/{model}"]
        return HttpAnswer(200, json.dumps(found[0]).encode()) if found else _named("model_not_found", model=model)
    listed.append({"name": "models/gemini-embedding-001", "supportedGenerationMethods": ["embedContent"]})
    try:
        size = int(query.get("pageSize", ["50"])[0])
        begin = int(query.get("pageToken", ["0"])[0])
    except ValueError:
        return _answer("Invalid value at 'page_size' or 'page_token'.")
    rest = {"nextPageToken": str(begin + size)} if begin + size < len(listed) else {}
    return HttpAnswer(200, json.dumps({"models": listed[begin : begin + size], **rest}).encode())


def _text(ask: Ask, script: Script) -> str:
    """What the answer says. Gemini has no field for a refusal, and refuses in plain words."""
    asked = [texts for content in ask.body["contents"] if content.get("role") == "user" and (texts := _texts(content))]
    return script.output(last_user_text=" ".join(asked[-1]) if asked else "nothing") or script.refusal


def _texts(content: dict[str, Any]) -> list[str]:
    return [part["text"] for part in content.get("parts") or () if isinstance(part.get("text"), str)]


def _input_tokens(body: Mapping[str, Any]) -> int:
    contents = [*body["contents"], body.get("systemInstruction") or {}]
    return sum(4 + sum(estimate_output(text) for text in _texts(content)) for content in contents)


def _call_parts(ask: Ask, script: Script) -> Iterator[dict[str, Any]]:
    for index, call in enumerate(script.tool_calls):
        made = {"name": call.name, "args": call.arguments_value, **({"id": call.id} if call.id else {})}
        signed = {"thoughtSignature": SIGNATURE} if index == 0 and _SIGNS.match(ask.model) else {}
        yield {"functionCall": made, **signed}


def _finish_reason(script: Script) -> str:
    return _FINISH_REASONS.get(script.reason, script.reason)


def _usage(ask: Ask, script: Script) -> dict[str, Any]:
    given = script.usage.input_tokens if script.usage else None
    out = script.usage.output_tokens if script.usage else None
    thoughts = script.usage.reasoning_tokens if script.usage else 0
    cached = script.usage.cache_read_tokens if script.usage else 0
    if given is None:
        given = _input_tokens(ask.body)
    if out is None:
        calls = [f"{call.name}{call.arguments}" for call in script.tool_calls]
        out = max(estimate_output("".join([script.reasoning, _text(ask, script), *calls])), thoughts)
    return {
        "promptTokenCount": given,
        "candidatesTokenCount": out - thoughts,
        "totalTokenCount": given + out,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": given}],
        "thoughtsTokenCount": thoughts,
        **({"cachedContentTokenCount": cached} if cached else {}),
        "serviceTier": script.service_tier or "standard",
    }


def _named(name: str, *, model: str) -> HttpAnswer:
    status, kind, message, details = _ERRORS.get(name, (400, "INVALID_ARGUMENT", name, ()))
    return _answer(message.format(model=model), status=status, kind=kind, details=details)


def _answer(
    message: str, *, status: int = 400, kind: str = "INVALID_ARGUMENT", details: tuple[dict[str, Any], ...] = ()
) -> HttpAnswer:
    error = {"code": status, "message": message, "status": kind, **({"details": details} if details else {})}
    return HttpAnswer(status, json.dumps({"error": error}, indent=2).encode())
