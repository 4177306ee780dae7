"""What an agent pays to read a stream: CPU of a process that uses `fleet.client`, beside one with nats-py alone.

    python -m benchmarks.agent [--streams 1 100] [--rounds 3] [--loop asyncio|uvloop] [--json FILE]

A stand-in for the workers answers in another process, through a NATS server of the benchmark's own: each stream has
64 deltas 20 ms apart, so that each event is read on its own. nats-py alone has the same subscription, counts the events
and looks for the one that ends a request; it decodes nothing. What a request costs is part of an event's figure there,
as agents pay it; the cost of a whole request is that of one whose answer has two events only: `lone_request_us` of one
after another, where the process sleeps before each message, and `request_us` of 16 at a time.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import nats
import uvloop
from nats.aio.msg import Msg

from contracts import subjects
from contracts.control import MSG_ID
from contracts.events import Completed, Delta, Event, Started, Timings
from contracts.requests import AssistantMessage, CompletionRequest
from contracts.subjects import Priority
from contracts.usage import Usage
from contracts.wire import utc_now
from fleet.client import Client
from fleet.local.servers import NatsServer

TENANT, AGENT = "bench", "agent"
MODEL = "mock/echo"
QUESTION = "Explain in a few words why the sky is blue and the sunset is red."
DELTAS = 64
BETWEEN_S = 0.02
SHORT_REQUESTS = 480
AT_ONCE = 16

Ask = Callable[[int], Awaitable[int]]
"""One request with so many deltas; the events that came."""


@dataclass(frozen=True)
class Result:
    reader: str
    loop: str
    streams: int
    events: int
    seconds: float
    cpu_us_per_event: float
    request_us: int
    lone_request_us: int
    kb_per_open_stream: float


async def main(streams: list[int], *, rounds: int, loop: str) -> list[Result]:
    results: list[Result] = []
    with TemporaryDirectory(prefix="fleet-bench-") as folder:
        server = NatsServer(Path(folder))
        await server.start()
        stand_in = await _python("--answer", server.url)
        try:
            await _line(stand_in)
            for count in streams:
                for reader in ("fleet.client", "nats-py"):
                    args = ("--read", reader, "--rounds", str(rounds), "--loop", loop, "--streams", str(count))
                    process = await _python(server.url, *args)
                    results.append(Result(**json.loads(await _line(process))))
                    await process.wait()
        finally:
            stand_in.terminate()
            await stand_in.wait()
            await server.stop()
    return results


async def _python(*args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.agent", *args, stdout=asyncio.subprocess.PIPE
    )


async def _line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(120):
        line = await process.stdout.readline()
    if not line:
        raise RuntimeError("a process of the benchmark has failed")
    return line.decode()


async def answer(url: str) -> None:
    """Stands in for the workers until it is ended: each request gets `max_tokens` deltas."""
    connection = await nats.connect(url)
    stream = {
        "name": "BENCH",
        "subjects": [subjects.REQUESTS],
        "storage": "memory",
        "max_msgs": 10_000,
        "allow_msg_ttl": True,
    }
    created = await connection.request("$JS.API.STREAM.CREATE.BENCH", json.dumps(stream).encode())
    assert "error" not in json.loads(created.data), created.data
    running = set[asyncio.Task[None]]()

    async def one(request: CompletionRequest) -> None:
        to = subjects.reply(request.tenant, request.agent, request.id)
        count = request.max_tokens or 0
        pause_s = BETWEEN_S if count > 1 else 0
        at = time.monotonic()
        for event in _events(request.id, count):
            await connection.publish(to, event.to_json())
            at += pause_s
            if pause_s:
                await asyncio.sleep(at - time.monotonic())

    async def on_request(msg: Msg) -> None:
        if msg.data:
            task = asyncio.create_task(one(CompletionRequest.model_validate_json(msg.data)))
            running.add(task)
            task.add_done_callback(running.discard)

    await connection.subscribe(subjects.REQUESTS, cb=on_request)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


def _events(request_id: str, deltas: int) -> list[Event]:
    said = [f"tok{number} " for number in range(deltas)]
    at: dict[str, Any] = {"request_id": request_id, "attempt": 1}
    events: list[Event] = [
        Started(**at, seq=0, provider="mock", endpoint="default", model="echo", worker="w-1", at=utc_now()),
        *(Delta(**at, seq=number, text=text) for number, text in enumerate(said, start=1)),
        Completed(
            **at,
            seq=deltas + 1,
            message=AssistantMessage(content="".join(said)),
            finish_reason="stop",
            usage=Usage(input_tokens=16, output_tokens=deltas),
            provider="mock",
            model="echo",
            timings=Timings(queued_s=0.001, time_to_first_token_s=0.02, duration_s=1.3),
        ),
    ]
    return events


async def read(url: str, reader: str, *, streams: int, rounds: int, loop: str) -> None:
    """Prints what it costs this process."""
    async with Client(url, tenant=TENANT, agent=AGENT) as client:
        ask = _through(client) if reader == "fleet.client" else await _beside(url)

        async def some(times: int, deltas: int) -> int:
            return sum([await ask(deltas) for _ in range(times)])

        await some(100, 0)
        before_kb, cpu_s, began = _peak_kb(), time.process_time(), time.monotonic()
        read = sum(await asyncio.gather(*(_spread(i / streams, some(rounds, DELTAS)) for i in range(streams))))
        seconds, cpu_s, kb = time.monotonic() - began, time.process_time() - cpu_s, _peak_kb() - before_kb
        assert read == streams * rounds * (DELTAS + 2), read
        per_event_us = round(cpu_s / read * 1e6, 1)
        request_us = await _cpu_us(some(SHORT_REQUESTS // AT_ONCE, 0) for _ in range(AT_ONCE))
        lone_us = await _cpu_us([some(SHORT_REQUESTS, 0)])
    result = Result(
        reader=reader,
        loop=loop,
        streams=streams,
        events=read,
        seconds=round(seconds, 2),
        cpu_us_per_event=per_event_us,
        request_us=round(request_us / SHORT_REQUESTS),
        lone_request_us=round(lone_us / SHORT_REQUESTS),
        kb_per_open_stream=round(kb / streams, 1),
    )
    print(json.dumps(asdict(result)), flush=True)


async def _cpu_us(work: Iterable[Awaitable[int]]) -> float:
    before = time.process_time()
    await asyncio.gather(*work)
    return (time.process_time() - before) * 1e6


async def _spread(share: float, reading: Awaitable[int]) -> int:
    """Not all at the same moment."""
    await asyncio.sleep(share * DELTAS * BETWEEN_S)
    return await reading


def _peak_kb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _through(client: Client) -> Ask:
    async def ask(deltas: int) -> int:
        count = 0
        said: list[str] = []
        async for event in client.stream(MODEL, QUESTION, max_tokens=deltas or None):
            count += 1
            match event:
                case Delta():
                    said.append(event.text or "")
                case Completed():
                    assert event.message.content == "".join(said)
                case _:
                    pass
        return count

    return ask


async def _beside(url: str) -> Ask:
    connection = await nats.connect(url)
    jetstream = connection.jetstream()
    waiting: dict[str, asyncio.Future[None]] = {}
    counts: dict[str, int] = {}

    async def on_event(msg: Msg) -> None:
        request_id = msg.subject.rpartition(".")[2]
        counts[request_id] += 1
        if b'"type":"completed"' in msg.data:
            waiting[request_id].set_result(None)

    agent = AGENT + "-beside"
    await connection.subscribe(subjects.replies_of_agent(TENANT, agent), cb=on_event)

    async def ask(deltas: int) -> int:
        request_id = uuid4().hex
        counts[request_id] = 0
        waiting[request_id] = asyncio.get_running_loop().create_future()
        body: dict[str, Any] = {"id": request_id, "tenant": TENANT, "agent": agent, "model": MODEL}
        body["messages"] = [{"role": "user", "content": QUESTION}]
        if deltas:
            body["max_tokens"] = deltas
        to = subjects.request("mock", Priority.INTERACTIVE, TENANT)
        await jetstream.publish(to, json.dumps(body).encode(), headers={MSG_ID: request_id})
        await waiting[request_id]
        del waiting[request_id]
        return counts.pop(request_id)

    return ask


def _show(results: list[Result]) -> None:
    columns = ("reader", "streams", "µs an event", "µs a request", "… alone", "kB a stream")
    print("".join(f"{column:>14}" for column in columns))
    for r in results:
        row = (r.reader, r.streams, r.cpu_us_per_event, r.request_us, r.lone_request_us, r.kb_per_open_stream)
        print("".join(f"{cell:>14}" for cell in row))
    print(json.dumps({"benchmark": "agent", "results": [asdict(result) for result in results]}))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("url", nargs="?", help=argparse.SUPPRESS)
    options.add_argument("--read", choices=["fleet.client", "nats-py"], help=argparse.SUPPRESS)
    options.add_argument("--answer", metavar="URL", help=argparse.SUPPRESS)
    options.add_argument("--streams", type=int, nargs="+", default=[1, 100])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    options.add_argument("--json", type=Path, dest="out")
    asked = options.parse_args()
    if asked.answer:
        uvloop.run(answer(asked.answer))
    elif asked.read:
        run = uvloop.run if asked.loop == "uvloop" else asyncio.run
        run(read(asked.url, asked.read, streams=asked.streams[0], rounds=asked.rounds, loop=asked.loop))
    else:
        results = asyncio.run(main(asked.streams, rounds=asked.rounds, loop=asked.loop))
        _show(results)
        if asked.out:
            asked.out.write_text(json.dumps([asdict(result) for result in results], indent=1))
