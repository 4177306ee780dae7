"""How the journal's messages are read."""

import logging

import pytest

from contracts.attempts import Entry, Unmade
from tests.memory import begun
from workers.jetstream import stored_attempts

SUBJECT = "llm.v1.attempt.acme.a.r1"


@pytest.mark.parametrize("entry", [begun(1), Unmade(id="x" * 32)])
def test_an_entry_is_read_as_it_was_written(entry: Entry, caplog: pytest.LogCaptureFixture) -> None:
    assert stored_attempts.parse(SUBJECT, entry.to_json()) == entry
    assert not caplog.records


@pytest.mark.parametrize("data", [b"", b"{}", b'{"type": "begun"}', b'{"type": "later", "id": "x"}', b"\xff"])
def test_what_is_no_entry_is_said_to_be_none(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert stored_attempts.parse(SUBJECT, data) is None
    (said,) = caplog.records
    assert (said.levelno, said.message, vars(said)["subject"]) == (logging.ERROR, "journal_entry_invalid", SUBJECT)
