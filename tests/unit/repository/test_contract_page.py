"""docs/contract.md says what the code does: names, codes, and what the fleet does about each error."""

import re
from collections.abc import Iterable
from typing import get_args

import pytest

from contracts import streams
from contracts.errors import BY_CODE, ErrorCode
from contracts.events import Event, EventBase, FinishReason
from contracts.notices import ALERT_KINDS, NoticeKind
from contracts.requests import DEFAULT_DEADLINE_S, MAX_REQUEST_BYTES, CompletionRequest, ReasoningEffort
from contracts.subjects import Priority, Provider, RpcMethod
from contracts.usage import Outcome, PriceSource, Usage, UsageRecord, UsageSource
from tests.documents import CONTRACT, quoted, rows, section
from workers.endpoints.circuit import MAX_FAILURES
from workers.request.policy import (
    LONGEST_RETRY_AFTER_S,
    MAX_ATTEMPTS,
    MAX_TRIES_PER_ENDPOINT,
    NextEndpoint,
    NextFallback,
    RetryHere,
    Situation,
    decide,
)
from workers.request.recovery import MAX_DEAD_ATTEMPTS

TEXT = CONTRACT.read_text()
ERRORS = {
    code: row
    for row in rows(section(CONTRACT, "Errors"), "| code | retryable | when | the fleet |")
    for code in quoted(row[0])
}
"""The row of each code."""
NUMBERS = {"three": 3, "ten": 10}


def situation(*, tries: int, endpoints: bool = False, fallbacks: bool = False) -> Situation:
    return Situation(
        attempts=tries,
        tries_here=tries,
        output_sent=False,
        on_interrupt="restart",
        endpoints_left=endpoints,
        fallbacks_left=fallbacks,
        time_left_s=600,
        jitter=0.5,
    )


def test_the_table_of_errors_has_each_code_once() -> None:
    named = [
        code
        for row in rows(section(CONTRACT, "Errors"), "| code | retryable | when | the fleet |")
        for code in quoted(row[0])
    ]
    assert sorted(named) == sorted(ErrorCode)


@pytest.mark.parametrize("code", ErrorCode)
def test_the_table_says_whether_a_code_is_retryable(code: ErrorCode) -> None:
    assert ERRORS[code][1] == ("yes" if BY_CODE[code].retryable else "no")


@pytest.mark.parametrize("code", ErrorCode)
def test_the_table_says_what_the_policy_decides(code: ErrorCode) -> None:
    """By its words: `up to 3 tries`, `next endpoint`, `next fallback`, and `fails` where nothing is left."""
    said, error = ERRORS[code][3], BY_CODE[code]("it happened")
    spent = MAX_TRIES_PER_ENDPOINT

    tries = isinstance(decide(error, situation(tries=1)), RetryHere)
    moves = isinstance(decide(error, situation(tries=spent, endpoints=True)), NextEndpoint)
    falls_back = isinstance(decide(error, situation(tries=spent, fallbacks=True)), NextFallback)

    assert (f"up to {spent} tries" in said) == tries
    assert ("next endpoint" in said) == moves
    assert ("next fallback" in said) == falls_back
    assert "fails" in said


def test_the_bounds_are_those_of_the_policy() -> None:
    errors = section(CONTRACT, "Errors")
    assert f"at most {MAX_ATTEMPTS} vendor calls" in errors
    assert f"more than {LONGEST_RETRY_AFTER_S:.0f} s" in ERRORS["rate_limited"][3]
    assert NUMBERS[_word(r"failed (\w+) times in a row", errors)] == MAX_FAILURES
    assert NUMBERS[_word(r"killed (\w+) workers", errors)] == MAX_DEAD_ATTEMPTS


def test_the_tokens_of_subjects_are_named() -> None:
    subjects = section(CONTRACT, "Subjects")
    assert _listed(r"`<provider>` is (.*?); in a request's", subjects) == list(Provider)
    assert _listed(r"`<priority>` is (.*?)\.", subjects) == list(Priority)
    rpcs = [row[3] for row in rows(subjects, "| subject | stream | from | what |") if row[0].startswith("`llm.v1.rpc")]
    assert set(quoted(rpcs[0])) == set(RpcMethod)
    assert {quoted(row[0])[0] for row in rows(TEXT, "| method | question | answer |")} == set(RpcMethod)


def test_the_table_of_subjects_has_every_stream_and_how_long_it_keeps_what() -> None:
    said = {
        name: row[1]
        for row in rows(section(CONTRACT, "Subjects"), "| subject | stream | from | what |")
        for name in quoted(row[1])
        if name.startswith(("LLM_", "llm_"))
    }
    defined = {config["name"].removeprefix("KV_"): config for config in streams.definitions(streams.Sizes())}
    assert said.keys() == defined.keys()

    ages = {
        "LLM_REPLIES": ("kept 10 minutes", 600),
        "LLM_CANCELS": ("kept an hour", 3600),
        "LLM_DEAD": ("kept 14 days", 14 * 86_400),
        "LLM_NOTICES": ("kept 7 days", 7 * 86_400),
    }
    for name, (words, seconds) in ages.items():
        assert words in said[name], name
        assert defined[name]["max_age"] == seconds * 1_000_000_000, name
    assert "10 minutes" in said["LLM_REQUESTS"]
    assert streams.REQUEST_IDS_KNOWN_S == 600
    assert {name for name, text in said.items() if "memory" in text} <= {
        name for name, config in defined.items() if config["storage"] == "memory"
    }


def test_the_table_of_a_request_has_each_field() -> None:
    table = rows(section(CONTRACT, "A request"), "| field | | |")
    assert [field for row in table for field in quoted(row[0])] == list(CompletionRequest.model_fields)
    about = {quoted(row[0])[0]: row for row in table}
    assert quoted(about["reasoning_effort"][2]) == list(get_args(ReasoningEffort))
    assert about["deadline"][1] == f"{DEFAULT_DEADLINE_S / 60:.0f} minutes after publishing"
    assert f"({MAX_REQUEST_BYTES:,} bytes)" in TEXT


def test_the_table_of_events_has_each_type_with_its_fields() -> None:
    table = {quoted(row[0])[0]: row[1] for row in rows(section(CONTRACT, "Events"), "| `type` | further fields |")}
    types = {model.model_fields["type"].default: model for model in get_args(Event)}
    assert list(table) == list(types)
    for name, model in types.items():
        _names(table[name], model.model_fields.keys() - EventBase.model_fields.keys() - {"type"})
    _names(table["completed"], get_args(FinishReason))


def test_usage_and_its_records_are_named_with_each_field() -> None:
    _names(section(CONTRACT, "Events"), [*Usage.model_fields, *UsageSource])
    _names(section(CONTRACT, "Usage records"), [*UsageRecord.model_fields, *Outcome, *PriceSource])


def test_the_kinds_of_notices_are_named() -> None:
    kinds = _listed(r"Kinds: (.*?)\. Agents", section(CONTRACT, "Notices"))
    assert kinds == [*ALERT_KINDS, NoticeKind.CONFIG]


def _word(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found, f"docs/contract.md does not say {pattern!r}"
    return found[1]


def _listed(pattern: str, text: str) -> list[str]:
    return quoted(_word(pattern, text))


def _names(text: str, words: Iterable[str]) -> None:
    missing = [word for word in words if not re.search(rf"\b{re.escape(word)}\b", text)]
    assert not missing, f"docs/contract.md does not name {missing}"
