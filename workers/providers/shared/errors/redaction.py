"""What must not leave with a vendor's words: keys, parts of keys, and the prompt."""

import re
from collections.abc import Iterable

from pydantic import SecretStr

MAX_MESSAGE_CHARS = 500

_KEY_LIKE = re.compile(
    r"""
      \b(?:sk|pk|rk|sess|xai)-[\w*.\-…]*           # OpenAI, Anthropic and others, also cut down to the prefix
    | \b(?:gsk|hf|nvapi|pplx|r8)[_-][\w*\-]{8,}
    | \bAIza[\w*\-]+ | \bAQ\.[\w*\-]{8,}         # Google's older keys and its newer ones
    | \beyJ[\w\-]+\.[\w.\-]+                        # a token of Entra ID
    | (?<![\w\-])[\w\-]*\*{3,}[\w\-*]*             # masked by the vendor
    | (?<=Bearer\s)\S+
    """,
    re.VERBOSE,
)
"""One pattern for all vendors, because any server can stand behind any adapter and show the key of another."""
_SHOWN_RUN = 6
"""So many characters of a key in a row are a part of it; fewer happen by chance."""
_SHORTEST_SECRET = 4
_REPEATED_RUN = 64


def redact(text: str, *, key: SecretStr | None) -> str:
    """`text` without the key, its parts, and whatever looks like a key; cut to MAX_MESSAGE_CHARS."""
    text = text[: 4 * MAX_MESSAGE_CHARS]
    if key:
        text = _without_parts_of(key.get_secret_value(), text)
    text = " ".join(_KEY_LIKE.sub("[redacted]", text).split())
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[: MAX_MESSAGE_CHARS - 1]}…"


def repeats(text: str, prompt: Iterable[str]) -> bool:
    """Whether a vendor's words hold a piece of what it was asked, as those of servers that show the input they refuse.

    A run of at least _REPEATED_RUN characters is found for certain.
    """
    # Each run of 64 characters holds a whole piece of 32 that begins at a multiple of 32 of the prompt. So the prompt,
    # which may be long, is cut into pieces once, and looked up among all pieces of the text, which is short.
    half = _REPEATED_RUN // 2
    pieces = {piece for at in range(len(text) - half + 1) if (piece := text[at : at + half]).strip()}
    return any(asked[at : at + half] in pieces for asked in prompt for at in range(0, len(asked) - half + 1, half))


def _without_parts_of(secret: str, text: str) -> str:
    run = min(_SHOWN_RUN, len(secret))
    if run < _SHORTEST_SECRET:
        return text
    runs = {secret[at : at + run] for at in range(len(secret) - run + 1)}
    shown = bytearray(len(text))
    for at in range(len(text) - run + 1):
        if text[at : at + run] in runs:
            shown[at : at + run] = b"\1" * run
    parts: list[str] = []
    for at, char in enumerate(text):
        if not shown[at]:
            parts.append(char)
        elif not at or not shown[at - 1]:
            parts.append("[redacted]")
    return "".join(parts)
