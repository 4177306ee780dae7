"""What the finish reasons mean that servers of OpenAI's format give.

OpenAI has five. The others come from the models' own APIs behind a gateway (Gemini, Claude, Cohere, Mistral, GLM), in
their own letters: `MAX_TOKENS`, `content-filter`, `content_filter: RECITATION`.
"""

import re
from typing import Literal

from contracts.events import FinishReason

BROKE_OFF = "broke_off"
"""The reply is not whole, whatever came of it."""

_MEANINGS: dict[str, FinishReason | Literal["broke_off"]] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "stop_token": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "complete": "stop",
    "completed": "stop",
    "done": "stop",
    "end": "stop",
    "end_of_turn": "stop",
    "finished": "stop",
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "error_limit": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "function_calls": "tool_calls",
    "content_filter": "content_filter",
    "recitation": "content_filter",
    "refusal": "content_filter",
    "spii": "content_filter",
    "error_toxic": "content_filter",
}
_PATTERNS: tuple[tuple[re.Pattern[str], FinishReason | Literal["broke_off"]], ...] = (
    (
        re.compile(r"content_filter|safety|unsafe|sensitive|blocklist|blocked|prohibited|guardrail|moderat|violation"),
        "content_filter",
    ),
    (re.compile(r"length|max_(?:\w+_)?tokens?|token_limit|context_window"), "length"),
    (
        re.compile(
            r"(?:^|_)(?:error|abort|aborted|cancell?ed|disconnected|failed|failure|interrupted|overloaded|rate_limit|"
            r"resources?|timeout|unavailable)(?:$|_)"
        ),
        BROKE_OFF,
    ),
)
"""For the many forms of one word: `image_safety`, `model_context_window_exceeded`, `network_error`."""
_NO_REASONS = frozenset({"", "null", "none"})
"""DashScope's API gives `null` as a text while a reply goes on."""


def said_reason(reason: str) -> str | None:
    """The reason that a chunk gives; None when its words say that there is none yet."""
    return None if reason.strip().lower() in _NO_REASONS else reason


def meaning(reason: str) -> FinishReason | Literal["broke_off"] | None:
    """None: nobody knows."""
    word = re.sub(r"[\s:-]+", "_", reason.strip().lower())
    if found := _MEANINGS.get(word.removeprefix("finish_reason_")):
        return found
    return next((meant for pattern, meant in _PATTERNS if pattern.search(word)), None)
