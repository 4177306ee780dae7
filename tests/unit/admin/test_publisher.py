"""What the reconciliation decides to write."""

from admin_api.publishing.config_publisher import Entry, compare
from contracts.providers import PublishedTenant

OLD = PublishedTenant(slug="acme", revision=2)
NEW = PublishedTenant(slug="acme", revision=3, fallbacks=("openai/x",))
KEY = "tenant.acme"


def entry(row: PublishedTenant, *, sequence: int = 7) -> Entry:
    return Entry(sequence, row.to_json(), row.revision)


def test_nothing_differs() -> None:
    plan = compare({KEY: entry(NEW)}, {KEY: NEW})

    assert (plan.put, plan.delete, plan.ahead) == ({}, (), {})


def test_puts_what_is_missing_older_unreadable_or_altered() -> None:
    altered = Entry(7, b'{"revision": 3}', 3)

    for entries in ({}, {KEY: entry(OLD)}, {KEY: Entry(7, b"\xff", None)}, {KEY: altered}):
        assert compare(entries, {KEY: NEW}).put == {KEY: NEW}


def test_deletes_what_no_longer_exists() -> None:
    assert compare({KEY: entry(NEW)}, {}).delete == (KEY,)


def test_an_older_row_never_overwrites_a_newer_entry() -> None:
    plan = compare({KEY: entry(NEW)}, {KEY: OLD})

    assert (plan.put, plan.ahead) == ({}, {KEY: 3})


def test_leaves_alone_what_this_version_cannot_read() -> None:
    plan = compare({KEY: entry(NEW)}, {KEY: None})

    assert (plan.put, plan.delete, plan.ahead) == ({}, (), {})
