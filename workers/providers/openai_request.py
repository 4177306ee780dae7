"""A request in OpenAI's chat completions format, which OpenAI, Azure OpenAI and every compatible server read."""

from typing import Any

from contracts.requests import CompletionRequest, Message

_OF_FLEET = {"reasoning", "provider_data"}
"""What we add to an assistant message; OpenAI refuses fields that it does not know."""


def request_body(
    request: CompletionRequest, *, model: str, max_tokens_field: str, stream_options: dict[str, bool] | None
) -> dict[str, Any]:
    """The JSON body of a streamed chat completion. `stream_options`: None for servers that do not know them."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(message) for message in request.messages],
        "stream": True,
        "stream_options": stream_options,
        max_tokens_field: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": request.stop,
        "seed": request.seed,
        "tools": [tool.model_dump(mode="json") for tool in request.tools] if request.tools else None,
        "tool_choice": _dumped(request.tool_choice),
        "parallel_tool_calls": request.parallel_tool_calls,
        "response_format": _dumped(request.response_format),
        "reasoning_effort": request.reasoning_effort,
    }
    return {name: value for name, value in body.items() if value is not None}


def _message(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude=_OF_FLEET)


def _dumped(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
