"""The agents of a trial: they send, read, cancel, go away and come back, and write down what they saw."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any
from uuid import uuid4

from contracts.errors import FleetError, InvalidRequest, ProviderUnavailable
from contracts.events import Event, Terminal
from fleet.client import Client, Stream
from tests.acceptance.chaos.plan import Ask, Cancel, Leave, Read

DEADLINE_S = 150.0
_PING_S = 2
"""How soon an agent notices that its line leads nowhere."""
_COME_BACK_AFTER_S = 0.5


@dataclass(slots=True)
class Seen:
    """One request as its agent saw it."""

    ask: Ask
    request_id: str = field(default_factory=lambda: uuid4().hex)
    events: list[Event] = field(default_factory=list[Event])
    """In the order of reading, over all comings and goings."""
    error: FleetError | None = None
    """What reading ended with, in place of a terminal event."""
    asked_at: float = 0.0
    ended_at: float = 0.0
    """In seconds since the epoch."""
    read_again: dict[tuple[int, int], list[Event]] = field(default_factory=dict[tuple[int, int], list[Event]])
    """What a later reader got that resumed after a position."""

    @property
    def terminals(self) -> list[Event]:
        return [event for event in self.events if isinstance(event, Terminal)]


class Absences:
    """Agents that are not always listening, and a restart of NATS, keep out of each other's way.

    What ended while its agent did not listen is kept in NATS' memory only (docs/guarantees.md).
    """

    def __init__(self) -> None:
        self._away = 0
        self._restarting = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def away(self) -> AsyncGenerator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._restarting)
            self._away += 1
        try:
            yield
        finally:
            async with self._changed:
                self._away -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def restarting(self) -> AsyncGenerator[None]:
        async with self._changed:
            self._restarting = True
            await self._changed.wait_for(lambda: self._away == 0)
        try:
            yield
        finally:
            async with self._changed:
                self._restarting = False
                self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Door:
    """Where and as whom agents connect."""

    ready: dict[str, Any]
    ports: tuple[int, ...]
    """One for each agent."""

    def client(self, agent: int) -> Client:
        return Client(
            f"nats://127.0.0.1:{self.ports[agent]}",
            tenant=self.ready["tenant"],
            agent=f"agent-{agent}",
            user=self.ready["nats_user"],
            password=self.ready["nats_password"],
            ping_interval=_PING_S,
        )


async def live(client: Client, door: Door, seen: Seen, absences: Absences) -> None:
    """One request from its publishing to its end."""
    ask = seen.ask
    seen.asked_at = time()
    stream = client.stream(
        ask.model, f"Request {ask.number}", id=seen.request_id, deadline_s=DEADLINE_S, **ask.fields()
    )
    try:
        match ask.conduct:
            case Read():
                await _note(stream, seen)
            case Cancel(after):
                await _cancel(client, stream, seen, after=after)
            case Leave(after, away_s):
                async with absences.away():
                    await _leave(door, stream, seen, after=after, away_s=away_s)
    except FleetError as exc:
        seen.error = exc
    finally:
        seen.ended_at = time()


async def _note(events: AsyncIterator[Event], seen: Seen, *, most: int | None = None) -> bool:
    """Whether it came to the end before `most` events."""
    async for event in events:
        seen.events.append(event)
        if isinstance(event, Terminal):
            return True
        if most is not None and len(seen.events) >= most:
            return False
    return True


async def _cancel(client: Client, stream: AsyncIterator[Event], seen: Seen, *, after: int) -> None:
    if after == 0:
        reading = asyncio.create_task(_note(stream, seen))
        await asyncio.sleep(0)
        await _say_cancel(client, seen.request_id)
        await reading
    elif not await _note(stream, seen, most=after):
        await _say_cancel(client, seen.request_id)
        await _note(stream, seen)


async def _say_cancel(client: Client, request_id: str) -> None:
    """As agents do: once, and if the broker does not answer, then the request goes on."""
    try:
        await client.cancel(request_id)
    except Exception:  # noqa: BLE001 - nats-py's many ways to be without a connection
        return


async def _leave(door: Door, stream: Stream, seen: Seen, *, after: int, away_s: float) -> None:
    if not await _note(stream, seen, most=after):
        await stream.aclose()
        await asyncio.sleep(away_s)
        await _come_back(door, seen)


async def _come_back(door: Door, seen: Seen) -> None:
    """A new process of the agent, which knows the id and the position; started anew as long as it cannot connect."""
    give_up = monotonic() + DEADLINE_S
    while True:
        after = (seen.events[-1].attempt, seen.events[-1].seq) if seen.events else (0, -1)
        try:
            async with door.client(seen.ask.agent) as client:
                await _note(client.resume(seen.request_id, after=after, deadline_s=give_up - monotonic()), seen)
                return
        except (ProviderUnavailable, InvalidRequest):
            if monotonic() > give_up:
                raise
            await asyncio.sleep(_COME_BACK_AFTER_S)


async def read_again(door: Door, seen: Seen, after: tuple[int, int]) -> None:
    """A reader that was not there before; what it got is in `seen.read_again`, nothing if nothing is stored."""
    events: list[Event] = []
    async with door.client(seen.ask.agent) as client:
        try:
            async for event in client.resume(seen.request_id, after=after, deadline_s=20):
                events.append(event)  # noqa: PERF401 - what came before an error counts
        except InvalidRequest:
            return
    seen.read_again[after] = events
