"""What the reconciliation decides to write."""

from admin_api.publishing.config_publisher import BucketEntry, differences
from contracts.providers import PublishedTenant

OLD = PublishedTenant(slug="acme", revision=2)
NEW = PublishedTenant(slug="acme", revision=3, fallbacks=("openai/x",))
KEY = "tenant.acme"


def entry(row: PublishedTenant, *, sequence: int = 7) -> BucketEntry:
    return BucketEntry(sequence, row.to_json(), row.revision)


def test_nothing_differs() -> None:
    found = differences({KEY: entry(NEW)}, {KEY: NEW})

    assert (found.put, found.delete, found.ahead) == ({}, (), {})


def test_puts_what_is_missing_older_unreadable_or_altered() -> None:
    altered = BucketEntry(7, b'{"revision": 3}', 3)

    for entries in ({}, {KEY: entry(OLD)}, {KEY: BucketEntry(7, b"\xff", None)}, {KEY: altered}):
        assert differences(entries, {KEY: NEW}).put == {KEY: NEW}


def test_deletes_what_no_longer_exists() -> None:
    assert differences({KEY: entry(NEW)}, {}).delete == (KEY,)


def test_an_older_row_never_overwrites_a_newer_entry() -> None:
    found = differences({KEY: entry(NEW)}, {KEY: OLD})

    assert (found.put, found.ahead) == ({}, {KEY: 3})


def test_leaves_alone_what_this_version_cannot_read() -> None:
    found = differences({KEY: entry(NEW)}, {KEY: None})

    assert (found.put, found.delete, found.ahead) == ({}, (), {})
