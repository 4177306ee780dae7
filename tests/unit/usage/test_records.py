"""What counts as a usage record."""

import json
from typing import Any

import pytest

from tests.usage import record
from workers.usage.records import Malformed, parse

SUBJECT = "llm.v1.usage.openai.acme"


def payload(**changes: Any) -> bytes:
    return json.dumps(json.loads(record("r").to_json()) | changes).encode()


def test_a_record_is_read_as_it_was_written() -> None:
    given = record("r", metadata={"run": "42", "nested": [1, {"a": None}]})

    assert parse(SUBJECT, given.to_json()) == given


def test_fields_of_a_later_version_are_ignored() -> None:
    assert parse(SUBJECT, payload(added_in_v1_9=1)) == record("r")


@pytest.mark.parametrize(
    ("subject", "data", "reason"),
    [
        (SUBJECT, b"", "Invalid JSON"),
        (SUBJECT, b"\xff\xfe", "Invalid JSON"),
        (SUBJECT, b"[]", "Input should be an object"),
        (SUBJECT, payload(usage={"input_tokens": -1}), "usage.input_tokens"),
        (SUBJECT, payload(usage={"input_tokens": 2**63}), "usage.input_tokens"),
        (SUBJECT, payload(outcome="lost"), "outcome"),
        (SUBJECT, payload(started_at="yesterday"), "started_at"),
        (SUBJECT, payload(cost="NaN"), "cost"),
        (SUBJECT, payload(cost="-1"), "cost"),
        (SUBJECT, payload(id="a b"), "id"),
        (SUBJECT, payload(id=""), "id"),
        (SUBJECT, payload(tenant="other"), "differ from the subject's"),
        ("llm.v1.usage.anthropic.acme", payload(), "differ from the subject's"),
        ("llm.v1.usage.openai.acme.more", payload(), "differ from the subject's"),
        (SUBJECT, b"[" * 100_000, "recursion limit"),
    ],
)
def test_anything_else_is_refused_with_the_reason(subject: str, data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        parse(subject, data)


def test_a_refusal_repeats_nothing_of_the_record() -> None:
    with pytest.raises(Malformed) as refused:
        parse(SUBJECT, payload(agent="sk-secret with blanks", provider_id=5))

    assert "sk-secret" not in str(refused.value)


def test_a_nul_is_replaced_because_the_database_cannot_hold_it() -> None:
    parsed = parse(SUBJECT, payload(endpoint="a\0b", metadata={"k\0": ["v\0", {"x": "\0"}], "plain": r"\u0000"}))

    assert parsed.endpoint == "a\ufffdb"
    assert parsed.metadata == {"k\ufffd": ["v\ufffd", {"x": "\ufffd"}], "plain": r"\u0000"}
