"""The finish reasons of OpenAI's format, in everybody's words."""

import pytest

from workers.providers.openai_finish import BROKE_OFF, meaning, said_reason


@pytest.mark.parametrize(
    ("reasons", "meant"),
    [
        (
            ["stop", "STOP", "end_turn", "stop_sequence", "eos", "eos_token", "COMPLETE", "done", "FINISH_REASON_STOP"],
            "stop",
        ),
        (["length", "MAX_TOKENS", "max_output_tokens", "max-tokens", "max_new_tokens", "max_length"], "length"),
        (["model_length", "model_context_window_exceeded", "context_length_exceeded", "token_limit"], "length"),
        (["tool_calls", "TOOL_CALL", "tool_use", "tool-calls", "function_call"], "tool_calls"),
        (["content_filter", "content-filter", "Content Filter", "content_filtered"], "content_filter"),
        (
            ["SAFETY", "IMAGE_SAFETY", "RECITATION", "content_filter: RECITATION", "PROHIBITED_CONTENT"],
            "content_filter",
        ),
        (["BLOCKLIST", "SPII", "sensitive", "refusal", "guardrail_intervened", "ERROR_TOXIC"], "content_filter"),
        (["error", "network_error", "server-error", "abort", "aborted", "cancelled", "TIMEOUT"], BROKE_OFF),
        (["insufficient_system_resource", "insufficient_resources", "engine_overloaded"], BROKE_OFF),
        (["user_cancelled", "abort_by_server", "rate_limit", "generation_failed", "service unavailable"], BROKE_OFF),
        (["unsafe", "content_blocked", "moderated", "policy_violation"], "content_filter"),
        (["whatever", "OTHER", "function_call_filter: MALFORMED_FUNCTION_CALL", "stopped-by-moonlight"], None),
    ],
)
def test_a_reason_means_the_same_in_all_letters(reasons: list[str], meant: str | None) -> None:
    assert {reason: meaning(reason) for reason in reasons} == dict.fromkeys(reasons, meant)


@pytest.mark.parametrize("word", ["", " ", "null", "NULL", "None"])
def test_a_word_for_no_reason_is_none(word: str) -> None:
    assert said_reason(word) is None
