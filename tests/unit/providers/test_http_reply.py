"""What a reply over HTTP/1.1 says, whatever pieces its bytes come in."""

import asyncio
import gc
import gzip
import weakref
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.fair_queue import FairQueue, Flow
from runtime.paced_stream import MAX_HEAD_LINES, MAX_UNREAD_BYTES, TURN_LINES
from workers.providers.shared.http import reply as replies
from workers.providers.shared.http.framing import ConnectionBroken
from workers.providers.shared.http.reply import TURN_BYTES, HttpReply
from workers.providers.shared.http.sse import EventTooLarge

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
GZIP = OK + b"content-encoding: gzip\r\n"
TEXT = b"data: one\n\ndata: two\n\n"


class Carrier:
    """A connection that has no socket."""

    def __init__(self) -> None:
        self.is_paused = False
        self.released: bool | None = None

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def release(self, *, reusable: bool) -> None:
        self.released = reusable
        self.is_paused = False


def on(carrier: Carrier) -> HttpReply:
    reply = HttpReply(carrier, Flow(FairQueue(), "tenant"))
    reply.is_sent = True
    return reply


async def read(pieces: Iterable[bytes], *, eof: bool = False) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection may be used again. Raises what the reply ends with."""
    carrier = Carrier()
    reply = on(carrier)

    async def arrive() -> None:
        for piece in pieces:
            while carrier.is_paused:
                await asyncio.sleep(0)
            if carrier.released is None:
                reply.received(piece)
            await asyncio.sleep(0)
        if eof:
            reply.received_all(None)

    arriving = asyncio.create_task(arrive(), name="arrive")
    try:
        await reply.head
        body = await reply.body(most=1024**2)
    finally:
        await arriving
        reply.close()
    assert carrier.released is not None
    return reply.status, body, carrier.released


def chunks(*bodies: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(body), body) for body in (*bodies, b""))


WHOLE = {
    "a length": (OK + b"content-length: 22\r\n\r\n" + TEXT, 200, TEXT, True),
    "no body": (OK + b"content-length: 0\r\n\r\n", 200, b"", True),
    "chunks": (CHUNKED + chunks(TEXT[:5], TEXT[5:]), 200, TEXT, True),
    "chunks with extensions and trailers": (
        CHUNKED + b'16;a=b;c="d e"\r\n' + TEXT + b"\r\n0;x\r\nt: u\r\nv: w\r\n\r\n",
        200,
        TEXT,
        True,
    ),
    "a size with blanks": (CHUNKED + b"16  \r\n" + TEXT + b"\r\n000\r\n\r\n", 200, TEXT, True),
    "chunks beside a length": (
        OK + b"content-length: 3\r\ntransfer-encoding: Chunked\r\n\r\n" + chunks(TEXT),
        200,
        TEXT,
        False,
    ),
    "a length in a trailer": (CHUNKED + b"16\r\n" + TEXT + b"\r\n0\r\ncontent-length: 9\r\n\r\n", 200, TEXT, True),
    "an end that was announced": (OK + b"connection: close\r\ncontent-length: 22\r\n\r\n" + TEXT, 200, TEXT, False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 22\r\n\r\n" + TEXT, 200, TEXT, False),
    "HTTP/1.0, kept": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 22\r\n\r\n" + TEXT,
        200,
        TEXT,
        True,
    ),
    "an odd version": (b"HTTP/1.2 200 OK\r\ncontent-length: 22\r\n\r\n" + TEXT, 200, TEXT, True),
    "until the connection ends": (OK + b"content-type: text/event-stream\r\n\r\n" + TEXT, 200, TEXT, False),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 22\r\n\r\n" + TEXT, 200, TEXT, True),
    "a reason in UTF-8": ("HTTP/1.1 404 né\r\ncontent-length: 22\r\n\r\n".encode() + TEXT, 404, TEXT, True),
    "lines that end in LF": (b"HTTP/1.1 200 OK\ncontent-length: 22\n\n" + TEXT, 200, TEXT, True),
    "a head that ends in LF": (b"HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n" + chunks(TEXT), 200, TEXT, True),
    "a continued header": (OK + b"a: b\r\n c\r\ncontent-length: 22\r\n\r\n" + TEXT, 200, TEXT, True),
    "a control character": (OK + b"a: b\x01\x7fc\r\ncontent-length: 22\r\n\r\n" + TEXT, 200, TEXT, True),
    "interim responses": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: a\r\n\r\n" + CHUNKED + chunks(TEXT),
        200,
        TEXT,
        True,
    ),
    "an interim response that says close": (
        b"HTTP/1.1 103 X\r\nconnection: close\r\n\r\n" + CHUNKED + chunks(TEXT),
        200,
        TEXT,
        True,
    ),
    "an interim response in HTTP/1.0": (b"HTTP/1.0 100 X\r\n\r\n" + CHUNKED + chunks(TEXT), 200, TEXT, True),
    "an interim response with a body": (
        b"HTTP/1.1 150 X\r\ncontent-length: 3\r\n\r\nhel" + CHUNKED + chunks(TEXT),
        200,
        TEXT,
        True,
    ),
    "no content": (b"HTTP/1.1 204 X\r\n\r\n", 204, b"", True),
    "not modified, with a length": (b"HTTP/1.1 304 X\r\ncontent-length: 22\r\n\r\n", 304, b"", True),
    "an upgrade that is offered": (
        OK + b"upgrade: h2c\r\nconnection: Upgrade\r\ncontent-length: 22\r\n\r\n" + TEXT,
        200,
        TEXT,
        True,
    ),
    "gzip": (GZIP + b"transfer-encoding: chunked\r\n\r\n" + chunks(gzip.compress(TEXT)), 200, TEXT, True),
    "gzip of two members": (GZIP + b"\r\n" + gzip.compress(TEXT[:7]) + gzip.compress(TEXT[7:]), 200, TEXT, False),
    "deflate": (OK + b"content-encoding: deflate\r\n\r\n" + zlib.compress(TEXT), 200, TEXT, False),
    "more than a turn": (CHUNKED + chunks(*[TEXT] * 500), 200, TEXT * 500, True),
    "a long line": (CHUNKED + chunks(b"x" * 50_000), 200, b"x" * 50_000, True),
    "gzip of more than a turn": (GZIP + b"\r\n" + gzip.compress(TEXT * 500), 200, TEXT * 500, False),
}
"""What is sent until the connection ends, the status, the body, and whether the connection can be used again."""

BROKEN = {
    "nothing": b"",
    "a head without an end": OK + b"a: b\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "less than its length": OK + b"content-length: 23\r\n\r\n" + TEXT,
    "chunks without an end": CHUNKED + b"16\r\n" + TEXT + b"\r\n",
    "a chunk without an end": CHUNKED + b"17\r\n" + TEXT,
    "a size that is none": CHUNKED + b"xyz\r\n" + TEXT,
    "chunks that end in LF": CHUNKED + b"16\n" + TEXT + b"\n0\n\n",
    "another protocol": b"HTTP/1.1 101 X\r\nupgrade: a\r\nconnection: upgrade\r\n\r\nhi",
    "another protocol without a name": b"HTTP/1.1 101 X\r\n\r\n" + OK + b"content-length: 0\r\n\r\n",
    "a transfer coding": OK + b"transfer-encoding: gzip, chunked\r\n\r\n" + chunks(TEXT),
    "two lengths": OK + b"content-length: 22\r\ncontent-length: 23\r\n\r\n" + TEXT,
    "a length that is none": OK + b"content-length: +22\r\n\r\n" + TEXT,
    "NUL in a header": OK + b"a: b\0c\r\ncontent-length: 22\r\n\r\n" + TEXT,
    "a status that is none": b"HTTP/1.1 099 X\r\ncontent-length: 22\r\n\r\n" + TEXT,
    "packed twice": OK + b"content-encoding: gzip, gzip\r\n\r\n" + gzip.compress(gzip.compress(TEXT)),
    "no gzip": GZIP + b"content-length: 22\r\n\r\n" + TEXT,
    "many headers": OK + b"a: b\r\n" * (MAX_HEAD_LINES + 1),
    "a long header": OK + b"a: " + b"b" * 200_000,
    "many interim responses": b"HTTP/1.1 100 X\r\n\r\n" * MAX_HEAD_LINES,
    "a long extension": CHUNKED + b"16;" + b"a" * (3 * MAX_UNREAD_BYTES) + b"\r\n" + TEXT + b"\r\n0\r\n\r\n",
    "long trailers": CHUNKED + b"16\r\n" + TEXT + b"\r\n0\r\n" + b"a: b\r\n" * 8000,
}


@pytest.mark.parametrize("what", WHOLE)
async def test_a_reply_is_read_whatever_it_comes_in(what: str) -> None:
    raw, status, body, reusable = WHOLE[what]
    eof = what == "until the connection ends" or "gzip" in what or what == "deflate"
    assert await read([raw], eof=eof) == (status, body, reusable)
    for size in (1, 3) if len(raw) < 1000 else (1000, TURN_BYTES):
        pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
        assert await read(pieces, eof=eof) == (status, body, reusable), size


@pytest.mark.parametrize("what", [what for what in WHOLE if len(WHOLE[what][0]) < 1000])
async def test_a_reply_is_read_wherever_it_is_cut(what: str) -> None:
    raw, status, body, _ = WHOLE[what]
    for at in range(1, len(raw)):
        assert (await read([raw[:at], raw[at:]], eof=True))[:2] == (status, body), at


@given(what=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_any_cuts_give_the_same_body(what: str, data: st.DataObject) -> None:
    raw, status, body, _ = WHOLE[what]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=12)))
    pieces = [raw[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert asyncio.run(read(pieces, eof=True))[:2] == (status, body)


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("size", [7, 1000, 1_000_000])
async def test_what_no_vendor_sends_breaks_the_reply(what: str, size: int) -> None:
    raw = BROKEN[what]
    with pytest.raises(ConnectionBroken):
        await read([raw[at : at + size] for at in range(0, len(raw), size)], eof=True)


async def test_what_came_before_a_reply_broke_is_passed_on() -> None:
    reply, taken = on(Carrier()), list[bytes]()
    ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    reply.received(CHUNKED)
    reply.deliver(taken.append, ended.set_result)
    await asyncio.sleep(0)
    reply.received(b"16\r\n" + TEXT + b"\r\nno size\r\n")
    assert isinstance(await ended, ConnectionBroken)
    assert taken == [TEXT]


async def test_what_one_read_brings_is_taken_at_once() -> None:
    reply, taken = on(Carrier()), list[bytes]()
    reply.received(CHUNKED)
    reply.deliver(taken.append, lambda _: None)
    await asyncio.sleep(0)
    reply.received(b"5\r\ndata:\r\n4\r\n one\r\n2\r\n\n\n\r\n")
    assert taken == [b"data: one\n\n"]


async def test_headers_are_read_as_they_were_meant() -> None:
    reply = on(Carrier())
    reply.received(OK + b"X-A: \xe9 \r\nx-a: two\r\nB: c\r\n d\r\nempty:\r\ncontent-length: 0\r\n\r\n")
    await reply.head
    assert reply.headers == {"x-a": "é, two", "b": "c d", "empty": "", "content-length": "0"}
    reply.close()


@pytest.mark.parametrize("extra", [OK + b"content-length: 2\r\n\r\nho", b"{}", b"HT"])
@pytest.mark.parametrize(
    "framed", [b"content-length: 22\r\n\r\n" + TEXT, b"transfer-encoding: chunked\r\n\r\n" + chunks(TEXT)]
)
async def test_what_follows_a_reply_is_no_part_of_it(framed: bytes, extra: bytes) -> None:
    assert await read([OK + framed + extra]) == (200, TEXT, False)


@pytest.mark.parametrize("body", [b"x" * 100_000, b"\n" * 2000, TEXT * 5000, gzip.compress(b"\n" * 100_000)])
async def test_pieces_are_bounded_and_nothing_is_read_meanwhile(body: bytes) -> None:
    carrier, taken = Carrier(), list[bytes]()
    reply = on(carrier)
    ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    coding = b"content-encoding: gzip\r\n" if body.startswith(b"\x1f\x8b") else b""
    reply.received(OK + coding + b"content-length: %d\r\n\r\n" % (len(body) + 1))
    reply.deliver(taken.append, ended.set_result)
    await asyncio.sleep(0)
    reply.received(body)
    reply.received(b"\0")
    assert carrier.is_paused
    assert await ended is None
    assert b"".join(taken).rstrip(b"\0") == (gzip.decompress(body) if coding else body)
    assert max(map(len, taken)) <= TURN_BYTES
    assert max(piece.count(b"\n") for piece in taken) <= TURN_LINES
    assert carrier.released


async def test_no_more_is_given_until_the_taker_is_ready() -> None:
    carrier, taken, ready = Carrier(), list[bytes](), asyncio.Event()
    reply = on(carrier)

    async def wait() -> None:
        await ready.wait()

    def take(data: bytes) -> asyncio.Task[None]:
        taken.append(data)
        return asyncio.create_task(wait(), name="wait")

    ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    reply.received(OK + b"content-length: 6\r\n\r\none")
    reply.deliver(take, ended.set_result)
    await asyncio.sleep(0)
    reply.received(b"two")
    for _ in range(10):
        await asyncio.sleep(0)
    assert (taken, carrier.is_paused, ended.done()) == ([b"one"], True, False)
    ready.set()
    assert await ended is None
    assert taken == [b"one", b"two"]


@pytest.mark.parametrize("is_late", [False, True])
async def test_what_a_taker_raises_ends_the_reply(is_late: bool) -> None:
    carrier = Carrier()
    reply = on(carrier)
    failure = ValueError("no such event")

    async def late() -> None:
        raise failure

    def take(_: bytes) -> asyncio.Task[None]:
        if is_late:
            return asyncio.create_task(late(), name="late")
        raise failure

    ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    reply.received(OK + b"content-length: 6\r\n\r\none")
    reply.deliver(take, ended.set_result)
    assert await ended is failure
    assert carrier.released is False


async def test_nothing_is_called_after_a_reply_was_closed() -> None:
    for closed_after in range(4):
        carrier, taken = Carrier(), list[bytes]()
        reply = on(carrier)
        reply.received(OK + b"content-length: 100000\r\n\r\none")
        reply.deliver(taken.append, lambda _: pytest.fail("it was closed"))
        for _ in range(closed_after):
            await asyncio.sleep(0)
        if closed_after:
            reply.received(b"x" * 50_000)
        before = len(taken)
        reply.close()
        reply.close()
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(taken) == before
        assert carrier.released is False


async def test_a_taker_may_close_the_reply() -> None:
    carrier, taken = Carrier(), list[bytes]()
    reply = on(carrier)

    def take(data: bytes) -> None:
        taken.append(data)
        reply.close()

    reply.received(OK + b"content-length: 40000\r\n\r\n")
    reply.deliver(take, lambda _: pytest.fail("it was closed"))
    await asyncio.sleep(0)
    reply.received(b"x" * 40_000)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (len(taken), carrier.released) == (1, False)


async def test_a_reply_that_is_whole_leaves_its_connection_though_its_taker_closes_it() -> None:
    carrier = Carrier()
    reply = on(carrier)
    reply.received(CHUNKED)
    reply.deliver(lambda _: reply.close(), lambda _: pytest.fail("it was closed"))
    await asyncio.sleep(0)
    reply.received(chunks(b"data: [DONE]\n\n"))
    assert carrier.released is True


async def test_a_request_that_was_not_sent_whole_leaves_no_connection() -> None:
    carrier = Carrier()
    reply = on(carrier)
    reply.is_sent = False
    reply.received(b"HTTP/1.1 413 X\r\ncontent-length: 3\r\n\r\nbig")
    assert await reply.body(most=100) == b"big"
    assert carrier.released is False


async def test_a_long_body_is_cut_or_refused() -> None:
    for cut in (True, False):
        reply = on(Carrier())
        reply.received(OK + b"content-length: 22\r\n\r\n" + TEXT)
        if cut:
            assert await reply.body(most=10, cut=True) == TEXT[:10]
        else:
            with pytest.raises(EventTooLarge):
                await reply.body(most=10)


@pytest.mark.parametrize("packed", [False, True])
async def test_a_reply_without_an_end_is_refused(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MAX_REPLY_BYTES", 100_000)
    body = gzip.compress(bytes(200_000)) if packed else bytes(200_000)
    with pytest.raises(EventTooLarge, match="a reply of more than"):
        await read([GZIP if packed else OK, b"\r\n", body])


@pytest.mark.parametrize(
    "again",
    [b"1\r\n \r\n", b"1;" + b"a" * 30 + b"\r\n\n\r\n", b"c\r\n" + b"\n" * 12 + b"\r\n"],
    ids=["byte", "extension", "lines"],
)
async def test_a_reply_of_short_lines_is_broken_off(again: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.paced_stream.SHORT_LINES", 2000)
    with pytest.raises(ConnectionBroken, match="short lines"):
        await read([CHUNKED, again * 5000])


async def test_a_taker_that_is_cancelled_ends_the_reply() -> None:
    reply = on(Carrier())

    def take(_: bytes) -> asyncio.Future[None]:
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        never.cancel()
        return never

    ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    reply.received(OK + b"content-length: 6\r\n\r\none")
    reply.deliver(take, ended.set_result)
    assert isinstance(await ended, ConnectionBroken)


async def test_what_was_to_be_waited_for_is_cancelled_with_a_reply_that_is_closed_at_once() -> None:
    carrier = Carrier()
    reply = on(carrier)
    waiting = asyncio.Event()
    cancelled: list[bool] = []

    async def wait() -> None:
        try:
            await waiting.wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    reply.received(CHUNKED)
    reply.deliver(lambda _: wait(), lambda _: None)
    await asyncio.sleep(0)
    reply.received(b"3\r\nabc\r\n")
    reply.close()
    await asyncio.sleep(0)
    reply = on(carrier)
    reply.received(CHUNKED)
    reply.deliver(lambda _: wait(), lambda _: None)
    await asyncio.sleep(0)
    reply.received(b"3\r\nabc\r\n")
    for _ in range(3):
        await asyncio.sleep(0)
    reply.close()
    for _ in range(3):
        await asyncio.sleep(0)
    assert cancelled == [True]


async def test_a_reply_that_is_over_holds_on_to_nobody() -> None:
    """What takes a reply has the answer; the collector, which would find the two, comes by seldom."""

    class Taker:
        def __init__(self, reply: HttpReply) -> None:
            self.reply = reply
            reply.deliver(self.take, self.ended)

        def take(self, data: bytes) -> None: ...

        def ended(self, exc: Exception | None) -> None: ...

    reply = on(Carrier())
    reply.received(OK + b"content-length: 3\r\n\r\n")
    taker = Taker(reply)
    await asyncio.sleep(0)
    reply.received(b"abc")
    gone = weakref.ref(taker)
    gc.disable()
    try:
        del taker
        assert gone() is None
    finally:
        gc.enable()
