"""A vendor that costs next to nothing: replies are made once for each model, and the model's name says how they come.

    python -m benchmarks.load.vendor --port 18080

`fake-ttft200-itl20-n64` has its first token after 200 ms, 20 ms between tokens, and 64 tokens; an unstreamed reply
waits for the first token's time alone. A stream has one write a token, and tokens keep to the stream's schedule,
however late one write was; without time between tokens there is one write in each turn of the event loop. It speaks
what the adapters of OpenAI, Azure OpenAI, Anthropic, Gemini and Ollama read.
"""

import argparse
import asyncio
import gc
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_MODEL_IN_BODY = re.compile(rb'"model"\s*:\s*"([^"]*)"')
_MODEL_IN_PATH = re.compile(rb"/(?:models|deployments)/([^:/?]+)[:/]")
_STREAM = re.compile(rb'"stream"\s*:\s*true|:streamGenerateContent')
_NUMBER = re.compile(r"-(ttft|itl|n)(\d+)")
_CREATED = 1760000000
_INPUT_TOKENS = 24
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Script:
    """How a reply comes: times in milliseconds."""

    first_ms: int = 0
    between_ms: int = 0
    tokens: int = 16

    @property
    def model(self) -> str:
        """The name of the model that replies so."""
        return f"fake-ttft{self.first_ms}-itl{self.between_ms}-n{self.tokens}"

    @property
    def stream_s(self) -> float:
        """From the request to the last token of a stream."""
        return (self.first_ms + (self.tokens - 1) * self.between_ms) / 1e3

    @property
    def text(self) -> str:
        return "".join(map(token, range(self.tokens)))


def script_of(model: str) -> Script:
    """What the name of a model says."""
    found = {name: int(number) for name, number in _NUMBER.findall(model)}
    return Script(found.get("ttft", 0), found.get("itl", 0), found.get("n", 16))


def token(number: int) -> str:
    return f"tok{number} "


@dataclass(frozen=True, slots=True)
class Format:
    """A vendor's wire format: of a model and its script, the parts of a reply."""

    content_type: str
    before: Callable[[str, Script], Sequence[bytes]]
    """What comes with the first token."""
    piece: Callable[[str, str], bytes]
    """Of a model and a token."""
    after: Callable[[str, Script], Sequence[bytes]]
    """What comes with the last token."""
    whole: Callable[[str, Script], Any]


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _event(value: Any, *, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + _json(value) + b"\n\n"


# OpenAI and Azure OpenAI


def _openai_usage(script: Script) -> dict[str, Any]:
    return {
        "prompt_tokens": _INPUT_TOKENS,
        "completion_tokens": script.tokens,
        "total_tokens": _INPUT_TOKENS + script.tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _openai_chunk(model: str, choices: Sequence[dict[str, Any]], **more: Any) -> bytes:
    return _event({
        "id": "chatcmpl-fake0123456789",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": model,
        "service_tier": "default",
        "system_fingerprint": "fp_fake",
        "choices": choices,
        **more,
    })  # fmt: skip


def _openai_delta(model: str, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    return _openai_chunk(model, [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])


def _openai_whole(model: str, script: Script) -> Any:
    message = {"role": "assistant", "refusal": None, "annotations": [], "content": script.text}
    return {
        "id": "chatcmpl-fake0123456789",
        "object": "chat.completion",
        "created": _CREATED,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _openai_usage(script),
        "service_tier": "default",
        "system_fingerprint": "fp_fake",
    }


_OPENAI = Format(
    "text/event-stream; charset=utf-8",
    before=lambda model, _: [_openai_delta(model, {"role": "assistant", "content": "", "refusal": None})],
    piece=lambda model, text: _openai_delta(model, {"content": text}),
    after=lambda model, script: [
        _openai_delta(model, {}, "stop"),
        _openai_chunk(model, [], usage=_openai_usage(script)),
        b"data: [DONE]\n\n",
    ],
    whole=_openai_whole,
)


# Anthropic


def _anthropic_event(kind: str, **more: Any) -> bytes:
    return _event({"type": kind, **more}, name=kind)


def _anthropic_whole(model: str, script: Script) -> dict[str, Any]:
    return {
        "id": "msg_fake0123456789",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": script.text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": _INPUT_TOKENS, "output_tokens": script.tokens},
    }


def _anthropic_before(model: str, script: Script) -> Sequence[bytes]:
    usage = {"input_tokens": _INPUT_TOKENS, "output_tokens": 1}
    message = _anthropic_whole(model, script) | {"content": [], "stop_reason": None, "usage": usage}
    return [
        _anthropic_event("message_start", message=message),
        _anthropic_event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        _anthropic_event("ping"),
    ]


def _anthropic_after(_: str, script: Script) -> Sequence[bytes]:
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        _anthropic_event("content_block_stop", index=0),
        _anthropic_event("message_delta", delta=delta, usage={"output_tokens": script.tokens}),
        _anthropic_event("message_stop"),
    ]


_ANTHROPIC = Format(
    "text/event-stream; charset=utf-8",
    before=_anthropic_before,
    piece=lambda _, text: _anthropic_event("content_block_delta", index=0, delta={"type": "text_delta", "text": text}),
    after=_anthropic_after,
    whole=_anthropic_whole,
)


# Gemini


def _gemini_part(model: str, text: str, *, tokens: int = 0, finish_reason: str | None = None) -> dict[str, Any]:
    end = {"finishReason": finish_reason} if finish_reason else {}
    usage = {
        "promptTokenCount": _INPUT_TOKENS,
        "candidatesTokenCount": tokens,
        "totalTokenCount": _INPUT_TOKENS + tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": _INPUT_TOKENS}],
    }
    return {
        "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **end}],
        "usageMetadata": usage,
        "modelVersion": model,
        "responseId": "fake0123456789",
    }


_GEMINI = Format(
    "text/event-stream",
    before=lambda _model, _script: [],
    piece=lambda model, text: _event(_gemini_part(model, text, tokens=1)),
    after=lambda model, script: [_event(_gemini_part(model, "", tokens=script.tokens, finish_reason="STOP"))],
    whole=lambda model, script: _gemini_part(model, script.text, tokens=script.tokens, finish_reason="STOP"),
)


# Ollama


def _ollama_line(model: str, text: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"model": model, "created_at": "2026-01-01T00:00:00.000000Z", "message": message, "done": False, **more}


def _ollama_end(model: str, text: str, script: Script) -> dict[str, Any]:
    counts = {"prompt_eval_count": _INPUT_TOKENS, "eval_count": script.tokens}
    times = {"total_duration": 1, "load_duration": 1, "prompt_eval_duration": 1, "eval_duration": 1}
    return _ollama_line(model, text, done=True, done_reason="stop", **times, **counts)


_OLLAMA = Format(
    "application/x-ndjson",
    before=lambda _model, _script: [],
    piece=lambda model, text: _json(_ollama_line(model, text)) + b"\n",
    after=lambda model, script: [_json(_ollama_end(model, "", script)) + b"\n"],
    whole=lambda model, script: _ollama_end(model, script.text, script),
)


# Over HTTP


@dataclass(frozen=True, slots=True)
class Plan:
    """What is written, and when: seconds."""

    first_s: float
    between_s: float
    writes: Sequence[bytes]


class Plans:
    """The plans of all replies so far: each is made at its first request."""

    def __init__(self) -> None:
        self._made: dict[tuple[bytes, str, bool], Plan] = {}

    def of(self, request: bytes) -> Plan | None:
        """The reply to a request; None when it asks for none."""
        path = request[: request.index(b"\r\n")]
        found = _MODEL_IN_PATH.search(path) or _MODEL_IN_BODY.search(request)
        if found is None or not path.startswith(b"POST "):
            return None
        key = path, found[1].decode(), _is_streamed(path, request)
        if key not in self._made:
            self._made[key] = _plan(_format_of(path), key[1], streamed=key[2])
        return self._made[key]


def _format_of(path: bytes) -> Format:
    if b"/v1/messages" in path:
        return _ANTHROPIC
    if b"enerateContent" in path:
        return _GEMINI
    return _OLLAMA if b"/api/chat" in path else _OPENAI


def _is_streamed(path: bytes, request: bytes) -> bool:
    """Ollama streams unless it is told not to."""
    if b"/api/chat" in path:
        return re.search(rb'"stream"\s*:\s*false', request) is None
    return _STREAM.search(request) is not None


def _plan(written: Format, model: str, *, streamed: bool) -> Plan:
    script = script_of(model)
    if not streamed:
        return Plan(script.first_ms / 1e3, 0, [_whole_reply(written.whole(model, script))])
    pieces = [[written.piece(model, token(number))] for number in range(script.tokens)]
    pieces[0] = [*written.before(model, script), *pieces[0]]
    pieces[-1] = [*pieces[-1], *written.after(model, script)]
    writes = [b"".join(map(_chunk, parts)) for parts in pieces]
    writes[0] = _head(written.content_type, b"transfer-encoding: chunked") + writes[0]
    writes[-1] += _LAST_CHUNK
    return Plan(script.first_ms / 1e3, script.between_ms / 1e3, writes)


def _head(content_type: str, framing: bytes) -> bytes:
    fields = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncache-control: no-cache\r\nx-request-id: req_fake\r\n%s\r\n\r\n"
    return fields % (content_type.encode(), framing)


def _whole_reply(value: Any) -> bytes:
    body = _json(value)
    return _head("application/json", b"content-length: %d" % len(body)) + body


def _chunk(part: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(part), part)


class Connection(asyncio.Protocol):
    """Answers requests that come one after the other, without looking at more of them than it has to."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans
        self._loop = asyncio.get_running_loop()
        self._pending = b""
        self._timer: asyncio.Handle | None = None
        self._transport: asyncio.Transport | None = None
        self._plan = Plan(0, 0, [])
        self._next = 0
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        data = self._pending + data
        end = _end_of_request(data)
        self._pending = data if end is None else data[end:]
        if end is not None:
            self._answer(data[:end])

    def _answer(self, request: bytes) -> None:
        plan = self._plans.of(request)
        self._plan = plan or Plan(0, 0, [_whole_reply({"object": "list", "data": []})])
        self._next, self._due = 0, self._loop.time() + self._plan.first_s
        if self._plan.first_s:
            self._timer = self._loop.call_at(self._due, self._write)
        else:
            self._write()

    def _write(self) -> None:
        if self._transport is None:
            return
        plan = self._plan
        self._transport.write(plan.writes[self._next])
        self._next += 1
        if self._next == len(plan.writes):
            return
        if plan.between_s:
            self._due += plan.between_s
            self._timer = self._loop.call_at(self._due, self._write)
        else:
            self._timer = self._loop.call_soon(self._write)


def _end_of_request(data: bytes) -> int | None:
    """How many bytes the first request has; None when more of it is to come."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return None
    if length := _LENGTH.search(data, 0, head):
        end = head + 4 + int(length[1])
        return end if len(data) >= end else None
    if _CHUNKED.search(data, 0, head):
        return len(data) if data.endswith(_LAST_CHUNK) else None
    return head + 4


async def main(port: int) -> None:
    """Serves on 127.0.0.1 until the process ends."""
    loop, plans = asyncio.get_running_loop(), Plans()
    server = await loop.create_server(lambda: Connection(plans), "127.0.0.1", port, backlog=4096)
    gc.collect()
    gc.disable()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(main(parser.parse_args().port))
