"""Why replies ended, in everybody's words."""

import time
from typing import Any

import pytest

from workers.providers.shared.replies.finish_reasons import broke_off, meaning, stated


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
        (["model_armor", "LANGUAGE", "IMAGE_RECITATION", "escalation"], "content_filter"),
        (["repetition", "continuation"], "length"),
        (["unsafe", "content_blocked", "moderated", "policy_violation"], "content_filter"),
        (["whatever", "OTHER", "function_call_filter: MALFORMED_FUNCTION_CALL", "stopped-by-moonlight"], None),
    ],
)
def test_a_reason_means_the_same_in_all_letters(reasons: list[str], meant: str | None) -> None:
    assert {reason: meaning(reason) for reason in reasons} == dict.fromkeys(reasons, meant)
    assert not any(map(broke_off, reasons))


@pytest.mark.parametrize(
    "reason",
    [
        *("error", "network_error", "server-error", "abort", "aborted", "cancelled", "TIMEOUT"),
        *("insufficient_system_resource", "insufficient_resources", "engine_overloaded", "preempted", "time limit"),
        *("user_cancelled", "abort_by_server", "rate_limit", "generation_failed", "service unavailable"),
    ],
)
def test_a_reply_that_broke_off_has_no_other_meaning(reason: str) -> None:
    assert broke_off(reason)
    assert meaning(reason) is None


@pytest.mark.parametrize("reason", ["", " ", "null", "NULL", "None", None, {}, [], {"type": None}, 5, True])
def test_no_reason_is_given_yet(reason: Any) -> None:
    assert stated(reason) is None


@pytest.mark.parametrize("reason", ["length", ["length"], {"type": "length", "length": 5}])
def test_a_reason_may_stand_in_an_object_or_a_list(reason: Any) -> None:
    assert stated(reason) == "length"


def test_a_long_reason_is_looked_at_in_its_beginning_only() -> None:
    begun = time.process_time()
    assert meaning("max_" * 250_000) is None
    assert time.process_time() - begun < 10, "it took minutes"
