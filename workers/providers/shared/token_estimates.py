"""Token counts without a vocabulary: for bills that the vendor did not state, and for limits before a call.

A token is taken as four bytes of UTF-8: close for English, high for code, a little low for Chinese. Exact counts
come from the vendor's usage, or from an adapter's `count_tokens`.
"""

import json
from typing import Protocol, assert_never

from contracts.requests import (
    AssistantMessage,
    Message,
    SystemMessage,
    TextPart,
    Tool,
    ToolMessage,
    UserMessage,
)
from contracts.usage import Usage, UsageSource
from workers.providers.shared.requests.images import images_in

BYTES_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
TOKENS_PER_IMAGE = 765
"""What OpenAI's vision guide gives for a square image of 1024 pixels in high detail."""


class Prompt(Protocol):
    """What a vendor reads: a completion request, or the question how many tokens one has."""

    @property
    def messages(self) -> tuple[Message, ...]: ...

    @property
    def tools(self) -> tuple[Tool, ...] | None: ...


def estimate_input(prompt: Prompt) -> int:
    """Tokens of a prompt: its texts, its tools and its images."""
    texts = [*(text for message in prompt.messages for text in texts_of(message)), *tool_texts(prompt)]
    return (
        sum(estimate_output(text) for text in texts)
        + TOKENS_PER_MESSAGE * len(prompt.messages)
        + TOKENS_PER_IMAGE * len(images_in(prompt.messages))
    )


def estimate_output(text: str) -> int:
    """Tokens of a text, rounded up."""
    size = len(text) if text.isascii() else len(text.encode(errors="replace"))
    return -(-size // BYTES_PER_TOKEN)


def estimate(prompt: Prompt, output: str, *, at_least: int = 0) -> Usage:
    """The bill of an attempt whose vendor stated none.

    `output` is all that it said, tool calls included; `at_least`: so many tokens it has certainly generated.
    """
    return Usage(
        input_tokens=estimate_input(prompt),
        output_tokens=max(estimate_output(output), at_least),
        source=UsageSource.ESTIMATED,
    )


def texts_of(message: Message) -> list[str]:
    """All texts of a message that a vendor counts."""
    match message:
        case AssistantMessage():
            calls = [
                text for call in message.tool_calls or () for text in (call.function.name, call.function.arguments)
            ]
            return [text for text in (message.content, message.refusal, *calls) if text]
        case SystemMessage() | UserMessage() | ToolMessage():
            if isinstance(message.content, str):
                return [message.content]
            return [part.text for part in message.content if isinstance(part, TextPart)]
        case _:
            assert_never(message)


def tool_texts(prompt: Prompt) -> list[str]:
    """The definition of each tool as JSON, which a vendor counts as a text."""
    return [_in_ascii(tool.function.to_json()) for tool in prompt.tools or ()]


def _in_ascii(written: bytes) -> str:
    """JSON as many libraries send it, with escapes for all that is not ASCII."""
    return written.decode() if written.isascii() else json.dumps(json.loads(written), separators=(",", ":"))
