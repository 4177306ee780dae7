"""What requests publish again after a reconnect."""

import asyncio

from contracts.errors import Overloaded
from runtime.tasks import end
from tests.patience import until
from workers.providers.base import Chunk
from workers.request.events import EventStream
from workers.request.live_streams import LiveStreams, Tracked


class Wire:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def event(self, subject: str, payload: bytes, *, spare: int = 0) -> None:
        self.delta(subject, payload, soon=True)

    def delta(self, subject: str, payload: bytes, *, soon: bool) -> None:
        self.sent.append(payload)


def stream(wire: Wire, *, tenant: str = "t") -> EventStream:
    return EventStream(wire, subject=f"llm.v1.reply.{tenant}.a.r1", request_id="r1", attempt=1)


async def until_kept() -> None:
    return


async def test_says_an_attempts_events_again_as_they_were() -> None:
    wire, live = Wire(), LiveStreams(reconnects=lambda: 0, until_kept=until_kept)
    events = stream(wire)
    async with Tracked(live, events):
        events.delta(Chunk(text="of the first attempt"))
        await events.retrying(Overloaded("full").to_wire(), delay_s=0, provider="mock", model="m")
        events.delta(Chunk(text="a"))
        events.delta(Chunk(text="b"))
        said = wire.sent[2:]
        wire.sent.clear()
        await live.republish_all()

        assert wire.sent == said


async def test_what_ended_last_is_said_again_as_well() -> None:
    """NATS may have taken it, and died before the agent had it."""
    wire, live = Wire(), LiveStreams(reconnects=lambda: 0, until_kept=until_kept)
    for text in ("one", "x" * 5_000_000, "y" * 5_000_000):
        events = stream(wire)
        async with Tracked(live, events):
            events.delta(Chunk(text=text))
    last = wire.sent[-1]
    wire.sent.clear()

    await live.republish_all()

    assert wire.sent == [last], "as many as fit into some megabytes"


async def test_a_tenants_large_answers_push_out_no_other_tenants_end() -> None:
    wire, live = Wire(), LiveStreams(reconnects=lambda: 0, until_kept=until_kept)
    for tenant, text in (("quiet", "one"), *(("loud", "x" * 3_000_000),) * 5):
        events = stream(wire, tenant=tenant)
        async with Tracked(live, events):
            events.delta(Chunk(text=text))
    quiet, *loud = wire.sent
    wire.sent.clear()

    await live.republish_all()

    assert wire.sent == [quiet, *loud[-2:]]


async def test_says_before_its_ack_again_what_was_said_on_another_connection() -> None:
    reconnects = 7
    wire, live = Wire(), LiveStreams(reconnects=lambda: reconnects, until_kept=until_kept)
    events = stream(wire)
    async with Tracked(live, events):
        events.delta(Chunk(text="a"))
    said = list(wire.sent)
    assert len(said) == 1, "the connection is still the same"

    async with Tracked(live, events):
        reconnects += 1
    assert wire.sent == said * 2


async def test_agents_that_come_back_hear_it_though_nobody_keeps_it() -> None:
    kept = asyncio.Event()

    async def until_it_is_kept() -> None:
        await kept.wait()

    wire, live = Wire(), LiveStreams(reconnects=lambda: 0, until_kept=until_it_is_kept, agents_are_back_s=0.01)
    events = stream(wire)
    async with Tracked(live, events):
        events.delta(Chunk(text="a"))
        repeating = asyncio.create_task(live.repeat_after_reconnects())
        await live.reconnected()
        await until(lambda: len(wire.sent) == 1 + 2)
        kept.set()
        await until(lambda: len(wire.sent) == 1 + 4)
        await end(repeating)

    assert len(set(wire.sent)) == 1


async def test_what_was_left_between_two_attempts_is_said_again_while_it_waits_and_not_afterwards() -> None:
    """Another worker goes on with it: said later, it would stand in the place of what that one has said since."""
    wire, live = Wire(), LiveStreams(reconnects=lambda: 0, until_kept=until_kept)
    events = stream(wire)
    async with Tracked(live, events):
        events.delta(Chunk(text="a"))
        await events.retrying(Overloaded("full").to_wire(), delay_s=1, provider="mock", model="m")
        said = list(wire.sent)
        wire.sent.clear()
        await live.republish_all()
        assert wire.sent == said
    wire.sent.clear()

    await live.republish_all()

    assert wire.sent == []
