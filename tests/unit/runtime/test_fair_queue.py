"""Whose turn it is, and who needs none."""

import asyncio

import pytest

from runtime.fair_queue import FREE_BURST_OF_ALL_S, FREE_BURST_S, FairQueue, Flow
from runtime.tasks import end

TURN_S = 0.0001


async def test_a_host_with_many_replies_gets_no_more_turns_than_a_host_with_one() -> None:
    queue, order = FairQueue(), list[str]()

    async def work(host: str, turns: int) -> None:
        for _ in range(turns):
            await queue.turn(host, TURN_S)
            order.append(host)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(work("greedy", 4))
        tasks.create_task(work("other", 10))
    last = max(turn for turn, host in enumerate(order) if host == "other")
    assert last < 60 + 25, "50 replies had their first turn before the other host's second"


async def test_a_turn_ends_before_the_next_one_begins() -> None:
    queue, loop = FairQueue(), asyncio.get_running_loop()
    begun = loop.time()
    for _ in range(5):
        await queue.turn("vendor.example", 0.01)
    assert loop.time() - begun >= 4 * 2 * 0.01 - 0.005, "each turn is followed by a rest of its length"


@pytest.mark.parametrize("hosts", [1, 200])
async def test_flows_have_half_of_the_loop_in_all_however_many_they_are(hosts: int) -> None:
    """Each asks for less than its own free share."""
    queue, loop, turned = FairQueue(), asyncio.get_running_loop(), list[float]()
    flows = [Flow(queue, f"{number % hosts}.example") for number in range(200)]
    begun = loop.time()

    async def work(flow: Flow) -> None:
        while loop.time() < begun + 1:
            await flow.spend(TURN_S)
            turned.append(TURN_S)
            await asyncio.sleep(0.01)

    await asyncio.wait_for(asyncio.gather(*map(work, flows)), timeout=60)
    assert sum(turned) <= (loop.time() - begun) / 2 + FREE_BURST_OF_ALL_S


async def test_a_host_leaves_free_work_to_others() -> None:
    queue, turned = FairQueue(), list[bool]()
    greedy = [Flow(queue, "greedy.example") for _ in range(200)]
    working = [asyncio.create_task(flow.spend(FREE_BURST_S / 4)) for flow in greedy]
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(turned.append, True)
    await Flow(queue, "vendor.example").spend(FREE_BURST_S / 4)
    assert not turned
    await end(*working)


async def test_who_gives_up_does_not_keep_the_others() -> None:
    queue = FairQueue()
    waiting = [asyncio.create_task(queue.turn("vendor.example", TURN_S)) for _ in range(3)]
    waiting[0].cancel()
    await asyncio.wait_for(asyncio.gather(*waiting[1:]), timeout=60)


async def test_what_an_ordinary_reply_needs_is_free() -> None:
    """Nobody waits: not even the loop is given back."""
    flow, turned = Flow(FairQueue(), "vendor.example"), list[bool]()
    asyncio.get_running_loop().call_soon(turned.append, True)
    for _ in range(4):
        await flow.spend(FREE_BURST_S / 4)
    assert not turned
    await flow.spend(FREE_BURST_S)
    assert turned


def test_the_turns_go_on_in_another_loop() -> None:
    """The timer of a loop that has ended gives none."""
    queue = FairQueue()
    for _ in range(2):
        asyncio.run(asyncio.wait_for(queue.turn("vendor.example", 10.0), timeout=60))
