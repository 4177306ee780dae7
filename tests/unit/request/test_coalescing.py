"""Fewer, larger deltas: when they leave, and what they say."""

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import ToolCallDelta
from tests.memory import FINISH, ScriptedAdapter, Way, request
from tests.patience import until
from workers.providers.base import Chunk, Gathering
from workers.request.coalescing import Coalescing, Moments, merged

HOUR_S = 3600.0

chunks = st.builds(
    Chunk,
    text=st.text(max_size=5),
    reasoning=st.text(max_size=5),
    refusal=st.text(max_size=5),
    tool_calls=st.lists(
        st.builds(
            ToolCallDelta,
            index=st.integers(0, 3),
            id=st.none() | st.just("c1"),
            name=st.none() | st.just("f"),
            arguments=st.none() | st.text(max_size=5),
        ),
        max_size=3,
    ).map(tuple),
    pieces=st.integers(1, 3),
)


@given(st.lists(chunks, min_size=1, max_size=8))
def test_one_chunk_says_what_several_say(several: list[Chunk]) -> None:
    one_by_one, at_once = Gathering(), Gathering()
    for chunk in several:
        one_by_one.add(chunk)
    at_once.add(merged(several))
    assert at_once.message() == one_by_one.message()
    assert at_once.pieces == one_by_one.pieces


async def test_the_first_one_never_waits_and_the_others_leave_together_at_the_end() -> None:
    said: list[Chunk] = []
    coalescing = Coalescing(said.append, every_s=HOUR_S, moments=Moments())
    for word in ("one", " two", " three"):
        coalescing.add(Chunk(text=word))
    assert [chunk.text for chunk in said] == ["one"]
    coalescing.end()
    coalescing.end()
    assert [chunk.text for chunk in said] == ["one", " two three"]


async def test_what_is_held_back_leaves_when_it_is_time_though_nothing_more_comes() -> None:
    said: list[str] = []
    times: list[float] = []
    loop = asyncio.get_running_loop()

    def publish(chunk: Chunk) -> None:
        said.append(chunk.text)
        times.append(loop.time())

    moments = Moments()
    answers = [Coalescing(publish, every_s=0.05, moments=moments) for _ in range(3)]
    for answer in answers:
        answer.add(Chunk(text="a"))
        answer.add(Chunk(text="b"))
        answer.add(Chunk(text="c"))
    await until(lambda: len(said) == 6)
    assert said == ["a", "a", "a", "bc", "bc", "bc"]
    assert times[3] - times[2] >= 0.05


async def test_no_more_is_held_than_a_little() -> None:
    said: list[Chunk] = []
    coalescing = Coalescing(said.append, every_s=HOUR_S, moments=Moments())
    coalescing.add(Chunk(text="first"))
    for _ in range(100):
        coalescing.add(Chunk(tool_calls=(ToolCallDelta(index=0, arguments="x" * 1000),)))
    assert len(said) == 2


async def test_what_could_not_be_published_in_between_is_raised_to_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refused(Exception): ...

    said: list[str] = []

    def publish(chunk: Chunk) -> None:
        if chunk.text != "a":
            raise Refused
        said.append(chunk.text)

    moments = Moments()
    answer, other = (Coalescing(publish, every_s=0.02, moments=moments) for _ in range(2))
    answer.add(Chunk(text="a"))
    answer.add(Chunk(text="b"))
    other.add(Chunk(text="a"))
    other.add(Chunk(text="a"))
    await until(lambda: len(said) == 3)
    with pytest.raises(Refused):
        answer.add(Chunk(text="c"))
    with pytest.raises(Refused):
        answer.end()
    with caplog.at_level(logging.ERROR):
        other.end()
    assert not caplog.records


async def test_an_answer_comes_in_fewer_deltas_and_is_the_same() -> None:
    words = [Chunk(text=f"{number} ") for number in range(20)]
    way = Way(ScriptedAdapter([*words, FINISH]))
    await way.execution.run(way.delivery(request(stream=True, coalesce_ms=1000).to_json()))

    texts = [event.text for event in way.publisher.events() if event.type == "delta"]
    assert texts == ["0 ", "".join(chunk.text for chunk in words[1:])]
    assert way.publisher.kinds == ["started", "delta", "delta", "completed", "result", "usage"]


async def test_what_came_before_a_failure_is_said_before_it() -> None:
    way = Way(ScriptedAdapter([Chunk(text="a"), Chunk(text="b"), Chunk(text="c"), RuntimeError("a bug")]))
    await way.execution.run(way.delivery(request(stream=True, coalesce_ms=1000, on_interrupt="fail").to_json()))

    deltas = [event.text for event in way.publisher.events() if event.type == "delta"]
    assert deltas[:2] == ["a", "bc"]
    assert way.publisher.kinds[-1] == "result"
