"""The body of an error as it came, before anything is known of what it says."""

import json
from collections.abc import Mapping

from runtime.egress import charset_of


def text_of(body: bytes, headers: Mapping[str, str]) -> str:
    """The body as a text, in the charset that its headers name, when that is one that may be named, else in UTF-8."""
    return body.decode(charset_of(headers.get("content-type", "")) or "utf-8", errors="replace")


def json_or_text(body: bytes, headers: Mapping[str, str]) -> object:
    """What the body says in JSON; its text when it is none, also when it is cut or nested too deeply."""
    text = text_of(body, headers).strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
