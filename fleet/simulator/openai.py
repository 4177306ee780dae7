"""OpenAI's chat completions, models and error bodies, as api.openai.com sends them."""

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from fleet.simulator.openai_rules import fault_of
from fleet.simulator.request_body import OR_TEXT, BadBody, Form, read_body
from fleet.simulator.script import Script
from fleet.simulator.vendor import Ask, Frame, HttpAnswer, HttpRequest, Stated
from workers.providers.shared.token_estimates import estimate_output

MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-5-mini", "o4-mini")

REFUSED_KEY = "invalid"
"""A key that holds this word is refused, and shown masked in the error, as OpenAI does."""

_ERRORS: dict[str, tuple[int, str, str, str | None]] = {
    "invalid_request_error": (400, "Invalid value for 'temperature'.", "invalid_request_error", None),
    "context_length_exceeded": (
        400,
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 130001 tokens. "
        "Please reduce the length of the messages.",
        "invalid_request_error",
        "context_length_exceeded",
    ),
    "content_policy_violation": (
        400,
        "Your request was rejected as a result of our safety system.",
        "invalid_request_error",
        "content_policy_violation",
    ),
    "invalid_api_key": (
        401,
        "Incorrect API key provided: {masked_key}. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        "invalid_request_error",
        "invalid_api_key",
    ),
    "unsupported_country_region_territory": (
        403,
        "Country, region, or territory not supported",
        "request_forbidden",
        "unsupported_country_region_territory",
    ),
    "model_not_found": (
        404,
        "The model `{model}` does not exist or you do not have access to it.",
        "invalid_request_error",
        "model_not_found",
    ),
    "timeout": (408, "Request timed out.", "timeout", None),
    "conflict": (409, "The resource was changed by another request.", "invalid_request_error", None),
    "too_large": (413, "Request body too large.", "invalid_request_error", None),
    "unprocessable": (422, "The request could not be processed.", "invalid_request_error", None),
    "insufficient_quota": (
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    "rate_limit_exceeded": (
        429,
        "Rate limit reached for {model} in organization org-simulated on requests per min (RPM): Limit 3, Used 3, "
        "Requested 1.",
        "requests",
        "rate_limit_exceeded",
    ),
    "server_error": (
        500,
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
    ),
    "bad_gateway": (502, "Bad gateway.", "server_error", None),
    "overloaded": (503, "The engine is currently overloaded, please try again later.", "server_error", "overloaded"),
    "gateway_timeout": (504, "Gateway timeout.", "server_error", None),
}
_DELTA = "\N{REPLACEMENT CHARACTER} delta"
_BY_STATUS = {status: name for name, (status, *_) in reversed(_ERRORS.items())}


class _ToolCall(Form):
    id: str
    extra_content: dict[str, dict[str, Any]] | None = None


class _Message(Form):
    role: str
    content: Annotated[list[dict[str, Any]], OR_TEXT] | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str = ""


class _StreamOptions(Form):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Completion(Form):
    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


class OpenAI:
    """OpenAI's format, see `Vendor`, with the rules of further servers that speak it."""

    name = "openai"
    prefix = "/v1"
    ping = b": ping\n\n"

    def __init__(self) -> None:
        self._serial = itertools.count(1)

    def answer(self, request: HttpRequest) -> HttpAnswer | Ask | None:
        key = request.headers.get("authorization", "").removeprefix("Bearer ").strip() or None
        if request.path == "/v1/chat/completions" and request.method == "POST":
            return self.ask(request, key)
        if request.path.startswith("/v1/models") and request.method == "GET":
            return self.refusal(key) or list_models(request.path.removeprefix("/v1/models").strip("/"))
        return None

    def ask(self, request: HttpRequest, key: str | None, *, deployment: str | None = None) -> HttpAnswer | Ask:
        """The completion that the request asks for, or the answer that refuses it. `deployment` is the model that the
        path names, which counts whatever the body says; None when the path names none. Raises BadBody."""
        if refused := self.refusal(key):
            return refused
        body = read_body(request.body, _Completion, **({"model": deployment} if deployment else {}))
        model = body["model"]
        if fault := fault_of(body, model=model):
            message, code = fault
            return _answer(400, message, "invalid_request_error", code)
        return Ask(
            model=model,
            stream=bool(body.get("stream")),
            body=body,
            key=key,
            request_id=request.headers.get("x-client-request-id"),
        )

    def bad_request(self, fault: BadBody) -> HttpAnswer:
        if not fault.path:
            message, code = "We could not parse the JSON body of your request.", None
        elif fault.is_missing:
            message, code = f"Missing required parameter: '{fault.place}'.", "missing_required_parameter"
        else:
            message, code = f"Invalid type for '{fault.place}'.", "invalid_type"
        return _answer(400, message, "invalid_request_error", code)

    def refusal(self, key: str | None) -> HttpAnswer | None:
        """The answer to a key that is missing or refused; None when it is taken."""
        if key is None:
            return _answer(401, "You didn't provide an API key.", "invalid_request_error", None)
        return _named("invalid_api_key", model="", key=key) if REFUSED_KEY in key else None

    def error(self, ask: Ask, script: Script) -> HttpAnswer:
        if isinstance(script.error, dict):
            return HttpAnswer(script.status or 400, json.dumps(script.error).encode())
        named = _named(
            script.error or _BY_STATUS.get(script.status or 500, "server_error"), model=ask.model, key=ask.key
        )
        return HttpAnswer(script.status or named.status, named.body)

    def error_frame(self, ask: Ask, script: Script) -> bytes:
        return b"data: " + self.error(ask, script).body + b"\n\n"

    def stream_headers(self) -> Mapping[str, str]:
        return {"content-type": "text/event-stream; charset=utf-8", "openai-version": "2020-10-01"}

    def frames(self, ask: Ask, script: Script) -> Iterator[Frame]:
        envelope = self._envelope(ask, script, "chat.completion.chunk")
        options = ask.body.get("stream_options") or {}
        extra: dict[str, Any] = {"usage": None} if options.get("include_usage") else {}
        if options.get("include_obfuscation", True):
            extra["obfuscation"] = "x" * 12

        # What stands before and behind the delta is the same in every chunk of a stream, and is encoded once.
        choice = {"index": 0, "delta": _DELTA, "finish_reason": None, "logprobs": None}
        chunk = f"data: {_encode({**envelope, 'choices': [choice], **extra})}\n\n".encode()
        before, after = chunk.split(_encode(_DELTA).encode())

        def frame(delta: dict[str, Any], *, reason: str | None = None, is_output: bool = True) -> Frame:
            ending = after if reason is None else after.replace(b"null", json.dumps(reason).encode(), 1)
            return Frame(before + _encode(delta).encode() + ending, is_output=is_output)

        yield frame({"role": "assistant", "content": "", "refusal": None}, is_output=False)
        for piece in script.pieces(script.reasoning):
            yield frame({"reasoning_content": piece})
        for piece in script.pieces(_text(ask, script)):
            yield frame({"content": piece})
        for piece in script.pieces(script.refusal):
            yield frame({"refusal": piece})
        for index, call in enumerate(_tool_calls(script)):
            function = call["function"]
            begin = {**call, "index": index, "function": {"name": function["name"], "arguments": ""}}
            yield frame({"tool_calls": [begin]})
            for piece in script.pieces(function["arguments"]):
                yield frame({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        if not script.end_marker:
            return
        yield frame({}, reason=script.reason, is_output=False)
        if options.get("include_usage") and (usage := self._usage(ask, script)):
            last = {**envelope, "choices": [], **extra, "usage": usage}
            yield Frame(f"data: {_encode(last)}\n\n".encode(), is_output=False)
        yield Frame(b"data: [DONE]\n\n", is_output=False)

    def whole(self, ask: Ask, script: Script) -> bytes:
        calls = _tool_calls(script)
        message = {
            "role": "assistant",
            "content": _text(ask, script) or None,
            "refusal": script.refusal or None,
            **({"reasoning_content": script.reasoning} if script.reasoning else {}),
            **({"tool_calls": calls} if calls else {}),
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": script.reason}
        body = {
            **self._envelope(ask, script, "chat.completion"),
            "choices": [choice],
            "usage": self._usage(ask, script),
        }
        return json.dumps(body, ensure_ascii=False).encode()

    def stated(self, ask: Ask, script: Script) -> Stated | None:
        usage = self._usage(ask, script)
        return Stated(usage["prompt_tokens"], usage["completion_tokens"]) if usage else None

    def _usage(self, ask: Ask, script: Script) -> dict[str, Any] | None:
        if script.usage is None:
            return None
        said = [script.reasoning, _text(ask, script), script.refusal]
        said += [call["function"]["name"] + call["function"]["arguments"] for call in _tool_calls(script)]
        given, out = script.usage.input_tokens, script.usage.output_tokens
        if given is None:
            given = sum(4 + sum(estimate_output(text) for text in _texts(message)) for message in ask.body["messages"])
        out = estimate_output("".join(said)) if out is None else out
        return {
            "prompt_tokens": given,
            "completion_tokens": out,
            "total_tokens": given + out,
            "prompt_tokens_details": {"cached_tokens": script.usage.cache_read_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": script.usage.reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def _envelope(self, ask: Ask, script: Script, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-sim{next(self._serial)}",
            "object": kind,
            "created": int(time.time()),
            "model": ask.model,
            "service_tier": script.service_tier or "default",
            "system_fingerprint": None,
        }


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _text(ask: Ask, script: Script) -> str:
    return script.output(last_user_text=last_user_text(ask.body["messages"]))


def last_user_text(messages: list[dict[str, Any]]) -> str:
    """What the user said last, for answers that repeat it."""
    said = [message for message in messages if message.get("role") == "user"]
    return " ".join(_texts(said[-1])) if said else "nothing"


def _texts(message: dict[str, Any]) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part.get("text"), str)]


def _tool_calls(script: Script) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id or f"call_sim_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_text},
        }
        for index, call in enumerate(script.tool_calls)
    ]


def list_models(model: str) -> HttpAnswer:
    """The answer to a question for one model, or for all of them when `model` is empty."""
    listed = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "openai"} for name in MODELS]
    if not model:
        return HttpAnswer(200, json.dumps({"object": "list", "data": listed}).encode())
    found = [entry for entry in listed if entry["id"] == model]
    return HttpAnswer(200, json.dumps(found[0]).encode()) if found else _named("model_not_found", model=model, key=None)


def _named(name: str, *, model: str, key: str | None) -> HttpAnswer:
    status, message, kind, code = _ERRORS.get(name, (400, name, "invalid_request_error", name))
    masked = f"{(key or '')[:8]}{'*' * 12}{(key or '')[-4:]}"
    return _answer(status, message.format(model=model, masked_key=masked), kind, code)


def _answer(status: int, message: str, kind: str, code: str | None) -> HttpAnswer:
    error = {"message": message, "type": kind, "param": None, "code": code}
    return HttpAnswer(status, json.dumps({"error": error}).encode())
