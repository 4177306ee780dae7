"""A request in OpenAI's chat completions format, which OpenAI, Azure OpenAI and every compatible server read.

`provider_data.<provider>` of an assistant message, as reply.py wrote it, holds what its server wants back:
`reasoning_field`, the name of the field that its reasoning came in; `message`, further fields of the message;
`tool_calls`, further fields of each call. It comes from the agent, so whatever else stands there is passed over.
"""

import re
from collections.abc import Mapping
from typing import Any

from contracts.errors import InvalidRequest
from contracts.requests import AssistantMessage, CompletionRequest, Message, Tool, ToolMessage
from workers.providers.google.request import UNSIGNED
from workers.providers.openai.servers import OPENAI, REASONING_FIELDS, Server
from workers.providers.shared.requests import images
from workers.providers.shared.requests.options import present
from workers.providers.shared.requests.tool_choice import forces_a_call, offers_tools
from workers.providers.shared.requests.tool_schemas import object_schema

REASONING_FIELD = "reasoning_field"
"""Our own name in `provider_options`, where it wins over that of `provider_data`; null: reasoning never goes back."""

_OF_FLEET = {"reasoning", "provider_data"}
"""What we add to an assistant message; OpenAI refuses fields that it does not know."""
_OF_A_MESSAGE = frozenset({"role", "content", "tool_calls", "tool_call_id", "function_call", "refusal", "name"})
_OF_A_CALL = frozenset({"id", "type", "function", "index"})
_NOT_IN_A_NAME = re.compile(r"[\s<|\\/>]+")
"""What OpenAI refuses in the name of a participant."""
_NO_THOUGHTS = " "
"""Beside messages whose reasoning goes back: DeepSeek refuses a call without the field, Moonshot also an empty one."""


def check(request: CompletionRequest, *, provider: str) -> None:
    """Raises InvalidRequest for options that are none, and when no message is left to be sent."""
    field = request.provider_options.get(provider, {}).get(REASONING_FIELD)
    if field is not None and not (isinstance(field, str) and field in REASONING_FIELDS):
        known = " or ".join(sorted(REASONING_FIELDS))
        raise InvalidRequest(
            f"provider_options.{provider}.{REASONING_FIELD} must be {known}, or null", provider=provider
        )
    if all(map(_is_empty, request.messages)):
        raise InvalidRequest("no message of the request has a text or a tool call", provider=provider)


def ignored(request: CompletionRequest, *, provider: str) -> tuple[str, ...]:
    """What was asked for and is left out, a sentence each."""
    if forces_a_call(request) and not offers_tools(request, provider=provider):
        return ("tool_choice was ignored, because the request has no tools",)
    return ()


def request_body(
    request: CompletionRequest,
    *,
    model: str,
    max_tokens_field: str,
    stream_options: dict[str, bool] | None,
    server: Server = OPENAI,
) -> dict[str, Any]:
    """The JSON body of a streamed chat completion. `stream_options`: None for servers that do not know them."""
    options = request.provider_options.get(server.provider, {})
    messages = [_message(message, server, options) for message in request.messages if not _is_empty(message)]
    if any("reasoning_content" in message for message in messages):
        for message in messages:
            if message.get("tool_calls") and not REASONING_FIELDS & message.keys():
                message["reasoning_content"] = _NO_THOUGHTS
    dumped = request.model_dump(mode="json", include={"response_format", "tool_choice"})
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": stream_options,
        max_tokens_field: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": request.stop,
        "seed": request.seed,
        "tools": [_tool(tool, server) for tool in request.tools or ()] or None,
        "response_format": dumped.get("response_format"),
        "reasoning_effort": request.reasoning_effort,
    }
    if offers_tools(request, provider=server.provider):  # OpenAI refuses both without tools
        body["tool_choice"] = dumped.get("tool_choice")
        body["parallel_tool_calls"] = request.parallel_tool_calls
    return present(body)


def _tool(tool: Tool, server: Server) -> dict[str, Any]:
    """The tool as the server takes it. OpenAI is told of no parameters by leaving them out, which others refuse
    (Mistral, llama-server)."""
    sent = tool.model_dump(mode="json")
    if tool.function.parameters or not server.knows_all_forms:
        sent["function"]["parameters"] = object_schema(tool.function.parameters)
    else:
        sent["function"].pop("parameters", None)
    return sent


def _is_empty(message: Message) -> bool:
    """Whether an assistant message says and calls nothing, as of a model that only thought: OpenAI refuses it."""
    if not isinstance(message, AssistantMessage):
        return False
    return not (message.content or message.refusal or message.tool_calls)


def _message(message: Message, server: Server, options: Mapping[str, Any]) -> dict[str, Any]:
    sent = message.model_dump(mode="json", exclude=_OF_FLEET)
    if name := sent.pop("name", "").strip():
        sent["name"] = _NOT_IN_A_NAME.sub("_", name)
    match message:
        case AssistantMessage():
            return _assistant_message(message, sent, server, options)
        case ToolMessage():
            sent["tool_call_id"] = server.call_id(message.tool_call_id)
        case _:
            pass
    if isinstance(message.content, str):
        return sent
    parts = sent["content"]
    if not parts or (not server.knows_all_forms and all(part["type"] == "text" for part in parts)):
        # No server takes an empty list, and some take no list of texts: each text becomes a line.
        sent["content"] = "\n".join(part["text"] for part in parts if part["text"])
        return sent
    for part in parts:
        if part["type"] == "image_url":
            part["image_url"]["url"] = images.rewritten(part["image_url"]["url"])
    return sent


def _assistant_message(
    message: AssistantMessage, sent: dict[str, Any], server: Server, options: Mapping[str, Any]
) -> dict[str, Any]:
    given = (message.provider_data or {}).get(server.provider)
    kept = given if isinstance(given, dict) else {}
    if not server.knows_all_forms and (refusal := sent.pop("refusal", None)):
        sent["content"] = message.content or refusal
    calls = sent.pop("tool_calls", None)
    if calls:
        sent["tool_calls"] = _tool_calls(calls, kept, server)
    if server.takes_further_fields:
        sent = {**_further(kept.get("message"), _OF_A_MESSAGE), **sent}
    # Reasoning goes back in the field that it came in, and with calls in the one that the server wants it in.
    named = kept.get(REASONING_FIELD)
    known = named if isinstance(named, str) and named in server.reasoning_fields else None
    goes_back = known or message.tool_calls
    field = options.get(REASONING_FIELD, known or server.reasoning_field) if goes_back else None
    if field and message.reasoning:
        sent[field] = message.reasoning
    return sent


def _tool_calls(calls: list[dict[str, Any]], kept: Mapping[str, Any], server: Server) -> list[dict[str, Any]]:
    """The calls with the further fields that the server gave each of them."""
    fields = kept.get("tool_calls") if server.takes_further_fields else None
    of_calls = fields if isinstance(fields, list) and len(fields) <= len(calls) else []
    sent = [
        {**_further(of_calls[at] if at < len(of_calls) else None, _OF_A_CALL), **call} for at, call in enumerate(calls)
    ]
    for call in sent:
        call["id"] = server.call_id(call["id"])
        if call["function"]["arguments"].strip() in ("", "null"):
            call["function"]["arguments"] = "{}"
    if server.wants_signed_calls:
        sent[0].setdefault("extra_content", {"google": {"thought_signature": UNSIGNED}})
    return sent


def _further(kept: object, reserved: frozenset[str]) -> dict[str, Any]:
    """The fields of an object in `provider_data`, without those that are the request's own to set."""
    return {name: value for name, value in kept.items() if name not in reserved} if isinstance(kept, dict) else {}
