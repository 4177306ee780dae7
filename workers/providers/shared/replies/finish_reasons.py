"""Why a reply ended, in any vendor's words.

A server that speaks one vendor's format often passes on the word of the vendor behind it, and spells it as it likes:
GLM says `sensitive` and `network_error` in Anthropic's format, gateways to Gemini `MAX_TOKENS` in every format, others
`content-filter` or `content_filter: RECITATION`.
"""

import re
from typing import Any, Literal

from contracts.events import FinishReason

_BROKE_OFF = "broke_off"
"""Stands for a reply that is not whole, whatever came of it."""

_Meaning = FinishReason | Literal["broke_off"]

_WORDS: dict[_Meaning, tuple[str, ...]] = {
    "stop": (
        "stop",
        "stop_sequence",
        "stop_token",
        "end_turn",
        "eos",
        "eos_token",
        "complete",
        "completed",
        "done",
        "end",
        "end_of_turn",
        "finished",
    ),
    "length": (
        "length",
        "max_tokens",
        "max_output_tokens",
        "model_length",
        "error_limit",  # Cohere
        "continuation",
        "repetition",  # vLLM: the model repeated itself until the engine stopped it
    ),
    "tool_calls": ("tool_calls", "tool_call", "tool_use", "function_call", "function_calls"),
    "content_filter": (
        "refusal",
        "recitation",
        "image_recitation",
        "spii",
        "language",
        "error_toxic",  # Cohere
        "model_armor",
        "escalation",
        "pup_limited_disabled",
    ),
}
_MEANINGS: dict[str, _Meaning] = {word: meaning for meaning, words in _WORDS.items() for word in words}
_PATTERNS: tuple[tuple[re.Pattern[str], _Meaning], ...] = (
    (
        re.compile(r"content_filter|safety|unsafe|sensitive|blocklist|blocked|prohibited|guardrail|moderat|violation"),
        "content_filter",
    ),
    (re.compile(r"length|max_(?:\w+_)?tokens?|token_limit|context_window"), "length"),
    (
        re.compile(
            r"(?:^|_)(?:error|abort|aborted|cancell?ed|disconnected|failed|failure|interrupted|overloaded|preempted|"
            r"rate_limit|resources?|timeout|time_limit|unavailable)(?:$|_)"
        ),
        _BROKE_OFF,
    ),
)
"""Patterns for the many forms of one word: `image_safety`, `model_context_window_exceeded`, `network_error`."""
_MOST_CHARS = 200
"""Of a reason that are looked at: the patterns take minutes for what may be megabytes."""
_NO_REASONS = frozenset({"", "null", "none"})
"""DashScope's API gives `null` as a text while a reply goes on."""


def stated(reason: Any) -> str | None:
    """The word for the reason that a chunk gives; None when there is none yet.

    SGLang's own API has it as an object (`{"type": "length", "length": 5}`), and some gateways pass that on.
    """
    match reason:
        case str():
            return None if reason.strip().lower() in _NO_REASONS else reason
        case {"type": str(word)} | [str(word), *_]:
            return stated(word)
        case _:
            return None


def meaning(said: str) -> FinishReason | None:
    """What a word means; None for one that is not known here, or that says that the reply is not whole."""
    meant = _meant(said)
    return None if meant == _BROKE_OFF else meant


def broke_off(said: str) -> bool:
    """Whether the vendor says that its reply is not whole."""
    return _meant(said) == _BROKE_OFF


def _meant(said: str) -> _Meaning | None:
    word = re.sub(r"[\s:-]+", "_", said[:_MOST_CHARS].strip().lower())
    if found := _MEANINGS.get(word.removeprefix("finish_reason_")):
        return found
    return next((meant for pattern, meant in _PATTERNS if pattern.search(word)), None)
