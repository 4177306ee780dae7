"""What a connection hands out of what it received, and when it is broken off."""

import httpcore2
import pytest

from runtime.fair_queue import FairQueue, Flow
from runtime.paced_stream import (
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    TURN_LINES,
    PacedStream,
    Pieces,
    ShortLines,
)


class Connection(httpcore2.AsyncNetworkStream):
    def __init__(self, *received: bytes) -> None:
        self._received = list(received)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._received.pop(0) if self._received else b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None: ...


def connection(*received: bytes) -> PacedStream:
    return PacedStream(Connection(*received), Flow(FairQueue(), "tenant"))


async def read_all(stream: PacedStream) -> list[bytes]:
    pieces: list[bytes] = []
    while piece := await stream.read(65_536):
        pieces.append(piece)
    return pieces


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"\n" * 1000,
        b"x" * 1000,
        b"a\r\nb\n" * 500,
        b"\n" * 130 + b"x" * 5000,
        b"x" * 5000 + b"\n" * 130,
        b"\n" * TURN_LINES,
        b"\n" * TURN_LINES + b"x",
    ],
)
@pytest.mark.parametrize("most_bytes", [1, 100, 65_536])
def test_pieces_are_bounded_and_leave_nothing_out(data: bytes, most_bytes: int) -> None:
    pieces, taken = Pieces(), list[bytes]()
    pieces.put(data)
    while pieces:
        piece, lines = pieces.take(most_bytes)
        assert piece.count(b"\n") == lines <= TURN_LINES
        assert 0 < len(piece) <= most_bytes
        taken.append(piece)
    assert b"".join(taken) == data


async def test_an_ordinary_response_is_handed_out_as_it_came() -> None:
    parts = [b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\n", b"data: one\n\n" * 10]
    assert await read_all(connection(*parts)) == parts


@pytest.mark.parametrize("head", [b"a:\n" * (MAX_HEAD_LINES + 1), b"a" * (MAX_HEAD_BYTES + 1)])
async def test_a_head_without_an_end_is_broken_off(head: bytes) -> None:
    with pytest.raises(httpcore2.RemoteProtocolError):
        await read_all(connection(*[head[at : at + 1000] for at in range(0, len(head), 1000)]))


async def test_each_response_of_a_connection_has_a_head_of_its_own() -> None:
    stream = connection(*[b"a:\n" * 600] * 3)
    for _ in range(3):
        await stream.write(b"GET / HTTP/1.1\r\n\r\n")
        for _ in range(5):
            await stream.read(65_536)


async def test_a_body_of_short_lines_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.paced_stream.SHORT_LINES", 20_000)  # reading takes turns, and therefore time
    stream = connection(*[b"1\r\nx\r\n" * 100] * 1000)
    stream.head_ended()
    with pytest.raises(httpcore2.RemoteProtocolError):
        await read_all(stream)


async def test_a_body_of_tiny_events_is_not() -> None:
    event = b'2e\r\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\n\r\n'
    stream = connection(*[event * 30] * 1000)
    stream.head_ended()
    assert len(b"".join(await read_all(stream))) == 30_000 * len(event)


def test_a_reply_may_come_a_byte_a_chunk() -> None:
    """300 kB of it, which is more than nearly all replies have."""
    short_lines = ShortLines()
    assert not any(short_lines.are_too_many(lines=2 * 60, size=6 * 60) for _ in range(300_000 // 60))
    assert any(short_lines.are_too_many(lines=2 * 60, size=6 * 60) for _ in range(300_000 // 60))


async def test_pings_never_end_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand seconds of them, fifty a second."""
    now = 0.0
    monkeypatch.setattr("runtime.paced_stream.now", lambda: now)
    short_lines = ShortLines()
    for second in range(1000):
        now = float(second)
        assert not short_lines.are_too_many(lines=50 * 4, size=50 * 9)


async def test_an_idle_connection_with_something_unasked_is_not_used_again() -> None:
    stream = connection(b"\n" * (TURN_LINES + 1))
    await stream.read(65_536)
    assert stream.get_extra_info("is_readable")
