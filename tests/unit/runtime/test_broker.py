"""What follows a reconnect."""

import asyncio
import time

import nats.errors
import pytest
from nats.aio.client import Client as Nats

from runtime.broker import Broker, BrokerConnection, Headers, message_bytes


@pytest.fixture
def broker() -> Broker:
    return Broker(Nats())


async def test_a_slow_callback_delays_no_other_one(broker: Broker) -> None:
    others_are_done, told = asyncio.Event(), list[str]()

    async def slow() -> None:
        await others_are_done.wait()
        told.append("slow")

    async def quick() -> None:
        told.append("quick")
        others_are_done.set()

    broker.on_reconnect += [slow, quick]
    await broker.reconnected()

    assert told == ["quick", "slow"]


async def test_callbacks_begin_in_the_order_of_registration(broker: Broker) -> None:
    begun: list[int] = []

    def callback(number: int) -> None:
        async def note() -> None:
            begun.append(number)
            await asyncio.sleep(0)
            begun.append(10 + number)

        broker.on_reconnect.append(note)

    for number in range(3):
        callback(number)
    await broker.reconnected()

    assert begun == [0, 1, 2, 10, 11, 12]


@pytest.mark.parametrize(
    ("error", "level"), [(nats.errors.ConnectionClosedError(), "WARNING"), (ZeroDivisionError(), "ERROR")]
)
async def test_a_callback_that_fails_fails_alone(
    broker: Broker, caplog: pytest.LogCaptureFixture, error: Exception, level: str
) -> None:
    told: list[str] = []

    async def failing() -> None:
        raise error

    async def working() -> None:
        await asyncio.sleep(0)
        told.append("working")

    broker.on_reconnect += [failing, working]
    await broker.reconnected()

    assert told == ["working"]
    (line,) = caplog.records
    assert (line.getMessage(), line.levelname) == ("after_reconnect_failed", level)
    assert vars(line)["callback"].endswith("failing")


@pytest.mark.parametrize("line", [b"k%d: v", b"k: v", b" folded", b":", b"\xff"])
async def test_of_more_headers_than_anybody_needs_the_first_are_read(line: bytes) -> None:
    many = b"\r\n".join(line % number if b"%d" in line else line for number in range(500_000))
    cpu = time.process_time()
    headers = await BrokerConnection(by_tls=False)._process_headers(  # pyright: ignore[reportPrivateUsage]
        b"NATS/1.0\r\nNats-Msg-Id: m1\r\nother: o\r\n" + many + b"\r\n\r\n"
    )

    assert headers
    assert headers["Nats-Msg-Id"] == "m1"
    assert time.process_time() - cpu < 0.3, "it took 0.7 s to read them all"


async def test_one_header_that_is_too_long_is_not_read() -> None:
    long = b"NATS/1.0\r\nlong: " + b"x" * 1_000_000 + b"\r\n\r\n"

    assert not await BrokerConnection(by_tls=False)._process_headers(long)  # pyright: ignore[reportPrivateUsage]


async def read(raw: bytes) -> dict[str, str] | None:
    return await BrokerConnection(by_tls=False)._process_headers(raw)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("line", [b"k%d: v", b"k: v", b":", b""])
async def test_of_more_lines_than_anybody_needs_the_first_and_the_last_are_read(line: bytes) -> None:
    many = [line % number if b"%d" in line else line for number in range(16_000)]
    raw = b"\r\n".join(
        [b"NATS/1.0", b"Nats-Msg-Id: m1", *many, b"Nats-Stream: S", b"Nats-Sequence: 7", b"Nats-Num-Pending: 0\r\n\r\n"]
    )
    cpu = time.process_time()
    found = [await read(raw) for _ in range(100)]
    taken = time.process_time() - cpu

    headers = found[-1]
    assert headers
    assert (headers["Nats-Msg-Id"], headers["Nats-Sequence"], headers["Nats-Num-Pending"]) == ("m1", "7", "0")
    assert taken < 0.2, "it took 0.46 s to read them all"


async def test_a_status_is_read_whatever_follows_it() -> None:
    headers = await read(b"NATS/1.0 503 No Responders\r\n" + b"k: v\r\n" * 1000 + b"last: l\r\n\r\n")

    assert headers
    assert (headers["Status"], headers["last"]) == ("503", "l")


async def test_of_few_lines_each_is_read() -> None:
    names = [f"k{number}" for number in range(120)]
    headers = await read(b"NATS/1.0\r\n" + b"".join(b"%s: v\r\n" % name.encode() for name in names) + b"\r\n")

    assert headers == dict.fromkeys(names, "v")


@pytest.mark.parametrize("line", [b"same: " + b"x" * 100 + b"\r\n", b"k: v\r\n", b"\xff: v\r\n"])
async def test_headers_count_with_all_their_bytes(line: bytes) -> None:
    raw = b"NATS/1.0\r\nk: v\r\n" + line * 600 + b"\r\n"
    headers = await read(raw)

    assert isinstance(headers, Headers)
    assert message_bytes(b"body", headers) == 4 + len(raw)
