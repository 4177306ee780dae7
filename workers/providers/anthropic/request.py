"""A completion request in the format of Anthropic's Messages API.

Further fields go into the body through `provider_options.anthropic`, which wins; three of them are ours:

- `cache`: where prompt caching gets its markers, any of `system`, `tools`, `last_user` (each at its last block)
- `cache_ttl`: how long it is kept, `5m` (the default) or `1h`
- `betas`: names for the `anthropic-beta` header
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from contracts.errors import InvalidRequest, UnsupportedFeature
from contracts.requests import (
    AssistantMessage,
    CompletionRequest,
    ImagePart,
    Message,
    NamedToolChoice,
    SystemMessage,
    TextPart,
    Tool,
    ToolMessage,
    UserMessage,
)
from workers.providers.anthropic.models import Abilities, abilities
from workers.providers.anthropic.schemas import enforceable
from workers.providers.shared.requests import images
from workers.providers.shared.requests.options import overlaid, present
from workers.providers.shared.requests.tool_arguments import as_object
from workers.providers.shared.requests.tool_choice import forces_a_call, offers_tools
from workers.providers.shared.requests.tool_schemas import object_schema
from workers.providers.shared.requests.turns import OPENING, check_says_something, nothing_said

PROVIDER = "anthropic"

Block = dict[str, Any]

_CACHE_PLACES = ("system", "tools", "last_user")
_CACHE_TTLS = ("5m", "1h")
_OURS = frozenset({"cache", "cache_ttl", "betas"})
_BETA = re.compile(r"(?! *$)[ -+\--~]+")
"""A name that the header can hold: printable ASCII that is not blank, without commas, which separate names there."""

_MEDIA_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
"""What the names of tools and the ids of calls may not hold; other vendors' ids do."""
_MIN_BUDGET = 1_024
_BUDGETS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 32_768, "max": 32_768}
"""Tokens to think with, for models that take no effort."""


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """What is sent, and what could not be."""

    body: dict[str, Any]
    betas: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Options:
    """`provider_options.anthropic`, taken apart."""

    cache: tuple[str, ...] = ()
    cache_ttl: str | None = None
    betas: tuple[str, ...] = ()
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, request: CompletionRequest) -> "_Options":
        """Raises InvalidRequest."""
        given = request.provider_options.get(PROVIDER, {})
        cache, ttl, betas = given.get("cache", []), given.get("cache_ttl"), given.get("betas", [])
        prefix = f"provider_options.{PROVIDER}"
        if not isinstance(cache, list) or not all(place in _CACHE_PLACES for place in cache):
            raise InvalidRequest(f"{prefix}.cache must be a list of {', '.join(_CACHE_PLACES)}", provider=PROVIDER)
        if ttl is not None and ttl not in _CACHE_TTLS:
            raise InvalidRequest(f"{prefix}.cache_ttl must be {' or '.join(_CACHE_TTLS)}", provider=PROVIDER)
        if not isinstance(betas, list) or not all(isinstance(beta, str) and _BETA.fullmatch(beta) for beta in betas):
            raise InvalidRequest(f"{prefix}.betas must be a list of names", provider=PROVIDER)
        return cls(
            cache=tuple(map(str, cache)),
            cache_ttl=str(ttl) if ttl else None,
            betas=tuple(map(str, betas)),
            body={name: value for name, value in given.items() if name not in _OURS},
        )


def check(request: CompletionRequest) -> None:
    """Raises UnsupportedFeature for what the API has no form for, InvalidRequest for invalid options and when all
    messages are blank."""
    _Options.of(request)
    check_says_something(request, provider=PROVIDER)
    if request.response_format and request.response_format.type == "json_object":
        raise _unsupported("no JSON without a schema; give response_format a json_schema")
    for tool in request.tools or ():
        if _NOT_IN_A_NAME.search(tool.function.name):
            raise _unsupported(f"no dots in the names of tools, as in {tool.function.name!r}")
    for image in images.images_in(request.messages):
        _image_source(image.image_url.url)


def messages_request(request: CompletionRequest, *, model: str) -> MessagesRequest:
    """What to send for `request`. Raises as `check` does."""
    options = _Options.of(request)
    able = abilities(model)
    warnings = _ignored(request, options.body)
    thinking, effort = _thinking(request, able, options.body, warnings)
    stops = [stop for stop in request.stop or () if stop.strip()]
    if len(stops) < len(request.stop or ()):
        warnings.append(f"{PROVIDER} does not stop at white space; such a stop was ignored")
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens or able.max_output_tokens,
        **conversation(request.messages, request.tools),
        "stream": True,
        "stop_sequences": stops or None,
        "tool_choice": _tool_choice(request),
        "thinking": thinking,
        "output_config": present({"effort": effort, "format": _output_format(request, warnings)}) or None,
    }
    body = present(body)
    user_turns = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]  # the first turn is one
    places = {"system": body.get("system"), "tools": body.get("tools"), "last_user": user_turns[-1]}
    for place in options.cache:
        if blocks := places[place]:
            blocks[-1]["cache_control"] = present({"type": "ephemeral", "ttl": options.cache_ttl})
    further = dict(options.body)
    if isinstance(config := further.get("output_config"), dict):
        further["output_config"] = {**body.get("output_config", {}), **config}
    return MessagesRequest(overlaid(body, further), options.betas, tuple(warnings))


def conversation(messages: Sequence[Message], tools: Sequence[Tool] | None) -> dict[str, Any]:
    """The fields of a body that make up the prompt: `system`, `messages`, `tools`.

    The API takes system messages in front only, turns that alternate, and tool results at the beginning of a turn.
    System messages alone are what the user says. A conversation begins with the user, for the servers of the format
    that insist on it (Anthropic's own does not any more). Raises InvalidRequest when all messages are blank.
    """
    system = [block for message in messages if isinstance(message, SystemMessage) for block in _blocks(message.content)]
    others = [message for message in messages if not isinstance(message, SystemMessage)]
    turns: list[dict[str, Any]] = []
    # Calls that go back as they came keep their ids, also where a server of this format has others than Anthropic's.
    kept = [block for message in messages if isinstance(message, AssistantMessage) for block in _kept_blocks(message)]
    kept_ids = frozenset(id_ for block in kept if isinstance(id_ := block.get("id"), str))
    for message in others:
        role, blocks = _turn(message, kept_ids)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if not turns and not system:
        raise nothing_said(PROVIDER)
    if not turns:
        turns, system = [{"role": "user", "content": system}], []
    if turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": _blocks(OPENING)})
    for turn in turns:
        if turn["role"] == "user":
            turn["content"].sort(key=_is_no_result)
    last = turns[-1]["content"][-1]
    if turns[-1]["role"] == "assistant" and last["type"] == "text" and isinstance(last.get("text"), str):
        last["text"] = last["text"].rstrip()  # the API refuses a beginning of the reply that ends in white space
    return present(
        {"system": system or None, "messages": turns, "tools": [_tool(tool) for tool in tools] if tools else None}
    )


def arguments_object(text: str) -> dict[str, Any]:
    """Arguments as the object that the API wants. Source of the form for broken ones: "Fine-grained tool streaming"."""
    return as_object(text, otherwise="INVALID_JSON")


def _turn(message: UserMessage | AssistantMessage | ToolMessage, kept_ids: frozenset[str]) -> tuple[str, list[Block]]:
    """The role and the blocks of a message. `kept_ids`: the ids of calls that go back as they came."""
    match message:
        case UserMessage():
            return "user", _blocks(message.content)
        case ToolMessage():
            given = message.tool_call_id
            content = message.content if isinstance(message.content, str) else _blocks(message.content)
            call = given if given in kept_ids else _call_id(given)
            return "user", [{"type": "tool_result", "tool_use_id": call, "content": content}]
        case AssistantMessage():
            # Thinking is signed, so a reply of Anthropic's goes back as it was; others are made from their parts.
            if kept := _kept_blocks(message):
                return "assistant", kept
            calls = [
                {
                    "type": "tool_use",
                    "id": _call_id(call.id),
                    "name": _NOT_IN_A_NAME.sub("_", call.function.name),
                    "input": arguments_object(call.function.arguments),
                }
                for call in message.tool_calls or ()
            ]
            return "assistant", [*_blocks(message.content or message.refusal or ""), *calls]
        case _:
            assert_never(message)


def _blocks(content: str | Sequence[TextPart | ImagePart]) -> list[Block]:
    """The blocks of a content, without blank texts: the API refuses them."""
    blocks: list[Block] = []
    for part in [content] if isinstance(content, str) else content:
        if isinstance(part, ImagePart):
            blocks.append({"type": "image", "source": _image_source(part.image_url.url)})
        elif (text := part if isinstance(part, str) else part.text).strip():
            blocks.append({"type": "text", "text": text})
    return blocks


def _image_source(url: str) -> dict[str, str]:
    if url.startswith("https://"):
        return {"type": "url", "url": url}
    if url.startswith("http://"):
        raise _unsupported("no images by http, only by https")
    image = images.read_inline(url)
    if image is None or image.media_type not in _MEDIA_TYPES:
        raise _unsupported("no such image; send JPEG, PNG, GIF or WebP as a base64 data URL, or an https URL")
    return {"type": "base64", "media_type": image.media_type, "data": image.base64}


def _kept_blocks(message: AssistantMessage) -> list[Block]:
    """The blocks of a reply of Anthropic's as they were; none when they make other calls than the message, because
    their results would answer nothing."""
    match (message.provider_data or {}).get(PROVIDER):
        case {"content": [*content]}:
            objects = [dict(block) for block in content if isinstance(block, dict)]
        case _:
            return []
    blocks = [block for block in objects if isinstance(block.get("type"), str)]
    called = [block.get("id") for block in blocks if block["type"] == "tool_use"]
    return blocks if called == [call.id for call in message.tool_calls or ()] else []


def _call_id(given: str) -> str:
    """An id as the API takes it; two that differ only in what it refuses stay two."""
    clean = _NOT_IN_A_NAME.sub("_", given)
    return clean if clean == given else f"{clean}_{hashlib.sha256(given.encode()).hexdigest()[:8]}"


def _is_no_result(block: Block) -> bool:
    """The key by which tool results come first."""
    return block["type"] != "tool_result"


def _tool(tool: Tool) -> dict[str, Any]:
    function = tool.function
    schema = object_schema(function.parameters)
    return present(
        {
            "name": function.name,
            "description": function.description,
            "input_schema": enforceable(schema) if function.strict else schema,
            "strict": function.strict,
        }
    )


def _tool_choice(request: CompletionRequest) -> dict[str, Any] | None:
    if not offers_tools(request, provider=PROVIDER):
        return None
    one_at_a_time = {"disable_parallel_tool_use": True} if request.parallel_tool_calls is False else {}
    match request.tool_choice:
        case NamedToolChoice(function=function):
            return {"type": "tool", "name": function.name, **one_at_a_time}
        case "required":
            return {"type": "any", **one_at_a_time}
        case "none":
            return {"type": "none"}
        case "auto":
            return {"type": "auto", **one_at_a_time}
        case None:
            return {"type": "auto", **one_at_a_time} if one_at_a_time else None
        case _:
            assert_never(request.tool_choice)


def _thinking(
    request: CompletionRequest, able: Abilities, further: Mapping[str, Any], warnings: list[str]
) -> tuple[dict[str, Any] | None, str | None]:
    """How to think, and how hard."""
    asked = request.reasoning_effort
    if asked is None or "thinking" in further:
        return None, None
    if asked == "none":
        return ({"type": "disabled"} if able.thinking else None), None
    is_adaptive = able.thinking == "adaptive"
    effort = ("low" if asked == "minimal" else asked) if is_adaptive else None
    # A limit that is no number is for the vendor to refuse.
    limit = further["max_tokens"] if isinstance(further.get("max_tokens"), int | float) else None
    max_budget = (limit or request.max_tokens or able.max_output_tokens) // 2
    answers = [message for message in request.messages if isinstance(message, AssistantMessage)]
    has_thoughts = bool(answers) and PROVIDER in (answers[-1].provider_data or {})
    why_not = None
    if able.thinking is None:
        why_not = "the model cannot"
    elif forces_a_call(request) and offers_tools(request, provider=PROVIDER):
        why_not = "tool_choice forces a tool"
    elif not is_adaptive and isinstance(request.messages[-1], ToolMessage) and not has_thoughts:
        # After the results the model goes on with the thoughts that led to the calls, and here are none.
        why_not = "the tools were called by a model of another vendor, or one that did not think"
    elif not is_adaptive and max_budget < _MIN_BUDGET:
        why_not = "max_tokens leaves no room"
    if why_not:
        warnings.append(f"{PROVIDER} does not think here ({why_not})")
        return None, effort
    if is_adaptive:
        return {"type": "adaptive"}, effort
    return {"type": "enabled", "budget_tokens": min(_BUDGETS[asked], max_budget)}, None


def _output_format(request: CompletionRequest, warnings: list[str]) -> dict[str, Any] | None:
    asked = request.response_format
    if asked is None or asked.json_schema is None:
        return None
    schema = asked.json_schema.get("schema")
    given = schema if isinstance(schema, dict) else {"type": "object", "properties": {}}
    enforced = enforceable(given)
    if enforced != given:
        warnings.append(f"{PROVIDER} enforces only a part of JSON Schema; the rest was moved into descriptions")
    return {"type": "json_schema", "schema": enforced}


def _ignored(request: CompletionRequest, further: Mapping[str, Any]) -> list[str]:
    """What was asked for and has no place in the API."""
    asked = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
    ignored = [name for name, value in asked.items() if value is not None and name not in further]
    if any(getattr(message, "name", None) for message in request.messages):
        ignored.append("name of a message")
    if any(image.image_url.detail in ("low", "high") for image in images.images_in(request.messages)):
        ignored.append("detail of an image")
    if forces_a_call(request) and not offers_tools(request, provider=PROVIDER):
        ignored.append("tool_choice without tools")
    return [f"{PROVIDER} takes no {what}; it was ignored" for what in ignored]


def _unsupported(what: str) -> UnsupportedFeature:
    return UnsupportedFeature(f"{PROVIDER} takes {what}", provider=PROVIDER)
