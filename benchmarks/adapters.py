"""What a streamed chunk costs: each adapter beside its SDK's own iterator, CPU of this process only.

The simulator runs in another process; tokens come 20 ms apart on 100 streams, as they do from vendors, so that
each chunk is read on its own.

    python -m benchmarks.adapters [streams] [chunks] [provider …]
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import httpx2
import uvloop
from anthropic import AsyncAnthropic
from google.genai import Client, types
from ollama import AsyncClient as OllamaClient
from openai import AsyncOpenAI
from pydantic import SecretStr

from contracts.providers import Endpoint, Timeouts
from contracts.requests import CompletionRequest
from runtime.egress import Egress
from runtime.networks import parse_networks
from workers.providers import registry
from workers.providers.base import Call, Chunk, StreamItem, Target

STREAMS = 100
CHUNKS = 200
BETWEEN_S = 0.02
KEY = "sk-benchmark-0123456789"


@dataclass(frozen=True)
class Result:
    reader: str
    streams: int
    tokens: int
    chunks: int
    seconds: float
    cpu_us_per_token: float
    cpu_us_per_request: float


ReadAll = Callable[[str, int, int], Awaitable[int]]
"""Of a base URL, so many streams of so many chunks at once; the chunks that came."""


@dataclass(frozen=True)
class Vendor:
    model: str
    path: str
    """Where the simulator has it."""
    sdk: ReadAll


async def main(streams: int, chunks: int, providers: Sequence[str]) -> None:
    with TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        simulator = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fleet.simulator", "--ready-file", str(ready), stdout=asyncio.subprocess.DEVNULL
        )
        try:
            while not ready.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            url = json.loads(ready.read_text())["url"]
            results: list[Result] = []
            for provider in providers:
                vendor = VENDORS[provider]
                for reader, read_all in (("adapter", partial(_adapter, provider)), ("SDK", vendor.sdk)):
                    results.append(await _measure(f"{provider} {reader}", read_all, url + vendor.path, streams, chunks))
        finally:
            simulator.terminate()
            await simulator.wait()
    _show(results)


async def _measure(reader: str, read_all: ReadAll, url: str, streams: int, chunks: int) -> Result:
    """Short streams first, for imports and connections and for what a request costs without its tokens."""
    await read_all(url, streams, 1)
    begun = _cpu_s()
    await read_all(url, streams, 1)
    requests_s = _cpu_s() - begun
    begun, clock = _cpu_s(), time.perf_counter()
    yielded = await read_all(url, streams, chunks)
    used_s, seconds = _cpu_s() - begun, time.perf_counter() - clock
    tokens = streams * chunks
    return Result(
        reader=reader,
        streams=streams,
        tokens=tokens,
        chunks=yielded,
        seconds=round(seconds, 2),
        cpu_us_per_token=round((used_s - requests_s) / tokens * 1e6, 1),
        cpu_us_per_request=round(requests_s / streams * 1e6, 1),
    )


async def _adapter(provider: str, url: str, streams: int, chunks: int) -> int:
    adapter = registry.load(provider, Egress(parse_networks("127.0.0.0/8")))
    model = VENDORS[provider].model
    target = Target(Endpoint(base_url=url), Timeouts(), SecretStr(KEY))

    async def read(number: int) -> int:
        request = CompletionRequest.model_validate(
            {
                "id": f"r{number}",
                "tenant": "t",
                "agent": "a",
                "model": f"{provider}/{model}",
                "messages": [{"role": "user", "content": "Count."}],
                "provider_options": {provider: {"simulate": _script(chunks)}},
            }
        )
        call = Call(request=request, model=model, target=target, time_left_s=600)
        items: list[StreamItem] = []
        await adapter.stream_completion(call, items.append)
        return sum(isinstance(item, Chunk) for item in items)

    try:
        return sum(await asyncio.gather(*(read(number) for number in range(streams))))
    finally:
        await adapter.aclose()


async def _openai_sdk(url: str, streams: int, chunks: int) -> int:
    async with AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0, http_client=_http_client()) as sdk:

        async def read(_: int) -> int:
            stream = await sdk.chat.completions.create(
                model=VENDORS["openai"].model,
                messages=[{"role": "user", "content": "Count."}],
                stream=True,
                stream_options={"include_usage": True, "include_obfuscation": False},
                extra_body={"simulate": _script(chunks)},
            )
            return sum([bool(chunk.choices and chunk.choices[0].delta.content) async for chunk in stream])

        return sum(await asyncio.gather(*(read(number) for number in range(streams))))


async def _anthropic_sdk(url: str, streams: int, chunks: int) -> int:
    async with AsyncAnthropic(api_key=KEY, base_url=url, max_retries=0, http_client=_http_client()) as sdk:

        async def read(_: int) -> int:
            stream = await sdk.messages.create(
                model=VENDORS["anthropic"].model,
                messages=[{"role": "user", "content": "Count."}],
                max_tokens=10_000,
                stream=True,
                extra_body={"simulate": _script(chunks)},
            )
            return sum([event.type == "content_block_delta" async for event in stream])

        return sum(await asyncio.gather(*(read(number) for number in range(streams))))


async def _google_sdk(url: str, streams: int, chunks: int) -> int:
    """On aiohttp, which it takes by itself; on httpx2 it costs four times as much."""
    options = types.HttpOptions(base_url=url, extra_body={"simulate": _script(chunks)})
    config = types.GenerateContentConfig(automatic_continuation=False)
    sdk = Client(vertexai=False, api_key=KEY, http_options=options)

    async def read(_: int) -> int:
        stream = await sdk.aio.models.generate_content_stream(
            model=VENDORS["google"].model, contents="Count.", config=config
        )
        return sum([bool(chunk.text) async for chunk in stream])

    try:
        return sum(await asyncio.gather(*(read(number) for number in range(streams))))
    finally:
        await sdk.aio.aclose()
        sdk.close()


async def _ollama_sdk(url: str, streams: int, chunks: int) -> int:
    """Nothing of ours gets into the SDK's body, so the model has the script."""
    model = VENDORS["ollama"].model
    async with httpx2.AsyncClient() as http:
        (await http.put(f"{url}/_sim/scripts/{model}", json=_script(chunks))).raise_for_status()
    sdk = OllamaClient(host=url, limits=httpx.Limits(max_connections=1000, max_keepalive_connections=100))

    async def read(_: int) -> int:
        stream = await sdk.chat(model=model, messages=[{"role": "user", "content": "Count."}], stream=True)
        return sum([bool(line.message.content) async for line in stream])

    try:
        return sum(await asyncio.gather(*(read(number) for number in range(streams))))
    finally:
        await sdk.close()


VENDORS = {
    "openai": Vendor("gpt-4o", "/v1", _openai_sdk),
    "anthropic": Vendor("claude-sonnet-5-5", "/anthropic", _anthropic_sdk),
    "google": Vendor("gemini-2.5-flash", "/google", _google_sdk),
    "azure": Vendor("gpt-4o", "/openai/v1", _openai_sdk),
    "ollama": Vendor("llama3.2:latest", "", _ollama_sdk),
}


def _http_client() -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)
    return httpx2.AsyncClient(limits=limits, timeout=600)


def _script(chunks: int) -> dict[str, object]:
    return {"chunks": chunks, "between_s": BETWEEN_S}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _show(results: list[Result]) -> None:
    print(f"{'':<20}{'µs CPU/token':>14}{'µs CPU/request':>16}{'tokens':>10}{'chunks':>10}{'seconds':>9}")
    for r in results:
        print(
            f"{r.reader:<20}{r.cpu_us_per_token:>14}{r.cpu_us_per_request:>16}{r.tokens:>10,}{r.chunks:>10,}{r.seconds:>9}"
        )
    print(json.dumps({"benchmark": "adapters", "results": [asdict(result) for result in results]}))


if __name__ == "__main__":
    given = sys.argv[1:]
    numbers = [int(argument) for argument in given if argument.isdigit()]
    named = [argument for argument in given if not argument.isdigit()]
    uvloop.run(main(*numbers, *(STREAMS, CHUNKS)[len(numbers) :], providers=named or list(VENDORS)))
