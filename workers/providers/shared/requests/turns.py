"""What vendors whose conversations are stricter than OpenAI's want of one."""

from contracts.errors import InvalidRequest
from contracts.requests import AssistantMessage, CompletionRequest, Message, TextPart, ToolMessage

OPENING = "(The conversation begins here.)"
"""What the user is made to say in front of a history that begins with the model: agents cut off the oldest messages,
and cannot know which vendor refuses what is left."""


def check_says_something(request: CompletionRequest, *, provider: str) -> None:
    """Raises InvalidRequest when all messages are blank, which vendors refuse in words that explain nothing."""
    if not any(map(_says_something, request.messages)):
        raise nothing_said(provider)


def nothing_said(provider: str) -> InvalidRequest:
    """The error for a request whose messages are all blank."""
    return InvalidRequest("all messages of the request are blank; at least one needs a text", provider=provider)


def _says_something(message: Message) -> bool:
    match message:
        case AssistantMessage():
            said = (message.content or "").strip() or (message.refusal or "").strip()
            return bool(said or message.tool_calls or message.provider_data)
        case ToolMessage():
            return True
        case _ if isinstance(message.content, str):
            return bool(message.content.strip())
        case _:
            return any(not isinstance(part, TextPart) or part.text.strip() for part in message.content)
