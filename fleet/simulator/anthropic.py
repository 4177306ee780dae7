"""Anthropic's messages, token counts, models and error bodies, as api.anthropic.com sends them."""

import base64
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from fleet.simulator.openai import REFUSED_KEY, last_user_text
from fleet.simulator.request_body import OR_TEXT, BadBody, Form, read_body
from fleet.simulator.script import Script
from fleet.simulator.vendor import Ask, Frame, HttpAnswer, HttpRequest, Stated
from workers.providers.shared.token_estimates import estimate_output

MODELS = {"claude-sonnet-4-5": 200_000, "claude-haiku-5-5": 1_000_000, "claude-opus-5-5": 1_000_000}
"""The models, and how many input tokens each takes."""

_ERRORS: dict[str, tuple[int, str, str, str | None]] = {
    "invalid_request_error": (400, "invalid_request_error", "max_tokens: Field required", None),
    "context_length_exceeded": (
        400,
        "invalid_request_error",
        "prompt is too long: 208310 tokens > 200000 maximum",
        None,
    ),
    "content_policy_violation": (400, "invalid_request_error", "Output blocked by content filtering policy", None),
    "low_credit": (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or "
        "purchase credits.",
        None,
    ),
    "invalid_api_key": (401, "authentication_error", "invalid bearer token", None),
    "billing_error": (402, "billing_error", "There is a problem with your billing details.", None),
    "unsupported_country_region_territory": (403, "permission_error", "Request not allowed", None),
    "model_not_found": (404, "not_found_error", "model: {model}", None),
    "timeout": (408, "timeout_error", "Request timed out", None),
    "conflict": (409, "conflict_error", "The resource was changed by another request.", None),
    "too_large": (413, "request_too_large", "Request exceeds the maximum size", None),
    "unprocessable": (422, "invalid_request_error", "The request could not be processed.", None),
    "insufficient_quota": (
        429,
        "rate_limit_error",
        "You have crossed the monthly API usage threshold of your tier.",
        "enforced_spend_limit_reached",
    ),
    "rate_limit_exceeded": (
        429,
        "rate_limit_error",
        "This request would exceed your organization's rate limit of 50 requests per minute.",
        None,
    ),
    "server_error": (500, "api_error", "Internal server error", None),
    "bad_gateway": (502, "api_error", "Bad gateway", None),
    "unavailable": (503, "api_error", "Service unavailable", None),
    "gateway_timeout": (504, "timeout_error", "Request timed out", None),
    "overloaded": (529, "overloaded_error", "Overloaded", None),
}
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
"""What OpenAI's words in a script are here."""
_BY_STATUS = {status: name for name, (status, *_) in reversed(_ERRORS.items())}
_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_REFUSED_PARAMETERS = ("temperature", "top_p", "top_k", "seed", "n")
"""Parameters that the API refuses."""


class _Text(Form):
    text: str


class _Thinking(Form):
    thinking: str
    signature: str


class _ToolUse(Form):
    id: str


class _ToolResult(Form):
    tool_use_id: str


class _Source(Form):
    media_type: str = "image/png"


class _Image(Form):
    source: _Source


class _Other(Form):
    type: str


def _tag(block: Any) -> str:
    """The form that a content block must have; blocks of other types are not looked into."""
    match block:
        case {"type": "text" | "thinking" | "tool_use" | "tool_result" | "image" as kind}:
            return kind
        case _:
            return "other"


_Block = Annotated[
    Annotated[_Text, Tag("text")]
    | Annotated[_Thinking, Tag("thinking")]
    | Annotated[_ToolUse, Tag("tool_use")]
    | Annotated[_ToolResult, Tag("tool_result")]
    | Annotated[_Image, Tag("image")]
    | Annotated[_Other, Tag("other")],
    Discriminator(_tag),
]


class _Message(Form):
    role: str
    content: Annotated[list[_Block], OR_TEXT]


class _Prompt(Form):
    model: str
    messages: list[_Message]


class _Completion(_Prompt):
    max_tokens: int
    stream: bool | None = None


class Anthropic:
    """Anthropic's format; see `Vendor`."""

    name = "anthropic"
    prefix = "/anthropic"
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'

    def __init__(self) -> None:
        self._serial = itertools.count(1)

    def answer(self, request: HttpRequest) -> HttpAnswer | Ask | None:
        match request.method, request.path.removeprefix(self.prefix):
            case "POST", "/v1/messages":
                form = _Completion
            case "POST", "/v1/messages/count_tokens":
                form = _Prompt
            case "GET", "/v1/models" if request.path.startswith(self.prefix):
                form = None
            case _:
                return None
        key = request.headers.get("authorization", "").removeprefix("Bearer ").strip() or None
        if key is None or REFUSED_KEY in key:
            return _named("invalid_api_key")
        if "anthropic-version" not in request.headers:
            return _answer("anthropic-version: header is required")
        if form is None:
            listed = [
                {"type": "model", "id": name, "display_name": name, "max_input_tokens": tokens, "lifecycle": "active"}
                for name, tokens in MODELS.items()
            ]
            page = {"data": listed, "has_more": False, "first_id": listed[0]["id"], "last_id": listed[-1]["id"]}
            return HttpAnswer(200, json.dumps(page).encode())
        body = read_body(request.body, form)
        if not body["messages"]:
            return _answer("messages: at least one message is required")
        if form is _Prompt:
            return HttpAnswer(200, json.dumps({"input_tokens": _input_tokens(body)}).encode())
        return _ask(body, key=key, request_id=request.headers.get("x-client-request-id"))

    def bad_request(self, fault: BadBody) -> HttpAnswer:
        if not fault.path:
            return _answer("The request body is not valid JSON.")
        return _answer(f"{'.'.join(map(str, fault.path))}: {fault.message}")

    def error(self, ask: Ask, script: Script) -> HttpAnswer:
        if isinstance(script.error, dict):
            return HttpAnswer(script.status or 400, json.dumps(script.error).encode())
        named = _named(script.error or _BY_STATUS.get(script.status or 500, "server_error"), model=ask.model)
        return HttpAnswer(script.status or named.status, named.body)

    def error_frame(self, ask: Ask, script: Script) -> bytes:
        return b"event: error\ndata: " + self.error(ask, script).body + b"\n\n"

    def stream_headers(self) -> Mapping[str, str]:
        return {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}

    def frames(self, ask: Ask, script: Script) -> Iterator[Frame]:
        usage = _usage(ask, script)
        begun = {"usage": {**usage, "output_tokens": 1}} if usage else {}
        message = {**self._envelope(ask), "content": [], "stop_reason": None, "stop_sequence": None, **begun}
        yield _event("message_start", {"message": message}, is_output=False)
        for index, (block, deltas) in enumerate(_blocks(ask, script)):
            is_call = block["type"] == "tool_use"
            yield _event("content_block_start", {"index": index, "content_block": block}, is_output=is_call)
            if not index:
                yield Frame(self.ping, is_output=False)
            for delta, is_output in deltas:
                yield _event("content_block_delta", {"index": index, "delta": delta}, is_output=is_output)
            yield _event("content_block_stop", {"index": index}, is_output=False)
        if not script.end_marker:
            return
        stopped = {"delta": _stop(script), **({"usage": usage} if usage else {})}
        yield _event("message_delta", stopped, is_output=False)
        yield _event("message_stop", {}, is_output=False)

    def whole(self, ask: Ask, script: Script) -> bytes:
        content: list[dict[str, Any]] = []
        for block, deltas in _blocks(ask, script):
            arguments = "".join(delta.get("partial_json", "") for delta, _ in deltas)
            said = {
                name: "".join(delta.get(name, "") for delta, _ in deltas)
                for name in ("thinking", "text", "signature")
                if name in block
            }
            content.append({**block, **said, **({"input": json.loads(arguments)} if arguments else {})})
        usage = _usage(ask, script)
        stated = {"usage": usage} if usage else {}
        message = {**self._envelope(ask), "content": content, **_stop(script), **stated}
        return json.dumps(message, ensure_ascii=False).encode()

    def stated(self, ask: Ask, script: Script) -> Stated | None:
        usage = _usage(ask, script)
        return (
            Stated(usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"]) if usage else None
        )

    def _envelope(self, ask: Ask) -> dict[str, Any]:
        return {"id": f"msg_sim{next(self._serial)}", "type": "message", "role": "assistant", "model": ask.model}


def _ask(body: dict[str, Any], *, key: str, request_id: str | None) -> HttpAnswer | Ask:
    """The completion that a body asks for, or the answer that refuses it."""
    for name in _REFUSED_PARAMETERS:
        if name in body:
            return _answer(f"{name}: Extra inputs are not permitted")
    if fault := _fault_of(body["messages"]):
        return _answer(fault)
    return Ask(model=body["model"], stream=bool(body.get("stream")), body=body, key=key, request_id=request_id)


_Deltas = list[tuple[dict[str, Any], bool]]


def _blocks(ask: Ask, script: Script) -> Iterator[tuple[dict[str, Any], _Deltas]]:
    """Each content block as it begins, with its deltas, each of them with whether it is output."""
    if script.reasoning:
        thoughts: _Deltas = [
            ({"type": "thinking_delta", "thinking": piece}, True) for piece in script.pieces(script.reasoning)
        ]
        signed = ({"type": "signature_delta", "signature": _signature(script.reasoning)}, False)
        yield {"type": "thinking", "thinking": "", "signature": ""}, [*thoughts, signed]
    if text := script.output(last_user_text=last_user_text(ask.body["messages"])):
        yield (
            {"type": "text", "text": ""},
            [({"type": "text_delta", "text": piece}, True) for piece in script.pieces(text)],
        )
    for index, call in enumerate(script.tool_calls):
        pieces = script.pieces(call.arguments_text) if call.arguments_text != "{}" else [""]
        begun = {"type": "tool_use", "id": call.id or f"toolu_sim_{index}", "name": call.name, "input": {}}
        yield begun, [({"type": "input_json_delta", "partial_json": piece}, bool(piece)) for piece in pieces]


def _signature(thinking: str) -> str:
    """The signature of a thought, by which an altered one is found out when it comes back."""
    return base64.b64encode(thinking.encode()).decode()


def _fault_of(messages: list[dict[str, Any]]) -> str | None:
    """What the API refuses about a conversation: altered thoughts, blank texts, calls without results, odd ids, other
    types of images. None: nothing."""
    waiting: set[str] = set()
    for index, message in enumerate(messages):
        content = message["content"]
        blocks: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not blocks:
            return f"messages.{index}: all messages must have non-empty content"
        answered = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if answered != waiting:
            return f"messages.{index}: each tool_use must have one tool_result, in the next message"
        for block in blocks:
            if block["type"] == "thinking" and block["signature"] != _signature(block["thinking"]):
                return f"messages.{index}: Invalid `signature` in `thinking` block"
            if block["type"] == "tool_use" and not re.fullmatch("[a-zA-Z0-9_-]+", block["id"]):
                return f"messages.{index}: tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
            if block["type"] == "image" and block["source"].get("media_type", "image/png") not in _IMAGES:
                return f"messages.{index}: image.source.base64.media_type: Input should be 'image/jpeg', ..."
            if block["type"] == "text" and not block["text"].strip():
                return f"messages.{index}: text content blocks must contain non-whitespace text"
        waiting = {block["id"] for block in blocks if block["type"] == "tool_use"}
    return None


def _stop(script: Script) -> dict[str, Any]:
    said = "refusal" if script.refusal else "tool_use" if script.tool_calls else "end_turn"
    details = {"type": "refusal", "category": None, "explanation": script.refusal} if script.refusal else None
    reason = _STOP_REASONS.get(script.finish_reason or "", script.finish_reason)
    return {"stop_reason": reason or said, "stop_sequence": None, "stop_details": details}


def _usage(ask: Ask, script: Script) -> dict[str, Any] | None:
    """The usage that is stated; None when the script states none. `input_tokens` leaves out what the cache held."""
    if script.usage is None:
        return None
    said = [script.reasoning, script.output(last_user_text=last_user_text(ask.body["messages"]))]
    said += [call.name + call.arguments_text for call in script.tool_calls]
    given, out, cached = script.usage.input_tokens, script.usage.output_tokens, script.usage.cache_read_tokens
    given = _input_tokens(ask.body) if given is None else given
    return {
        "input_tokens": max(given - cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": estimate_output("".join(said)) if out is None else out,
        "output_tokens_details": {"thinking_tokens": script.usage.reasoning_tokens},
        "service_tier": script.service_tier or "standard",
    }


def _input_tokens(body: Mapping[str, Any]) -> int:
    prompt = {name: body[name] for name in ("system", "messages", "tools") if name in body}
    return estimate_output(json.dumps(prompt, ensure_ascii=False))


def _event(name: str, fields: Mapping[str, Any], *, is_output: bool) -> Frame:
    return Frame(f"event: {name}\ndata: {_encode({'type': name, **fields})}\n\n".encode(), is_output=is_output)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _named(name: str, *, model: str = "") -> HttpAnswer:
    status, kind, message, code = _ERRORS.get(name, (400, "invalid_request_error", name, None))
    return _answer(message.format(model=model), status=status, kind=kind, code=code)


def _answer(
    message: str, *, status: int = 400, kind: str = "invalid_request_error", code: str | None = None
) -> HttpAnswer:
    details = {"error_code": code} if code else None
    error = {"type": "error", "error": {"type": kind, "message": message, "details": details}, "request_id": "req_sim"}
    return HttpAnswer(status, json.dumps(error).encode())
