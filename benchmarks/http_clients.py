"""What an HTTP client costs: ours beside httpx2 and aiohttp, CPU of this process only.

A raw server in another process sends one event of about 200 bytes in an HTTP chunk of its own every 20 ms, on each
stream; without streaming it answers at once. Rounds of the clients take turns, and the median counts.

    python -m benchmarks.http_clients [streams] [chunks] [rounds]
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import uvloop

from runtime.egress import Egress
from runtime.networks import parse_networks
from workers.providers.shared.http.client import HttpClient, HttpRequest

STREAMS, CHUNKS, ROUNDS = 100, 100, 3
BETWEEN_S = 0.02
AT_ONCE, REQUESTS = 32, 640
EVENT = b'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" token"}}],"pad":"%b"}\n\n' % (b"x" * 110)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{" + b'"a": true' + b"}"
HEADERS = {"authorization": "Bearer sk-benchmark", "content-type": "application/json"}
BODY = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Count."}]}'

Ask = Callable[[str], Awaitable[int]]
"""Asks at a URL; how many pieces of the reply came."""


async def serve() -> None:
    """Prints its port. The path says how many events are sent; none: one JSON text."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(size.split(b":")[1]))
                events = int(head.split(b" ")[1][1:])
                if not events:
                    writer.write(ANSWER)
                    continue
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                for _ in range(events):
                    await asyncio.sleep(BETWEEN_S)
                    writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
                writer.write(b"0\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@asynccontextmanager
async def ours() -> AsyncGenerator[Ask]:
    client = HttpClient(Egress(parse_networks("127.0.0.0/8")))

    async def ask(url: str) -> int:
        pieces = 0
        ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def take(_: bytes) -> None:
            nonlocal pieces
            pieces += 1

        reply = await client.send(HttpRequest("POST", url, HEADERS, BODY), tenant="t", connect_s=60)
        reply.deliver(take, ended.set_result)
        if failure := await ended:
            raise failure
        return pieces

    try:
        yield ask
    finally:
        await client.aclose()


@asynccontextmanager
async def by_httpx2() -> AsyncGenerator[Ask]:
    """As adapters had it: through the guarded egress."""
    async with Egress(parse_networks("127.0.0.0/8")).client(tenant="t") as client:

        async def ask(url: str) -> int:
            async with client.stream("POST", url, headers=HEADERS, content=BODY) as reply:
                return sum([1 async for _ in reply.aiter_bytes()])

        yield ask


@asynccontextmanager
async def by_aiohttp() -> AsyncGenerator[Ask]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(url: str) -> int:
            async with session.post(url, headers=HEADERS, data=BODY) as reply:
                return sum([1 async for _ in reply.content.iter_any()])

        yield ask


CLIENTS = {"ours": ours, "httpx2": by_httpx2, "aiohttp": by_aiohttp}


async def chunk_us(ask: Ask, url: str, streams: int, chunks: int) -> float:
    """CPU µs for a chunk, without what a stream of one chunk costs."""
    begun = time.process_time()
    await asyncio.gather(*(ask(f"{url}/1") for _ in range(streams)))
    of_one, begun = time.process_time() - begun, time.process_time()
    pieces = sum(await asyncio.gather(*(ask(f"{url}/{chunks}") for _ in range(streams))))
    of_all = time.process_time() - begun
    if pieces < 0.9 * streams * chunks:
        raise RuntimeError(f"only {pieces} pieces of {streams * chunks} chunks: this machine is too busy")
    return (of_all - of_one) / (streams * (chunks - 1)) * 1e6


async def request_ms(ask: Ask, url: str) -> float:
    """CPU ms for a request that is answered at once, AT_ONCE of them at a time."""

    async def some() -> None:
        for _ in range(REQUESTS // AT_ONCE):
            await ask(f"{url}/0")

    begun = time.process_time()
    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return (time.process_time() - begun) / REQUESTS * 1e3


async def main(streams: int, chunks: int, rounds: int) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.http_clients", "serve", stdout=asyncio.subprocess.PIPE
    )
    try:
        if server.stdout is None:
            raise RuntimeError("the server has no output")
        url = f"http://127.0.0.1:{int(await server.stdout.readline())}"
        of_chunk: dict[str, list[float]] = {name: [] for name in CLIENTS}
        of_request: dict[str, list[float]] = {name: [] for name in CLIENTS}
        for _ in range(rounds):
            for name, client in CLIENTS.items():
                async with client() as ask:
                    await asyncio.gather(*(ask(f"{url}/1") for _ in range(streams)))
                    of_chunk[name].append(await chunk_us(ask, url, streams, chunks))
                    of_request[name].append(await request_ms(ask, url))
    finally:
        server.terminate()
        await server.wait()
    print(f"{streams} streams of {chunks} chunks; {AT_ONCE} requests at once; median of {rounds} rounds\n")
    print(f"{'':<10}{'µs CPU/chunk':>14}{'ms CPU/request':>16}")
    for name in CLIENTS:
        print(f"{name:<10}{statistics.median(of_chunk[name]):>14.1f}{statistics.median(of_request[name]):>16.3f}")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        uvloop.run(serve())
    else:
        given = [int(number) for number in sys.argv[1:]]
        uvloop.run(main(*given, *(STREAMS, CHUNKS, ROUNDS)[len(given) :]))
