"""One trial: start everything, ask and break for a while, wait for the end of all of it, and judge."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from uuid import uuid4

from contracts import request_ids
from contracts.events import Completed
from fleet.client import Client
from fleet.simulator.ledger import Entry
from tests.acceptance.chaos import agents, books, scene, verdict
from tests.acceptance.chaos.agents import Door, Seen
from tests.acceptance.chaos.ends import Ends
from tests.acceptance.chaos.faults import Faults
from tests.acceptance.chaos.plan import AGENTS, Ask, Plan, plain
from tests.acceptance.chaos.scene import Scene
from tests.acceptance.running import is_gone
from tests.patience import until

_SETTLED_WITHIN_S = 180
_READ_AGAIN = 30
_GONE_WITHIN_S = 60
_AT_ONCE = 16
"""So many resumes of a trial are asked for at the same time: no more than workers answer of one tenant."""


@dataclass(frozen=True, slots=True)
class Report:
    plan: Plan
    problems: Sequence[str]
    faults: Sequence[str]
    """As they were carried out."""
    seen: Sequence[Seen]
    calls: Sequence[Entry]
    """By the vendors."""
    ends: Ends
    rows: int
    """In our ledger."""
    missing: Sequence[str]
    """Each vendor call without a row, and how it got lost."""
    seconds: float

    @property
    def outcomes(self) -> str:
        ends = [one.events[-1].type if one.terminals else "nothing" for one in self.seen]
        counted = ", ".join(f"{ends.count(end)} {end}" for end in sorted(set(ends)))
        once = sum(len(one.terminals) == 1 for one in self.seen)
        return (
            f"{len(self.seen)} requests, {once} ended once: {counted}; "
            f"{len(self.calls)} calls, {self.rows} rows, {len(self.missing)} calls without one"
        )

    def __str__(self) -> str:
        head = f"seed {self.plan.seed}: {self.outcomes} in {self.seconds:.0f} s"
        lines = [head, *self.faults, *(f"without a row: {lost}" for lost in self.missing), *self.problems]
        return "\n  ".join(lines)


async def run(plan: Plan, folder: Path) -> Report:
    begun = monotonic()
    async with scene.running(folder, nodes=plan.nodes) as running:
        faults = Faults(running)
        seen = await _ask_and_break(plan, running.door, faults)
        await _read_again(plan, running.door, seen)
        seen += await _close_circuits(plan, running)
        again_from: int | None = None
        if plan.later:
            again_from = await books.settle(running, within_s=_SETTLED_WITHIN_S)
            await faults.restart_broker()
            await _come_back_later(running.door, seen)
        closed = await books.close(running, within_s=_SETTLED_WITHIN_S, again_from=again_from)
        running.note_processes()
    found = verdict.problems(seen, closed, ends=faults.ends)
    await until(lambda: all(map(is_gone, running.seen_processes)), within_s=_GONE_WITHIN_S)
    missing = verdict.missing(seen, closed, ends=faults.ends)
    return Report(
        plan=plan,
        problems=found,
        faults=faults.done,
        seen=seen,
        calls=closed.served,
        ends=faults.ends,
        rows=len(closed.records),
        missing=missing,
        seconds=monotonic() - begun,
    )


async def _ask_and_break(plan: Plan, door: Door, faults: Faults) -> list[Seen]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(door.client(agent)) for agent in range(AGENTS)]
        begun = monotonic()
        async with asyncio.TaskGroup() as group:
            breaking = group.create_task(faults.run(plan.faults, begun=begun), name="faults")
            asking = [
                group.create_task(_ask(ask, clients[ask.agent], door, begun), name=f"request {ask.number}")
                for ask in plan.asks
            ]
        await breaking
        return [task.result() for task in asking]


async def _ask(ask: Ask, client: Client, door: Door, begun: float) -> Seen:
    await asyncio.sleep(max(0.0, begun + ask.at_s - monotonic()))
    # Ids of both kinds: of the second the fleet knows how old it is.
    seen = Seen(ask, request_id=uuid4().hex if ask.number % 2 else request_ids.new())
    await agents.live(client, door, seen)
    return seen


async def _read_again(plan: Plan, door: Door, seen: Sequence[Seen]) -> None:
    """Some requests once more: from the start, and from the middle of what their agent saw."""
    rng = random.Random(plan.seed)
    ended = [one for one in seen if one.terminals and len(one.events) > 1]
    for one in rng.sample(ended, min(_READ_AGAIN, len(ended))):
        middle = rng.choice(one.events[:-1])
        await agents.read_again(door, one, (0, -1))
        await agents.read_again(door, one, (middle.attempt, middle.seq))


async def _come_back_later(door: Door, seen: Sequence[Seen]) -> None:
    """Each agent in a new process: it asks for the end of each of its requests, then sends what completed once more."""
    ended = [one for one in seen if one.terminals]
    completed = [one for one in ended if isinstance(one.terminals[0], Completed)]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(door.client(agent)) for agent in range(AGENTS)]
        await _for_each(ended, lambda one: agents.resume(clients[one.ask.agent], one))
        await _for_each(completed, lambda one: agents.ask_again(clients[one.ask.agent], one))


async def _for_each(seen: Sequence[Seen], work: Callable[[Seen], Awaitable[None]]) -> None:
    places = asyncio.Semaphore(_AT_ONCE)

    async def do(one: Seen) -> None:
        async with places:
            await work(one)

    async with asyncio.TaskGroup() as group:
        for one in seen:
            group.create_task(do(one), name=f"request {one.ask.number}, later")


async def _close_circuits(plan: Plan, running: Scene) -> list[Seen]:
    """Requests until every endpoint is in service again: it takes one to find out that a vendor has recovered."""
    asked: list[Seen] = []
    give_up = monotonic() + _SETTLED_WITHIN_S
    async with running.door.client(0) as client:
        while monotonic() < give_up and (vendors := await books.out_of_service(running)):
            for vendor in vendors:
                ask = replace(plain(len(plan.asks) + len(asked), vendor), agent=0)
                asked.append(await _ask(ask, client, running.door, monotonic()))
    return asked
