"""What an attack costs everybody else: their latency, memory of each role, disk of NATS, and whose bill is right."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from contracts.errors import InvalidRequest
from contracts.events import Completed, Event, Started
from runtime.tasks import end, leaves
from tests.patience import PATIENCE_S
from tests.security.fleet import MODELS, POOLS, Fleet, Tenant

MODEL = f"{POOLS[0]}/{MODELS[POOLS[0]]}"
SERVED_WITHIN_S = 45.0
"""Far more than a quiet tenant waits, and far less than it did where the wall was missing; see benchmarks/walls.py."""
MAY_GROW_BYTES = 384 * 1024**2
"""Of a role: what is sent by a tenant and held at the same time, and what reading it takes."""
NATS_MAY_GROW_BYTES = 1536 * 1024**2
"""Of NATS, which keeps replies in memory and has garbage of the same size."""
DISK_BYTES = 512 * 1024**2
_MB = 1024**2
_SETTLED_WITHIN_S = 120
_PAUSE_S = 0.05


@dataclass(slots=True)
class Seen:
    """What a quiet tenant waited for, in seconds, and what the fleet took, in bytes."""

    waited: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """By what it asked for: `first_token`, `question`, `resume`, `cancel`."""
    grew: dict[str, int] = field(default_factory=dict[str, int])
    """By role: the most that it had above what it had before."""
    peak: dict[str, int] = field(default_factory=dict[str, int])
    """By role: the most that it had."""
    disk_before: int = 0
    disk_grew: int = 0
    """At most, with what is gone again."""


class Neighbours:
    def __init__(self, fleet: Fleet, quiet: Tenant) -> None:
        self._fleet = fleet
        self.quiet = quiet

    @asynccontextmanager
    async def unharmed(
        self, *, within_s: float = SERVED_WITHIN_S, may_grow: int = MAY_GROW_BYTES, disk: int = DISK_BYTES
    ) -> AsyncGenerator[Seen]:
        """Asks as the quiet tenant for as long as the block runs, and once more after it; then judges."""
        async with self.watched() as seen:
            yield seen
        for kind, waited in seen.waited.items():
            assert max(waited) <= within_s, f"a quiet tenant waited {max(waited):.1f} s for its {kind}"
        most = {"nats": NATS_MAY_GROW_BYTES}
        grown = {role: f"{grew / _MB:.0f} MB" for role, grew in seen.grew.items() if grew > most.get(role, may_grow)}
        assert not grown, f"more memory than before: {grown}"
        give_up = monotonic() + PATIENCE_S
        while (kept := self._fleet.disk() - seen.disk_before) > disk:
            assert monotonic() < give_up, f"NATS keeps {kept / _MB:.0f} MB more on disk"
            await asyncio.sleep(_PAUSE_S)
        await self.bill_is_right(self.quiet)

    @asynccontextmanager
    async def watched(self, *, one_by_one: bool = True) -> AsyncGenerator[Seen]:
        """The same without the judgement, for who measures.

        Who asks `one_by_one` asks least while it waits longest; else it asks twenty times a second, come what may.
        """
        seen = Seen()
        over = asyncio.Event()
        asks = self._repeat if one_by_one else self._keep_the_pace
        async with self.quiet.client("quiet") as client:
            asking = [
                asyncio.create_task(asks(partial(self._ask, client, seen), over), name="quiet requests"),
                asyncio.create_task(asks(partial(self._question, client, seen), over), name="quiet questions"),
                asyncio.create_task(self._weigh(seen, over), name="weigh"),
            ]
            try:
                yield seen
            finally:
                over.set()
                _, late = await asyncio.wait(asking, timeout=PATIENCE_S)
                await end(*late)
                problems = [task.exception() for task in asking if not task.cancelled()]
        assert not late, f"not served within {PATIENCE_S:.0f} s: {', '.join(task.get_name() for task in late)}"
        for problem in filter(None, problems):
            raise leaves(problem)[0]

    async def bill_is_right(self, *tenants: Tenant) -> None:
        """Waits until each tenant's rows are its vendor calls, one for one."""
        give_up = monotonic() + _SETTLED_WITHIN_S
        for tenant in tenants:
            while (made := len(self._fleet.calls(tenant))) != len(await self._fleet.rows(tenant)):
                booked = len(await self._fleet.rows(tenant))
                assert monotonic() < give_up, f"{made} vendor calls, {booked} rows"
                await asyncio.sleep(0.2)

    async def _repeat(self, ask: Callable[[], Coroutine[Any, Any, None]], over: asyncio.Event) -> None:
        while True:
            last = over.is_set()
            await ask()
            if last:
                return
            await asyncio.sleep(_PAUSE_S)

    async def _keep_the_pace(self, ask: Callable[[], Coroutine[Any, Any, None]], over: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            while not over.is_set():
                group.create_task(ask())
                await asyncio.sleep(_PAUSE_S)

    async def _ask(self, client: Any, seen: Seen) -> None:
        """A short stream, what is stored of it, and a stream that is cancelled."""
        began = monotonic()
        events = client.stream(MODEL, "Hello", deadline_s=PATIENCE_S)
        ended = await _read(events, seen, "first_token", began)
        assert isinstance(ended[-1], Completed), ended[-1]
        began = monotonic()
        await _resume(client, ended[-1].request_id)
        seen.waited.setdefault("resume", []).append(monotonic() - began)
        await self._cancel(client, seen)

    async def _cancel(self, client: Any, seen: Seen) -> None:
        endless = {POOLS[0]: {"simulate": {"chunks": 10_000, "between_s": 0.1}}}
        stream = client.stream(MODEL, "Hello", provider_options=endless, deadline_s=PATIENCE_S)
        began = None
        async for event in stream:
            if began is None and isinstance(event, Started):
                began = monotonic()
                await stream.cancel()
        assert began is not None
        seen.waited.setdefault("cancel", []).append(monotonic() - began)

    async def _question(self, client: Any, seen: Seen) -> None:
        began = monotonic()
        await client.count_tokens(f"{POOLS[1]}/{MODELS[POOLS[1]]}", "Hello")
        seen.waited.setdefault("question", []).append(monotonic() - began)

    async def _weigh(self, seen: Seen, over: asyncio.Event) -> None:
        memory, seen.disk_before = self._fleet.memory(), self._fleet.disk()
        while True:
            last = over.is_set()
            for role, used in self._fleet.memory().items():
                seen.grew[role] = max(seen.grew.get(role, 0), used - memory.get(role, used))
                seen.peak[role] = max(seen.peak.get(role, 0), used)
            seen.disk_grew = max(seen.disk_grew, self._fleet.disk() - seen.disk_before)
            if last:
                return
            await asyncio.sleep(_PAUSE_S)


async def _resume(client: Any, request_id: str) -> None:
    """Reads what is stored of a request that has just ended. The server stores what it has passed on in its own time,
    so it is asked again while it has nothing yet."""
    give_up = monotonic() + PATIENCE_S
    while True:
        try:
            assert [event.seq async for event in client.resume(request_id)]
        except InvalidRequest:
            if monotonic() > give_up:
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return


async def _read(stream: Any, seen: Seen, kind: str, began: float) -> Sequence[Event]:
    """All events; when the first one after `started` came is noted."""
    events: list[Event] = []
    async for event in stream:
        events.append(event)
        if len(events) == 2:
            seen.waited.setdefault(kind, []).append(monotonic() - began)
    return events
