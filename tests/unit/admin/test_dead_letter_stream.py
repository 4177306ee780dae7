"""What a message of `LLM_DEAD` tells, and where a letter may go back to."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from admin_api.operations.dead_letter_stream import DeadLetter, DeadLetterFilter, letter_of, whose
from admin_api.operations.dead_letters import is_from_its_tenant
from contracts.control import DEAD_AT, DEAD_CODE, DEAD_REASON, DEAD_SUBJECT, DEAD_TRUNCATED
from tests.driven_clock import NOON

SUBJECT = "llm.v1.dead.openai.acme"


def letter(**headers: str) -> DeadLetter:
    return letter_of(SUBJECT, headers, seq=7, stored_at=NOON, size=3)


def test_a_letter_tells_what_its_subject_and_headers_say() -> None:
    headers = {
        DEAD_SUBJECT: "llm.v1.request.openai.background.acme",
        DEAD_CODE: "internal",
        DEAD_REASON: "a bug",
        DEAD_AT: "2026-11-22T10:00:00+00:00",
        DEAD_TRUNCATED: "true",
    }

    found = letter(**headers)

    assert (found.seq, found.provider, found.tenant, found.size) == (7, "openai", "acme", 3)
    assert (found.subject, found.code, found.reason) == ("llm.v1.request.openai.background.acme", "internal", "a bug")
    assert (found.at, found.truncated) == (datetime(2026, 11, 22, 10, tzinfo=UTC), True)


@pytest.mark.parametrize("headers", [{}, {DEAD_AT: "yesterday"}, {DEAD_AT: "2026-11-22T10:00:00"}])
def test_without_a_time_that_can_be_read_it_is_as_old_as_its_message(headers: dict[str, str]) -> None:
    found = letter(**headers)

    assert (found.at, found.subject, found.code, found.truncated) == (NOON, "", "", False)


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"agent": "a1", "id": "r1"}, {"agent": "a1", "request_id": "r1"}),
        ({"agent": "a1", "id": "e1", "request_id": "r1"}, {"agent": "a1", "request_id": "r1"}),
        ({"agent": "a 1", "id": "r.1"}, {}),
        ({"agent": 7, "id": None}, {}),
        ([1, 2], {}),
    ],
)
def test_tells_agent_and_request_where_they_are_tokens(payload: Any, told: dict[str, str]) -> None:
    assert whose(json.dumps(payload).encode()) == told


@pytest.mark.parametrize(
    ("subject", "may_go_back"),
    [
        ("llm.v1.request.openai.interactive.acme", True),
        ("llm.v1.request.auto.background.acme", True),
        ("llm.v1.usage.openai.acme", True),
        ("llm.v1.request.openai.interactive.globex", False),
        ("llm.v1.request.openai.interactive.acme.more", False),
        ("llm.v1.request.openai.urgent.acme", False),
        ("llm.v1.usage.openai.globex", False),
        ("llm.v1.usage.>.acme", False),
        ("llm.v1.reply.acme", False),
        ("", False),
    ],
)
def test_goes_back_only_to_requests_and_usage_of_its_own_tenant(subject: str, may_go_back: bool) -> None:
    assert is_from_its_tenant(letter(**{DEAD_SUBJECT: subject})) is may_go_back


@pytest.mark.parametrize(
    ("wanted", "subject"),
    [
        (DeadLetterFilter(), "llm.v1.dead.*.*"),
        (DeadLetterFilter(tenant="acme", code="internal"), "llm.v1.dead.*.acme"),
        (DeadLetterFilter(tenant="acme", provider="openai"), "llm.v1.dead.openai.acme"),
    ],
)
def test_filters_by_subject(wanted: DeadLetterFilter, subject: str) -> None:
    assert wanted.subject == subject
