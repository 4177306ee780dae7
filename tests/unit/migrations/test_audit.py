"""The hash chain of the audit log."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from migrations.audit import broken_at, first_link, link

AT = datetime(2026, 11, 23, 12, 0, 0, 123456, UTC)


def chain(tenant: str | None, length: int = 4) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    before = first_link(tenant)
    for number in range(length):
        facts = {
            "at": AT + timedelta(seconds=number),
            "actor": "bootstrap",
            "source": "127.0.0.1",
            "action": "tenant.change",
            "object_type": "tenant",
            "object_id": "acme",
            "tenant": tenant,
            "before": {"limit": number},
            "after": {"limit": number + 1, "price": "0.10"},
        }
        rows.append({**facts, "seq": number * 3, "prev_hash": before, "hash": link(before, facts)})
        before = rows[-1]["hash"]
    return rows


@pytest.mark.parametrize("tenant", ["acme", None])
def test_an_untouched_chain_holds(tenant: str | None) -> None:
    assert broken_at(tenant, chain(tenant)) is None
    assert broken_at(tenant, []) is None


def test_a_chain_may_be_checked_in_parts() -> None:
    rows = chain("acme")

    assert broken_at("acme", rows[2:], follows=rows[1]["hash"]) is None
    assert broken_at("acme", rows[2:], follows=rows[0]["hash"]) == rows[2]["seq"]


def test_a_removed_row_shows() -> None:
    rows = chain("acme")

    assert broken_at("acme", [rows[0], *rows[2:]]) == rows[2]["seq"]
    assert broken_at("acme", rows[1:]) == rows[1]["seq"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("actor", "somebody"), ("after", {"limit": 9}), ("before", None), ("at", AT), ("source", ""), ("tenant", "b")],
)
def test_an_altered_row_shows(field: str, value: Any) -> None:
    rows = chain("acme")
    rows[2] |= {field: value}

    assert broken_at("acme", rows) == rows[2]["seq"]


def test_a_row_of_another_chain_shows() -> None:
    assert broken_at("acme", chain("globex")) == 0


def test_the_database_may_answer_in_another_time_zone() -> None:
    rows = chain("acme")
    for row in rows:
        row["at"] = row["at"].astimezone()

    assert broken_at("acme", rows) is None
