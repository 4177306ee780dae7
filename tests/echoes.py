"""Replies of a vendor that says what it was told, at every place of every format that is not the answer itself."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from fleet.simulator import Script

ANSWER = "Hello"


def echoing(provider: str, said: str, *, stream: bool, wants_back: bool = True) -> Script:
    """A whole reply with status 200 that says `said` as its model, tier, id, finish reason and wherever else.

    `wants_back`: also in what the vendor wants to see again on the next turn, which is a part of the answer.
    """
    headers = {
        name: said for name in ("x-gemini-service-tier", "x-request-id") if said.isascii() and said.isprintable()
    }
    body = _google(said, stream, wants_back) if provider == "google" else _REPLIES[provider](said, stream)
    return Script(body=body, content_type=_KINDS[provider == "ollama", stream], headers=headers)


def refusing(said: str, *, status: int) -> Script:
    """An error that says `said` as its code, its type and wherever else."""
    error: dict[str, JsonValue] = {
        "message": f"the key {said} is wrong",
        "code": said,
        "type": said,
        "status": said,
        "param": said,
    }
    headers = {name: said for name in ("x-request-id", "retry-after") if said.isascii() and said.isprintable()}
    error["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": said}]
    return Script(status=status, error={"error": error, "request_id": said}, headers=headers)


def models(provider: str, *names: str) -> bytes:
    """A list of models."""
    match provider:
        case "google":
            body: Any = {"models": [{"name": f"models/{name}", "displayName": name} for name in names]}
        case "ollama":
            body = {"models": [{"name": name, "model": name} for name in names]}
        case _:
            body = {"data": [{"id": name, "owned_by": name} for name in names], "has_more": False}
    return json.dumps(body).encode()


def _openai(said: str, stream: bool) -> str:
    about = {"id": said, "model": said, "service_tier": said, "system_fingerprint": said}
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    if not stream:
        message = {"role": "assistant", "content": ANSWER}
        choice = {"index": 0, "message": message, "finish_reason": said}
        return json.dumps({**about, "choices": [choice], "usage": usage})
    return _events(
        {**about, "choices": [{"index": 0, "delta": {"role": said, "content": ANSWER}}]},
        {**about, "choices": [{"index": 0, "delta": {}, "finish_reason": said}], "usage": usage},
        end="data: [DONE]\n\n",
    )


def _anthropic(said: str, stream: bool) -> str:
    tiers = {"service_tier": said, "speed": said, "inference_geo": said}
    part = {"type": "compaction", "model": said, "input_tokens": 2, "output_tokens": 1}
    usage = {"input_tokens": 3, "output_tokens": 1, "iterations": [part], **tiers}
    about = {"id": said, "type": "message", "role": "assistant", "model": said}
    text = {"type": "text", "text": ANSWER}
    if not stream:
        return json.dumps({**about, "content": [text], "stop_reason": said, "usage": usage})
    return _events(
        {"type": "message_start", "message": {**about, "content": [], "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ANSWER}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": said, "stop_sequence": said}, "usage": usage},
        {"type": "message_stop"},
    )


def _google(said: str, stream: bool, wants_back: bool) -> str:
    media = {"inlineData": {"mimeType": said, "data": "aGk="}}
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 1, "trafficType": said, "serviceTier": said}
    own: list[dict[str, Any]] = [{said: {}}] if wants_back else []
    candidate = {"content": {"parts": [{"text": ANSWER}, media, *own]}, "finishReason": said}
    reply = {"candidates": [candidate], "modelVersion": said, "responseId": said, "usageMetadata": usage}
    return _events(reply) if stream else json.dumps(reply)


def _ollama(said: str, stream: bool) -> str:
    message = {"role": said, "content": ANSWER}
    end = {"model": said, "done": True, "done_reason": said, "prompt_eval_count": 3, "eval_count": 1}
    if not stream:
        return json.dumps({**end, "message": message})
    return "".join(json.dumps(line) + "\n" for line in ({"model": said, "message": message, "done": False}, end))


_REPLIES = {"openai": _openai, "azure": _openai, "anthropic": _anthropic, "ollama": _ollama}
_KINDS = {
    (False, True): "text/event-stream; charset=utf-8",
    (False, False): "application/json",
    (True, True): "application/x-ndjson",
    (True, False): "application/json",
}


def _events(*bodies: Mapping[str, Any], end: str = "") -> str:
    named = (f"event: {body['type']}\n" if "type" in body else "" for body in bodies)
    return "".join(f"{name}data: {json.dumps(body)}\n\n" for name, body in zip(named, bodies, strict=True)) + end
