"""Entries that one writer wins: against a bucket that answers as nats-server 2.15.1 does."""

import nats.errors
import pytest

from runtime.jetstream.register import Lost, Register, Unanswered, Won
from tests.bucket import Bucket

KEY = "slot.acme.openai.default.0"


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


def register_on(bucket: Bucket) -> Register:
    return Register(bucket.broker, bucket="llm_health", answer_within_s=1.0)


async def test_of_two_who_claim_one_wins(bucket: Bucket) -> None:
    one, other = register_on(bucket), register_on(bucket)

    assert await one.claim(KEY, b"one", ttl_s=15) == Won()
    assert await other.claim(KEY, b"other", ttl_s=15) == Lost()
    assert bucket.value(KEY) == b"one"


async def test_who_has_an_entry_may_change_it(bucket: Bucket) -> None:
    one = register_on(bucket)

    assert await one.claim(KEY, b"first", ttl_s=15) == Won()
    assert await one.claim(KEY, b"second", ttl_s=15) == Won()
    assert bucket.value(KEY) == b"second"


async def test_who_has_heard_of_the_last_change_may_claim_the_entry(bucket: Bucket) -> None:
    one, other = register_on(bucket), register_on(bucket)
    await one.claim(KEY, b"one", ttl_s=15)
    assert other.is_news(KEY, bucket.sequence)

    assert await other.claim(KEY, b"other", ttl_s=15) == Won()
    assert await one.claim(KEY, b"one", ttl_s=15) == Lost()


async def test_an_entry_that_expired_is_taken_by_whom_the_watch_has_told(bucket: Bucket) -> None:
    one, other = register_on(bucket), register_on(bucket)
    await one.claim(KEY, b"one", ttl_s=15)
    bucket.expire(KEY)

    assert await other.claim(KEY, b"other", ttl_s=15) == Lost()
    other.is_news(KEY, bucket.sequence)
    assert await other.claim(KEY, b"other", ttl_s=15) == Won()


async def test_an_entry_of_which_nothing_is_left_is_taken_though_another_one_was_expected(bucket: Bucket) -> None:
    """The server says by the same code that somebody was faster and that there is nothing any more."""
    one = register_on(bucket)
    await one.claim(KEY, b"one", ttl_s=15)
    bucket.expire(KEY)
    one.is_news(KEY, bucket.sequence)
    bucket.forget(KEY)

    assert await one.claim(KEY, b"again", ttl_s=15) == Won()


async def test_another_refusal_is_no_loss_to_another_writer(bucket: Bucket) -> None:
    bucket.refusal = {"code": 503, "err_code": 10077, "description": "maximum bytes exceeded"}

    assert await register_on(bucket).claim(KEY, b"one", ttl_s=15) == Unanswered("maximum bytes exceeded")


async def test_both_codes_of_a_cluster_mean_that_the_claim_is_lost(bucket: Bucket) -> None:
    bucket.refusal = {"code": 400, "err_code": 10164, "description": "wrong last sequence"}

    assert await register_on(bucket).claim(KEY, b"one", ttl_s=15) == Lost()


async def test_without_an_answer_nobody_has_won(bucket: Bucket) -> None:
    bucket.is_silent = True

    assert await register_on(bucket).claim(KEY, b"one", ttl_s=15) == Unanswered("TimeoutError")
    with pytest.raises(nats.errors.Error):
        await register_on(bucket).put(KEY, b"one", ttl_s=15)


async def test_who_overwrites_asks_nobody(bucket: Bucket) -> None:
    one, other = register_on(bucket), register_on(bucket)
    await one.claim(KEY, b"one", ttl_s=15)

    assert await other.overwrite(KEY, b"other", ttl_s=15) == Won()
    assert bucket.value(KEY) == b"other"
    assert not other.is_news(KEY, bucket.sequence), "its own entry is no news to who wrote it"


@pytest.mark.parametrize(("ttl_s", "header"), [(15.0, "15"), (15.2, "16"), (0.3, "1"), (-4.0, "1")])
async def test_entries_live_for_whole_seconds(bucket: Bucket, ttl_s: float, header: str) -> None:
    await register_on(bucket).put(KEY, b"one", ttl_s=ttl_s)

    assert bucket.headers == [{"Nats-TTL": header}]


async def test_a_purge_takes_all_that_was_said_before_it(bucket: Bucket) -> None:
    await register_on(bucket).purge(KEY, ttl_s=15)

    assert bucket.headers == [{"KV-Operation": "PURGE", "Nats-Rollup": "sub", "Nats-TTL": "15"}]


def test_what_is_known_already_is_no_news(bucket: Bucket) -> None:
    register = register_on(bucket)

    assert register.is_news(KEY, 7)
    assert not register.is_news(KEY, 7)
    assert not register.is_news(KEY, 6)
    assert register.is_news(KEY, 8)


async def test_a_server_that_was_started_anew_counts_from_one_again(bucket: Bucket) -> None:
    register = register_on(bucket)
    register.is_news(KEY, 700)

    for callback in bucket.on_reconnect:
        await callback()

    assert register.is_news(KEY, 1)


async def test_a_key_that_is_forgotten_is_claimed_as_if_it_were_new(bucket: Bucket) -> None:
    register = register_on(bucket)
    register.is_news(KEY, 7)
    register.forget([KEY])

    await register.claim(KEY, b"one", ttl_s=15)

    assert bucket.headers[0]["Nats-Expected-Last-Subject-Sequence"] == "0"
