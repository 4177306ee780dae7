"""What must not leave with a vendor's words: keys, parts of keys, and the prompt."""

import re
from collections.abc import Iterable
from functools import cached_property

from pydantic import SecretStr

from workers.providers.shared.errors import disguises

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
_OF_A_KEY = re.compile(r"[A-Za-z0-9]{12,}")
_DIGIT = frozenset("0123456789")
_SHOWN_RUN = 6
"""So many characters of a key in a row are a part of it; fewer happen by chance."""
_SHORTEST_SECRET = 4
_SHORTEST_KEY_CHARS = 12
_SHORTEST_KEY_OF_LETTERS = 24
"""A secret of fewer letters and digits, or of fewer letters and no digit, is no random one: it is what people write
where a server wants any key (`lm-studio`, `ollama`), and names of models hold these words."""
_REPEATED_RUN = 64
DISGUISED = "words that hold the key in another form, which are left out"
"""What is said in place of a text from which the key cannot be cut out."""


class Secrets:
    """What a vendor was sent to know us by, and the search for it in what the vendor says."""

    def __init__(self, *secrets: SecretStr | None) -> None:
        given = [secret.get_secret_value() for secret in secrets if secret is not None]
        self._secrets = [secret for secret in given if _is_random(secret)]
        self._words = [secret for secret in given if not _is_random(secret) and len(secret) >= _SHORTEST_SECRET]
        """Secrets that are looked for in messages only, as they are."""

    @cached_property
    def _parts(self) -> frozenset[str]:
        return disguises.parts_of(self._secrets)

    def redact(self, text: str) -> str:
        """`text` without the secrets, their parts, and whatever looks like a key; cut to MAX_MESSAGE_CHARS.

        DISGUISED in place of a text that holds a part in another form than plain.
        """
        text = text[: 4 * MAX_MESSAGE_CHARS]
        for word in self._words:
            text = text.replace(word, "[redacted]")
        for secret in self._secrets:
            text = _without_parts_of(secret, text)
        text = " ".join(_KEY_LIKE.sub("[redacted]", text).split())
        if disguises.holds(text, self._parts):
            return DISGUISED
        return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[: MAX_MESSAGE_CHARS - 1]}…"

    def are_in(self, text: str) -> bool:
        """Whether a text holds a part of a secret in any form; to be asked about short texts only."""
        return self.stand_in(text) or disguises.holds(text, self._parts)

    def stand_in(self, text: str) -> bool:
        """Whether a text, however long, holds a whole secret as it is."""
        return any(secret in text for secret in self._secrets)


def redact(text: str, *, key: SecretStr | None) -> str:
    """`text` as `Secrets.redact` gives it, for one secret."""
    return Secrets(key).redact(text)


def looks_like_a_key(text: str) -> bool:
    """Whether a text holds what is written as keys of vendors are: also with letters and digits in a row, which models
    do not have that are named like them (`pplx-embed-context-v1`)."""
    return any(_OF_A_KEY.search(found[0]) and not _DIGIT.isdisjoint(found[0]) for found in _KEY_LIKE.finditer(text))


def repeats(text: str, prompt: Iterable[str]) -> bool:
    """Whether a vendor's words hold a piece of what it was asked, as those of servers that show the input they refuse.

    A run of at least _REPEATED_RUN characters is found for certain.
    """
    # Each run of 64 characters holds a whole piece of 32 that begins at a multiple of 32 of the prompt. So the prompt,
    # which may be long, is cut into pieces once, and looked up among all pieces of the text, which is short.
    half = _REPEATED_RUN // 2
    pieces = {piece for at in range(len(text) - half + 1) if (piece := text[at : at + half]).strip()}
    return any(asked[at : at + half] in pieces for asked in prompt for at in range(0, len(asked) - half + 1, half))


def _is_random(secret: str) -> bool:
    """Whether a secret can be a key that somebody made at random."""
    letters = sum(char.isalnum() for char in secret)
    has_digit = not _DIGIT.isdisjoint(secret)
    return letters >= (_SHORTEST_KEY_CHARS if has_digit else _SHORTEST_KEY_OF_LETTERS)


def _without_parts_of(secret: str, text: str) -> str:
    run = _SHOWN_RUN
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
