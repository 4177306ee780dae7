"""Ollama's native API: chats in lines of JSON, the models of its machine, pulling and creating more of them."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fleet.simulator.openai import REFUSED_KEY, last_user_text
from fleet.simulator.request_body import OR_TEXT, BadBody, Form, read_body
from fleet.simulator.script import Script, ScriptedToolCall
from fleet.simulator.vendor import Ask, Frame, HttpAnswer, HttpRequest, Stated
from workers.providers.shared.token_estimates import estimate_output

MODELS = ("llama3.2:latest", "qwen3:8b", "gpt-oss:20b")
CONTEXT_WINDOW = 131_072
LAYER_BYTES = 2_000_000_000

_ERRORS: dict[str, tuple[int, str]] = {
    "invalid_request_error": (400, "invalid options: temperature"),
    "context_length_exceeded": (400, "the input length exceeds the context length"),
    "tools_unsupported": (400, "registry.ollama.ai/library/{model} does not support tools"),
    "thinking_unsupported": (400, '"{model}" does not support thinking'),
    "invalid_api_key": (401, "unauthorized"),
    "unsupported_country_region_territory": (403, "access denied"),
    "model_not_found": (404, "model '{model}' not found"),
    "timeout": (408, "request timed out"),
    "conflict": (409, "the model is being changed"),
    "too_large": (413, "request body too large"),
    "unprocessable": (422, "the request could not be processed"),
    "insufficient_quota": (429, "you have reached your weekly usage limit, upgrade for higher limits"),
    "rate_limit_exceeded": (429, "too many concurrent requests"),
    "server_error": (500, "llama runner process has terminated: exit status 2"),
    "bad_gateway": (502, "upstream error"),
    "overloaded": (503, "server busy, please try again.  maximum pending requests exceeded"),
    "gateway_timeout": (504, "upstream timed out"),
}
_BY_STATUS = {status: name for name, (status, _) in reversed(_ERRORS.items())}
_ABSENT = "absent"
"""A model whose name holds this word cannot be pulled."""


class _Message(Form):
    role: str | None = None
    content: Annotated[list[dict[str, Any]], OR_TEXT] | None = None


class _Request(Form):
    model: str | None = None
    messages: list[_Message] | None = None
    stream: bool | None = None


class Ollama:
    """Ollama's format, see `Vendor`, and the models that the server has."""

    name = "ollama"
    prefix = ""
    ping = b"\n"
    """Ollama sends none; a proxy that keeps a connection alive can send this."""

    def __init__(self) -> None:
        self.models: list[str] = list(MODELS)

    def answer(self, request: HttpRequest) -> HttpAnswer | Ask | None:
        if not request.path.startswith("/api/"):
            return None
        key = request.headers.get("authorization", "").removeprefix("Bearer ").strip() or None
        if key and REFUSED_KEY in key:
            return _named("invalid_api_key")
        match request.method, request.path:
            case "GET", "/api/version":
                return _json({"version": "0.31.1"})
            case "GET", "/api/tags":
                details = {
                    "parameter_size": "3.2B",
                    "quantization_level": "Q4_K_M",
                    "format": "gguf",
                    "family": "llama",
                }
                about = {"size": LAYER_BYTES, "digest": "74701a8c35f6", "details": details}
                return _json({"models": [{"name": model, "model": model, **about} for model in self.models]})
            case _:
                pass
        if request.method != "POST":
            return _json({"error": "missing request body"}, status=400)
        body = read_body(request.body, _Request)
        model = body.get("model")
        if not model:
            return _json({"error": "model is required"}, status=400)
        match request.path:
            case "/api/chat":
                named = request.headers.get("x-request-id")
                return Ask(model=model, stream=body.get("stream") is not False, body=body, key=key, request_id=named)
            case "/api/show":
                info = {"general.architecture": "llama", "llama.context_length": CONTEXT_WINDOW}
                shown = {"modelfile": "", "model_info": info, "capabilities": ["completion", "tools"]}
                return _json(shown) if self._has(model) else _named("model_not_found", model=model)
            case "/api/pull":
                return self._pull(model)
            case "/api/create":
                return self._create(model, body)
            case _:
                return None

    def bad_request(self, fault: BadBody) -> HttpAnswer:
        if not fault.path:
            return _json({"error": "missing request body"}, status=400)
        field = ".".join(part for part in fault.path if isinstance(part, str))
        return _json({"error": f"json: cannot unmarshal into Go struct field {field}: {fault.message}"}, status=400)

    def error(self, ask: Ask, script: Script) -> HttpAnswer:
        if isinstance(script.error, dict):
            return _json(script.error, status=script.status or 400)
        name = script.error or _BY_STATUS.get(script.status or 500, "server_error")
        return _named(name, model=ask.model, status=script.status)

    def error_frame(self, ask: Ask, script: Script) -> bytes:
        return self.error(ask, script).body + b"\n"

    def stream_headers(self) -> Mapping[str, str]:
        return {"content-type": "application/x-ndjson"}

    def frames(self, ask: Ask, script: Script) -> Iterator[Frame]:
        def line(message: dict[str, Any]) -> Frame:
            return Frame(_line({**_envelope(ask), "message": {"role": "assistant", **message}, "done": False}))

        for piece in script.pieces(script.reasoning):
            yield line({"content": "", "thinking": piece})
        for piece in script.pieces(_text(ask, script)):
            yield line({"content": piece})
        for call in script.tool_calls:
            yield line({"content": "", "tool_calls": [_tool_call(call)]})
        if script.end_marker:
            message = {"role": "assistant", "content": ""}
            yield Frame(_line({**_envelope(ask), "message": message, **self._end(ask, script)}), is_output=False)

    def whole(self, ask: Ask, script: Script) -> bytes:
        message = {
            "role": "assistant",
            "content": _text(ask, script),
            **({"thinking": script.reasoning} if script.reasoning else {}),
            **({"tool_calls": [_tool_call(call) for call in script.tool_calls]} if script.tool_calls else {}),
        }
        return _line({**_envelope(ask), "message": message, **self._end(ask, script)}).rstrip()

    def stated(self, ask: Ask, script: Script) -> Stated | None:
        if script.usage is None:
            return None
        given, out = script.usage.input_tokens, script.usage.output_tokens
        calls = "".join(json.dumps(_tool_call(call)) for call in script.tool_calls)
        said = script.reasoning + _text(ask, script) + calls
        if given is None:
            messages = ask.body.get("messages") or ()
            given = sum(4 + estimate_output(str(message.get("content") or "")) for message in messages)
        return Stated(
            input_tokens=given,
            output_tokens=estimate_output(said) if out is None else out,
        )

    def _end(self, ask: Ask, script: Script) -> dict[str, Any]:
        stated = self.stated(ask, script)
        counts = {"prompt_eval_count": stated.input_tokens, "eval_count": stated.output_tokens} if stated else {}
        return {"done_reason": script.finish_reason or "stop", "done": True, "total_duration": 313_801_125, **counts}

    def _has(self, model: str) -> bool:
        return model in self.models or f"{model}:latest" in self.models

    def _pull(self, model: str) -> HttpAnswer:
        if _ABSENT in model:
            return _lines({"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"})
        layer = {"status": "pulling 74701a8c35f6", "digest": "sha256:74701a8c35f6", "total": LAYER_BYTES}
        self._add(model)
        return _lines(
            {"status": "pulling manifest"},
            layer,
            *({**layer, "completed": LAYER_BYTES * quarter // 4} for quarter in range(1, 5)),
            {"status": "verifying sha256 digest"},
            {"status": "writing manifest"},
            {"status": "success"},
        )

    def _create(self, model: str, body: dict[str, Any]) -> HttpAnswer:
        if not self._has(str(body.get("from"))):
            return _lines({"error": f"model '{body.get('from')}' not found"})
        self._add(model)
        return _lines({"status": "using existing layer sha256:74701a8c35f6"}, {"status": "success"})

    def _add(self, model: str) -> None:
        if not self._has(model):
            self.models.append(model if ":" in model else f"{model}:latest")


def _envelope(ask: Ask) -> dict[str, Any]:
    return {"model": ask.model, "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z")}


def _text(ask: Ask, script: Script) -> str:
    """What the answer says: nothing when nobody but the system has spoken, as Ollama does."""
    messages = ask.body.get("messages") or []
    if all(message.get("role") == "system" for message in messages):
        return ""
    return script.output(last_user_text=last_user_text(messages))


def _tool_call(call: ScriptedToolCall) -> dict[str, Any]:
    return {"function": {"name": call.name, "arguments": call.arguments_value}}


def _named(name: str, *, model: str = "", status: int | None = None) -> HttpAnswer:
    known, message = _ERRORS.get(name, (400, name))
    return _json({"error": message.format(model=model)}, status=status or known)


def _json(body: Mapping[str, Any], *, status: int = 200) -> HttpAnswer:
    return HttpAnswer(status, _line(body))


def _lines(*bodies: Mapping[str, Any]) -> HttpAnswer:
    return HttpAnswer(200, b"".join(map(_line, bodies)), {"content-type": "application/x-ndjson"})


def _line(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"
