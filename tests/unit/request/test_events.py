"""The events of a request as they are written, held against the models that define them."""

import json
from datetime import UTC, datetime

import pytest

from contracts.errors import Overloaded
from contracts.events import Cancelled, Delta, Event, ToolCallDelta, parse
from runtime.jetstream.publishing import TooLarge
from workers.endpoints.names import Candidate
from workers.providers.base import Chunk, Gathering
from workers.request.events import EventStream
from workers.request.usage_records import Bill, VendorCall

CHUNKS = [
    Chunk(text="Hello"),
    Chunk(text='quotes " and \\ and \n and \x00 and \u2028'),
    Chunk(text="emoji 😀, 你好, größer \x7f"),
    Chunk(reasoning="thinking", text="speaking"),
    Chunk(refusal="no"),
    Chunk(tool_calls=(ToolCallDelta(index=0, id="c1", name="f", arguments='{"a"'),)),
    Chunk(tool_calls=(ToolCallDelta(index=0, arguments=""), ToolCallDelta(index=1, id="c2"))),
]


CALL = VendorCall(
    id="call-1",
    number=1,
    candidate=Candidate("mock", "m"),
    provider_id="",
    endpoint="e",
    started_at=datetime.now(UTC),
    started=0.0,
    queued_s=0.0,
)


class Wire:
    def __init__(self, *, most: int = 10_000_000) -> None:
        self.sent: list[bytes] = []
        self._most = most

    async def event(self, subject: str, payload: bytes, *, spare: int = 0) -> None:
        self.delta(subject, payload, soon=True)

    def delta(self, subject: str, payload: bytes, *, soon: bool) -> None:
        assert subject == "llm.v1.reply.t.a.r1"
        if len(payload) > self._most:
            raise TooLarge(subject)
        self.sent.append(payload)

    def events(self) -> list[Event]:
        return [parse(data) for data in self.sent]


def stream(wire: Wire) -> EventStream:
    return EventStream(wire, subject="llm.v1.reply.t.a.r1", request_id="r1", attempt=1)


@pytest.mark.parametrize("chunk", CHUNKS)
async def test_a_delta_is_what_the_model_says(chunk: Chunk) -> None:
    wire = Wire()
    stream(wire).delta(chunk)

    assert wire.events() == [
        Delta(
            request_id="r1",
            attempt=1,
            seq=0,
            text=chunk.text or None,
            reasoning=chunk.reasoning or None,
            refusal=chunk.refusal or None,
            tool_calls=chunk.tool_calls or None,
        )
    ]


@pytest.mark.parametrize(
    ("chunk", "arrives"),
    [
        (Chunk(text="cut \ud83d"), Chunk(text="cut \ufffd")),
        (Chunk(reasoning="\ude00", refusal="\ud83d\ude00"), Chunk(reasoning="\ufffd", refusal="😀")),
        (
            Chunk(tool_calls=(ToolCallDelta(index=1, id="c\ud83d", arguments='{"a": "\ud83d'),)),
            Chunk(tool_calls=(ToolCallDelta(index=1, id="c\ufffd", arguments='{"a": "\ufffd'),)),
        ),
    ],
)
async def test_half_a_character_is_replaced(chunk: Chunk, arrives: Chunk) -> None:
    wire, whole = Wire(), Wire()
    stream(wire).delta(chunk)
    stream(whole).delta(arrives)

    assert wire.sent == whole.sent


LONG = 'emoji 😀 "quoted" \x00 你好 ' * 40
LARGE = [
    Chunk(text=LONG),
    Chunk(reasoning=LONG),
    Chunk(refusal=LONG),
    Chunk(text=LONG, reasoning=LONG, refusal=LONG),
    Chunk(text="\ud83d" + LONG),
    Chunk(
        text="before",
        tool_calls=(
            ToolCallDelta(index=0, id="c1", name="f", arguments=LONG),
            ToolCallDelta(index=1, id="c2", name="g", arguments=""),
            ToolCallDelta(index=1, arguments=LONG),
        ),
    ),
]


@pytest.mark.parametrize("chunk", LARGE)
@pytest.mark.parametrize("most", [150, 400, 1500])
async def test_a_delta_that_no_message_can_hold_is_several(chunk: Chunk, most: int) -> None:
    wire, whole = Wire(most=most), Wire()
    stream(wire).delta(chunk)
    stream(whole).delta(chunk)

    events = wire.events()
    assert len(events) > 1
    assert [(e.attempt, e.seq) for e in events] == [(1, n) for n in range(len(events))]
    assert gathered(events) == gathered(whole.events())


def gathered(events: list[Event]) -> object:
    """What an agent puts together from them."""
    gathering = Gathering()
    for event in events:
        assert isinstance(event, Delta)
        gathering.add(Chunk(event.text or "", event.reasoning or "", event.refusal or "", event.tool_calls or ()))
    return gathering.message()


async def test_what_has_no_halves_is_too_large_and_nothing_was_said() -> None:
    wire = Wire(most=300)
    events = stream(wire)
    with pytest.raises(TooLarge):
        events.delta(Chunk(tool_calls=(ToolCallDelta(index=0, id="c" * 300, name="f"),)))
    with pytest.raises(TooLarge):
        await events.failed(Overloaded("full" * 100).to_wire(), attempts=(), bill=Bill())

    await events.cancelled(bill=Bill())

    assert [(type(e), e.seq) for e in wire.events()] == [(Cancelled, 0)], "no number is missing"


async def test_numbers_events_within_an_attempt_and_attempts_within_a_request() -> None:
    wire = Wire()
    events = stream(wire)
    await events.started(CALL, worker="w")
    events.delta(Chunk(text="a"))
    await events.retrying(Overloaded("full").to_wire(), delay_s=0.1, provider="mock", model="m")
    await events.started(CALL, worker="w")
    events.delta(Chunk(text="b"))

    assert [(e.attempt, e.seq) for e in wire.events()] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]


async def test_a_request_ends_only_once() -> None:
    events = stream(Wire())
    await events.cancelled(bill=Bill())

    with pytest.raises(AssertionError, match="has ended"):
        await events.failed(Overloaded("full").to_wire(), attempts=(), bill=Bill())


async def test_goes_on_after_the_last_event_of_a_dead_worker() -> None:
    wire = Wire()
    events = stream(wire)
    events.continue_after(3)
    events.delta(Chunk(text="y"))

    assert [(e.attempt, e.seq) for e in wire.events()] == [(4, 0)]


async def test_takes_no_number_that_an_earlier_delivery_can_have_used() -> None:
    wire = Wire()
    events = stream(wire)
    events.skip_attempts(2)
    events.delta(Chunk(text="x"))

    assert [e.attempt for e in wire.events()] == [201]


async def test_an_attempt_is_said_again_until_the_next_one_has_said_something() -> None:
    """A server that is restarted while a request waits for its next try would have forgotten the last one."""
    wire = Wire()
    published = wire.sent
    events = stream(wire)
    await events.started(CALL, worker="w")
    await events.retrying(Overloaded("full").to_wire(), delay_s=1, provider="openai", model="m")
    first = list(published)
    published.clear()

    await events.republish()
    assert published == first

    await events.started(CALL, worker="w")
    assert [json.loads(event)["attempt"] for event in events.sent] == [2]
