"""What a worker's CPU does for one request outside the vendor's HTTP call, from JetStream's delivery to its ack.

    python -m benchmarks.request_path [--requests 3000] [--callers 32] [--profile FILE]

The worker runs in this process, wired as in production, on a nats-server of its own. Its adapter answers at once, so
that what is left is the fleet's own part. The agents are another process. CPU is this process's own, user and system.
"""

import argparse
import asyncio
import base64
import cProfile
import json
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nats
import uvloop
from nats.aio.msg import Msg
from pydantic import SecretStr

from contracts import subjects
from contracts.control import MSG_ID, message_id
from contracts.providers import Limits, ProviderConfig, PublishedProvider, PublishedTenant
from contracts.requests import CompletionRequest
from contracts.subjects import Priority, Provider
from contracts.usage import Usage, UsageSource
from fleet.local.servers import NatsServer
from runtime import broker, logs, role
from runtime.vault import VaultSession
from tests.ports import free_port
from workers import app
from workers.providers.base import Call, Chunk, Finish, Take
from workers.providers.mock.adapter import Mock
from workers.settings import WorkerSettings

TENANT, AGENT = "bench", "agent"
PROVIDER = Provider.OLLAMA
"""It may be called without a key, and has circuits."""
MODEL = "gpt-4o-mini"
WARM_UP = 300
USAGE = Usage(input_tokens=20, output_tokens=16, source=UsageSource.VENDOR)


class Instant(Mock):
    """Has the whole answer when it is asked."""

    name = PROVIDER.value

    async def stream_completion(self, call: Call, take: Take) -> Finish:
        await call.may_send()
        if (until_taken := take(Chunk(text="tok " * 16))) is not None:
            await until_taken
        return Finish("stop", USAGE, response_model=MODEL, response_id="chatcmpl-1")


async def main(requests: int, callers: int, profile: str | None) -> None:
    with TemporaryDirectory(prefix="fleet-bench-") as folder:
        server = NatsServer(Path(folder), port=free_port())
        await server.start()
        try:
            async with _worker(server.url):
                await _load(server.url, WARM_UP, callers)
                profiler = cProfile.Profile(time.process_time)
                if profile:
                    profiler.enable()
                before = time.process_time()
                await _load(server.url, requests, callers)
                cpu_s = time.process_time() - before
                profiler.disable()
        finally:
            await server.kill()
    if profile:
        profiler.dump_stats(profile)
    print(json.dumps({"worker_cpu_us_per_request": round(cpu_s / requests * 1e6, 1), "requests": requests}))


@asynccontextmanager
async def _worker(url: str) -> AsyncGenerator[None]:
    settings = WorkerSettings.model_validate(
        {"nats_url": url, "llm_encryption_key": SecretStr(base64.b64encode(secrets.token_bytes(32)).decode())}
    )
    logs.configure(settings)
    async with (
        broker.connect(settings, name="bench", inbox_prefix="_INBOX_bench") as connection,
        broker.connect(settings, name="bench-questions", inbox_prefix="_INBOX_bench") as asked,
    ):
        await broker.ensure_streams(connection, settings)
        worker = app.build(
            settings,
            name="bench",
            nats=connection,
            asked=asked,
            vault=VaultSession(settings),
            adapters={PROVIDER: Instant()},
            concurrency=256,
            timing=app.NORMAL_TIMING,
        )
        await _configure(connection)
        stop = asyncio.Event()
        watched = (worker.config, worker.breaker, worker.slots, worker.orphaned_holds, worker.shares)
        works: list[Coroutine[Any, Any, Any]] = [part.bucket.run() for part in watched]
        works += [worker.cancel_feed.run(), worker.shares.look(), worker.shares.purge()]
        running = [asyncio.create_task(work) for work in works]
        await worker.config.bucket.wait_until_loaded()
        await worker.cancel_feed.wait_until_heard()
        serving = asyncio.create_task(worker.pools[PROVIDER].serve(stop, grace_s=5))
        role.is_set_up()
        try:
            yield
        finally:
            stop.set()
            await serving
            for task in running:
                task.cancel()
            await asyncio.wait(running)


async def _configure(connection: broker.Broker) -> None:
    tenant = PublishedTenant(slug=TENANT, limits=Limits(requests_per_minute=0, requests_per_day=0))
    provider = PublishedProvider(
        provider_id="bench", tenant=TENANT, provider_type=PROVIDER, revision=1, config=ProviderConfig()
    )
    for key, value in (
        (subjects.config_key_of_tenant(TENANT), tenant),
        (subjects.config_key_of_provider(TENANT, PROVIDER), provider),
    ):
        await connection.client.jetstream().publish(f"$KV.{subjects.CONFIG_BUCKET}.{key}", value.to_json())


async def _load(url: str, requests: int, callers: int) -> None:
    """In a process of its own. Raises RuntimeError when a request was not completed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.request_path", "--agents", url,
        "--requests", str(requests), "--callers", str(callers),
    )  # fmt: skip
    if await process.wait():
        raise RuntimeError("the agents have failed")


async def agents(url: str, requests: int, callers: int) -> None:
    """So many callers, each with one request after the other."""
    client = await nats.connect(url)
    ends: dict[str, asyncio.Future[None]] = {}

    async def heard(msg: Msg) -> None:
        kind = json.loads(msg.data)["type"]
        if kind != "started":
            end = ends[msg.subject]
            end.set_result(None) if kind == "completed" else end.set_exception(RuntimeError(msg.data.decode()))

    await client.subscribe(subjects.replies_of_agent(TENANT, AGENT), cb=heard)
    left = iter(range(requests))
    run = secrets.token_hex(4)
    subject = subjects.request(PROVIDER, Priority.INTERACTIVE, TENANT)

    async def caller() -> None:
        for number in left:
            request = CompletionRequest.model_validate(
                {
                    "id": f"{run}-{number}",
                    "tenant": TENANT,
                    "agent": AGENT,
                    "model": f"{PROVIDER}/{MODEL}",
                    "messages": [
                        {"role": "system", "content": "You are a helpful assistant."},
                        {"role": "user", "content": "Say some tokens, please. " * 8},
                    ],
                    "stream": False,
                    "max_tokens": 64,
                }
            )
            end = ends[subjects.reply(TENANT, AGENT, request.id)] = asyncio.get_running_loop().create_future()
            headers = {MSG_ID: message_id(TENANT, AGENT, request.id)}
            await client.publish(subject, request.to_json(), headers=headers)
            await asyncio.wait_for(end, 60)

    await asyncio.gather(*(caller() for _ in range(callers)))
    await client.close()


if __name__ == "__main__":
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--requests", type=int, default=3000)
    cli.add_argument("--callers", type=int, default=32)
    cli.add_argument("--profile", help="where to write what cProfile sees")
    cli.add_argument("--agents", help=argparse.SUPPRESS)
    asked = cli.parse_args()
    if asked.agents:
        uvloop.run(agents(asked.agents, asked.requests, asked.callers))
    else:
        uvloop.run(main(asked.requests, asked.callers, asked.profile))
