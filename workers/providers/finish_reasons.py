"""Why a reply ended, in any vendor's words.

A server that speaks one vendor's format often passes on the word of the vendor behind it, and spells it as it likes:
GLM says `sensitive` and `network_error` in Anthropic's format, gateways to Gemini `MAX_TOKENS` in every format.
"""

from contracts.events import FinishReason

_WORDS: dict[FinishReason, tuple[str, ...]] = {
    "stop": ("stop", "stop_sequence", "end_turn", "eos", "eos_token", "complete", "completed"),
    "length": (
        "length",
        "max_tokens",
        "max_output_tokens",
        "model_length",
        "model_context_window_exceeded",
        "continuation",
    ),
    "tool_calls": ("tool_calls", "tool_call", "tool_use", "function_call"),
    "content_filter": (
        "content_filter",
        "content_filtered",
        "refusal",
        "sensitive",
        "guardrail_intervened",
        "safety",
        "recitation",
        "language",
        "blocklist",
        "prohibited_content",
        "spii",
        "image_safety",
        "image_prohibited_content",
        "image_recitation",
        "model_armor",
        "escalation",
        "pup_limited_disabled",
    ),
}
_MEANINGS: dict[str, FinishReason] = {word: meaning for meaning, words in _WORDS.items() for word in words}
_BROKE_OFF = frozenset({"error", "network_error", "abort", "aborted", "timeout", "insufficient_system_resource"})


def meaning(said: str) -> FinishReason | None:
    """None: not a word that is known here."""
    return _MEANINGS.get(_plain(said))


def broke_off(said: str) -> bool:
    """Whether the vendor says that its reply is not whole."""
    return _plain(said) in _BROKE_OFF


def _plain(said: str) -> str:
    return said.strip().lower().replace("-", "_")
