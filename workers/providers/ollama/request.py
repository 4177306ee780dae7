"""Ollama's native chat format: the request that we write.

Source: Ollama's API reference (docs/api.md), `POST /api/chat`. `provider_options.ollama` is merged last, its `options`
into ours: `{"keep_alive": "30m", "options": {"num_ctx": 16384}}`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, assert_never

from contracts.errors import InvalidRequest, UnsupportedFeature
from contracts.requests import (
    AssistantMessage,
    CompletionRequest,
    ImagePart,
    Message,
    ReasoningEffort,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)
from workers.providers.shared.requests import images
from workers.providers.shared.requests.options import overlaid, present
from workers.providers.shared.requests.tool_arguments import as_object
from workers.providers.shared.requests.tool_choice import forces_a_call
from workers.providers.shared.requests.tool_schemas import object_schema

NAME = "ollama"

_THINK: dict[ReasoningEffort, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
"""Levels are for models that know them (gpt-oss); for the others each of them switches thinking on."""
_ROUNDED = frozenset({"minimal", "xhigh", "max"})


def check(request: CompletionRequest) -> None:
    """Raises UnsupportedFeature for what Ollama has no way to do, InvalidRequest for invalid options."""
    if not isinstance(request.provider_options.get(NAME, {}).get("options"), dict | None):
        raise InvalidRequest(f"provider_options.{NAME}.options must be an object", provider=NAME)
    if request.tools and forces_a_call(request):
        raise _unsupported("cannot be made to call a tool (tool_choice)")
    for image in images.images_in(request.messages):
        _image(image.image_url.url)


def ignored(request: CompletionRequest) -> tuple[str, ...]:
    """What Ollama does not know and is left out, or is given in another form."""
    warnings: list[str] = []
    if forces_a_call(request) and not request.tools:
        warnings.append("tool_choice was ignored, because the request has no tools")
    if request.parallel_tool_calls is False:
        warnings.append("ollama cannot be kept from parallel tool calls; parallel_tool_calls was dropped")
    if any(tool.function.strict for tool in request.tools or ()):
        warnings.append("ollama does not hold tool calls to their schema; strict was dropped")
    if any(getattr(message, "name", None) for message in request.messages):
        warnings.append("ollama knows no names of participants; they were dropped")
    if request.reasoning_effort in _ROUNDED:
        level = _THINK[request.reasoning_effort]
        warnings.append(f"ollama has no reasoning_effort {request.reasoning_effort}; it was sent as {level}")
    return tuple(warnings)


def chat_body(request: CompletionRequest, *, model: str) -> dict[str, Any]:
    """The JSON body of a streamed chat."""
    functions = [
        {
            "name": tool.function.name,
            "description": tool.function.description or None,
            "parameters": object_schema(tool.function.parameters),
        }
        for tool in request.tools or ()
        if request.tool_choice != "none"
    ]
    wanted = request.response_format
    answer_format: Any = None
    if wanted is not None and wanted.type != "text":
        answer_format = (wanted.json_schema or {}).get("schema") or "json"
    options = present(
        {
            "num_predict": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop": request.stop,
            "seed": request.seed,
        }
    )
    further = request.provider_options.get(NAME, {})
    further_options = further.get("options")
    if isinstance(further_options, dict):
        options = overlaid(options, further_options)
    body: dict[str, Any] = {
        "model": model,
        "messages": _messages(request.messages),
        "stream": True,
        "tools": [{"type": "function", "function": present(function)} for function in functions] or None,
        "format": answer_format,
        "think": _THINK[request.reasoning_effort] if request.reasoning_effort else None,
    }
    body = overlaid(present(body), further)
    body.pop("options", None)
    return {**body, "options": options} if options else body


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Tool results name their tool; the calls have no ids that they could name.

    To a request of system messages only, Ollama answers nothing: they are what the user says.
    """
    names: dict[str, str] = {}
    written: list[dict[str, Any]] = []
    only_system = all(isinstance(message, SystemMessage) for message in messages)
    for message in messages:
        if isinstance(message, AssistantMessage):
            names.update({call.id: call.function.name for call in message.tool_calls or ()})
        said = {name: value for name, value in _message(message, names).items() if value}
        if only_system:
            said["role"] = "user"
        if said != {"role": "assistant"}:
            written.append(said)
    return written


def _message(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    match message:
        case SystemMessage():
            return {"role": "system", "content": _text(message.content)}
        case UserMessage():
            shown = [_image(image.image_url.url) for image in images.images_in([message])]
            return {"role": "user", "content": _text(message.content), "images": shown}
        case AssistantMessage():
            functions = [call.function for call in message.tool_calls or ()]
            kept = (message.provider_data or {}).get(NAME)
            thinking = kept.get("thinking") if isinstance(kept, dict) else None
            return {
                "thinking": thinking if isinstance(thinking, str) else None,
                "role": "assistant",
                "content": message.content or message.refusal,
                "tool_calls": [
                    {"function": {"name": each.name, "arguments": as_object(each.arguments, otherwise="arguments")}}
                    for each in functions
                ],
            }
        case ToolMessage():
            name = names.get(message.tool_call_id)
            return {"role": "tool", "content": _text(message.content), "tool_name": name}
        case _:
            assert_never(message)


def _text(content: str | Sequence[TextPart | ImagePart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, TextPart))


def _image(url: str) -> str:
    """The image in base64. Raises UnsupportedFeature."""
    if not images.is_inline(url):
        raise _unsupported("fetches no images; give it a data: URL")
    image = images.read_inline(url)
    if image is None:
        raise _unsupported("reads images in base64 only")
    return image.base64


def _unsupported(what: str) -> UnsupportedFeature:
    return UnsupportedFeature(f"{NAME} {what}", provider=NAME)
