"""The body of an error as it came, before anything is known of what it says."""

import json
from collections.abc import Mapping
from email.message import Message

from runtime.egress import CHARSETS


def text_of(body: bytes, headers: Mapping[str, str]) -> str:
    """The body as a text, in the charset that its headers name, when that is one that may be named, else in UTF-8."""
    message = Message()
    message["content-type"] = headers.get("content-type", "")
    charset = message.get_content_charset()
    return body.decode(charset if charset in CHARSETS else "utf-8", errors="replace")


def json_or_text(body: bytes, headers: Mapping[str, str]) -> object:
    """What the body says in JSON; its text when it is none, also when it is cut or nested too deeply."""
    text = text_of(body, headers).strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
