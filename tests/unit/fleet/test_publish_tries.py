"""One message that is published several times: any answer that confirms it is good."""

import asyncio
from functools import partial

import pytest
from nats.js.api import PubAck

from fleet.publish_tries import Tries

STORED = PubAck(stream="LLM_REQUESTS", seq=1)
LATER = PubAck(stream="LLM_REQUESTS", seq=2)


async def answered(by: "asyncio.Future[PubAck]") -> "asyncio.Future[PubAck]":
    return by


def a_try() -> "asyncio.Future[PubAck]":
    return asyncio.get_running_loop().create_future()


async def test_a_late_answer_to_an_earlier_try_counts() -> None:
    first, second = a_try(), a_try()
    async with Tries() as tries:
        with pytest.raises(TimeoutError, match="no answer within"):
            await tries.one_more(partial(answered, first), within_s=0)
        asyncio.get_running_loop().call_soon(first.set_result, STORED)

        assert await tries.one_more(partial(answered, second), within_s=60) == STORED

    assert second.cancelled()


async def test_what_was_confirmed_counts_more_than_what_failed() -> None:
    first, second = a_try(), a_try()
    async with Tries() as tries:
        with pytest.raises(TimeoutError):
            await tries.one_more(partial(answered, first), within_s=0)
        loop = asyncio.get_running_loop()
        loop.call_soon(first.set_exception, ConnectionError("lost"))
        loop.call_soon(second.set_result, LATER)

        assert await tries.one_more(partial(answered, second), within_s=60) == LATER


async def test_a_failure_is_told_and_the_next_try_goes_on() -> None:
    refused = a_try()
    refused.set_exception(ConnectionError("refused"))
    async with Tries() as tries:
        with pytest.raises(ConnectionError, match="refused"):
            await tries.one_more(partial(answered, refused), within_s=60)
        again = a_try()
        again.set_result(STORED)

        assert await tries.one_more(partial(answered, again), within_s=60) == STORED


async def test_an_answer_that_comes_in_a_pause_ends_it_and_nothing_more_is_published() -> None:
    first = a_try()
    async with Tries() as tries:
        with pytest.raises(TimeoutError):
            await tries.one_more(partial(answered, first), within_s=0)
        asyncio.get_running_loop().call_soon(first.set_result, STORED)
        await tries.pause(3600)

        assert await tries.one_more(_unexpected, within_s=60) == STORED
        assert not tries.are_open


async def _unexpected() -> "asyncio.Future[PubAck]":
    raise AssertionError("published once more")
