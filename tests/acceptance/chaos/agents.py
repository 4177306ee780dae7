"""The agents of a trial: they send, read, cancel, go away and come back, and write down what they saw."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any

from contracts.errors import FleetError, InvalidRequest, ProviderUnavailable
from contracts.events import Event, Terminal
from fleet.client import Client, Stream
from tests.acceptance.chaos.plan import Ask, Cancel, Leave, Read

DEADLINE_S = 150.0
_PING_S = 2
"""How soon an agent notices that its line leads nowhere."""
_COME_BACK_AFTER_S = 0.5
_STORED_WITHIN_S = 20


@dataclass(slots=True)
class Seen:
    """One request as its agent saw it."""

    ask: Ask
    request_id: str
    events: list[Event] = field(default_factory=list[Event])
    """In the order of reading, over all comings and goings."""
    error: FleetError | None = None
    """What reading ended with, in place of a terminal event."""
    asked_at: float = 0.0
    ended_at: float = 0.0
    """In seconds since the epoch."""
    read_again: dict[tuple[int, int], list[Event]] = field(default_factory=dict[tuple[int, int], list[Event]])
    """What a later reader got that resumed after a position."""
    resumed: list[Event] | None = None
    """What an agent got that came back when NATS had been restarted since; None: it was not asked for."""
    asked_again: list[Event] | None = None
    """What its id was answered with when it was sent once more, as a message of its own; None: it was not sent."""

    @property
    def terminals(self) -> list[Event]:
        return [event for event in self.events if isinstance(event, Terminal)]


@dataclass(frozen=True, slots=True)
class Door:
    """Where and as whom agents connect."""

    ready: dict[str, Any]
    urls: tuple[str, ...]
    """One for each agent."""

    def client(self, agent: int) -> Client:
        return Client(
            self.urls[agent],
            tenant=self.ready["tenant"],
            agent=f"agent-{agent}",
            user=self.ready.get("nats_user"),
            password=self.ready.get("nats_password"),
            ping_interval=_PING_S,
        )


async def live(client: Client, door: Door, seen: Seen) -> None:
    """One request from its publishing to its end."""
    ask = seen.ask
    seen.asked_at = time()
    stream = _stream(client, seen)
    try:
        match ask.conduct:
            case Read():
                await _note(stream, seen)
            case Cancel(after):
                await _cancel(client, stream, seen, after=after)
            case Leave(after, away_s):
                await _leave(door, stream, seen, after=after, away_s=away_s)
    except FleetError as exc:
        seen.error = exc
    finally:
        seen.ended_at = time()


def _stream(client: Client, seen: Seen) -> Stream:
    ask = seen.ask
    return client.stream(ask.model, f"Request {ask.number}", id=seen.request_id, deadline_s=DEADLINE_S, **ask.fields())


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
    """A reader that was not there before; what it got is in `seen.read_again`."""
    async with door.client(seen.ask.agent) as client:
        seen.read_again[after] = await _resumed(client, seen, after)


async def resume(client: Client, seen: Seen) -> None:
    """By nothing but the id, as an agent that knows no more of the request; what it got is in `seen.resumed`."""
    seen.resumed = await _resumed(client, seen, (0, -1))


async def ask_again(client: Client, seen: Seen) -> None:
    """The same request once more. JetStream does not know the message id that it has now."""
    seen.asked_again = await _until_error(_stream(client, seen))


async def _resumed(client: Client, seen: Seen, after: tuple[int, int]) -> list[Event]:
    """Nothing if nothing is stored."""
    return await _until_error(client.resume(seen.request_id, after=after, deadline_s=_STORED_WITHIN_S))


async def _until_error(reading: AsyncIterator[Event]) -> list[Event]:
    """What came, whatever came after it."""
    events: list[Event] = []
    try:
        async for event in reading:
            events.append(event)  # noqa: PERF401 - what came before an error counts
    except FleetError:
        pass
    return events
