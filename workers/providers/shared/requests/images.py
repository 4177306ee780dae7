"""Images in `data:` URLs (RFC 2397), written as vendors take them: a registered media type and plain base64."""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes

from contracts.requests import ImagePart, Message, UserMessage

_HEAD = re.compile(r"data:(image/[^;,]+)((?:;[^;,]*)*),", re.IGNORECASE)
_REGISTERED = {
    "image/jpg": "image/jpeg",
    "image/jpe": "image/jpeg",
    "image/jfif": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-jpg": "image/jpeg",
    "image/x-jpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-webp": "image/webp",
    "image/x-gif": "image/gif",
}
"""The registered media types, by the labels that browsers and tools write in their place; Gemini refuses those."""
_URL_SAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class InlineImage:
    """An image that stands in its URL."""

    media_type: str
    base64: str


def images_in(messages: Iterable[Message]) -> list[ImagePart]:
    """All images of a conversation; only users send any."""
    contents = [message.content for message in messages if isinstance(message, UserMessage)]
    parts = [part for content in contents if not isinstance(content, str) for part in content]
    return [part for part in parts if isinstance(part, ImagePart)]


def is_inline(url: str) -> bool:
    """Whether it is a `data:` URL."""
    return url[:5].lower() == "data:"


def read_inline(url: str) -> InlineImage | None:
    """The image that a `data:` URL holds; None for another URL, and for one without an image's type or data."""
    head = _HEAD.match(url)
    if head is None:
        return None
    text, parameters = url[head.end() :], [parameter.strip().lower() for parameter in head[2].split(";")]
    data = _plain_base64(text) if "base64" in parameters else base64.b64encode(unquote_to_bytes(text)).decode()
    label = head[1].strip().lower()
    return InlineImage(_REGISTERED.get(label, label), data) if data else None


def rewritten(url: str) -> str:
    """A `data:` URL in the one form that every server reads; any other one, and one without an image, as it is."""
    image = read_inline(url)
    return url if image is None else f"data:{image.media_type};base64,{image.base64}"


def _plain_base64(text: str) -> str | None:
    """`text` without what only some decoders take: percent signs, white space, the URL-safe alphabet, missing padding.

    None when it is no base64.
    """
    data = "".join((unquote(text) if "%" in text else text).split()).translate(_URL_SAFE).rstrip("=")
    data += "=" * (-len(data) % 4)
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data
