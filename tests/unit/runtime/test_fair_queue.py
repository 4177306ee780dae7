"""Whose turn it is, and who needs none."""

import asyncio

from runtime.fair_queue import ACCOUNTED_S, FREE_BURST_S, FairQueue, Flow
from runtime.tasks import end

TURN_S = 0.0001


async def work(flow: Flow, work_s: float) -> None:
    if flow.owes(work_s):
        await flow.settle()


async def test_a_tenant_with_many_replies_gets_no_more_turns_than_a_tenant_with_one() -> None:
    queue, order = FairQueue(), list[str]()

    async def take(tenant: str, turns: int) -> None:
        for _ in range(turns):
            await queue.turn(tenant, TURN_S)
            order.append(tenant)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(take("greedy", 4))
        tasks.create_task(take("other", 10))
    last = max(turn for turn, tenant in enumerate(order) if tenant == "other")
    assert last < 60 + 25, "50 replies had their first turn before the other tenant's second"


async def test_the_loop_goes_round_between_two_turns() -> None:
    queue, order = FairQueue(), list[str]()

    async def take() -> None:
        for _ in range(5):
            await queue.turn("tenant", TURN_S)
            order.append("turn")

    def go_round() -> None:
        order.append("round")
        asyncio.get_running_loop().call_soon(go_round)

    go_round()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(take())
    turns = "".join(word[0] for word in order)
    assert turns.count("t") == 100
    assert "tt" not in turns


async def test_what_a_tenants_replies_may_do_without_a_turn_is_bounded_however_many_they_are() -> None:
    """Each does less than its own free share."""
    queue, free = FairQueue(), list[Flow]()
    flows = [Flow(queue, "greedy") for _ in range(200)]

    async def settle(flow: Flow) -> None:
        await work(flow, FREE_BURST_S / 4)
        free.append(flow)

    working = [asyncio.create_task(settle(flow)) for flow in flows]
    await asyncio.sleep(0)
    assert len(free) == 4
    await settle(other := Flow(queue, "other"))
    assert free[-1] is other, "a tenant leaves free work to others"
    await end(*working)


async def test_who_gives_up_does_not_keep_the_others() -> None:
    queue = FairQueue()
    waiting = [asyncio.create_task(queue.turn("tenant", TURN_S)) for _ in range(3)]
    waiting[0].cancel()
    await asyncio.wait_for(asyncio.gather(*waiting[1:]), timeout=60)


async def test_what_an_ordinary_reply_needs_is_free() -> None:
    """Nobody waits: not even the loop is given back."""
    flow, turned = Flow(FairQueue(), "tenant"), list[bool]()
    asyncio.get_running_loop().call_soon(turned.append, True)
    for _ in range(4):
        await work(flow, FREE_BURST_S / 4)
    assert not turned
    await work(flow, FREE_BURST_S)
    assert turned


async def test_little_work_adds_up() -> None:
    flow = Flow(FairQueue(), "tenant")
    owed = [flow.owes(ACCOUNTED_S / 4) for _ in range(4)]
    assert owed == [False, False, False, True]


def test_the_turns_go_on_in_another_loop() -> None:
    """A loop that has ended gives none."""
    queue = FairQueue()
    for _ in range(2):
        asyncio.run(asyncio.wait_for(queue.turn("tenant", 10.0), timeout=60))
