"""A tenant does not fill the queue of the others by bytes: what is beyond its bound is refused, and it is told so."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest
from nats.aio.msg import Msg

from contracts import streams, subjects
from contracts.events import Completed, Failed, parse
from contracts.subjects import Priority
from fleet.local.servers import NatsServer
from tests.kit import Plane, connected, plane, worker, worker_settings
from tests.patience import until
from tests.servers import Vault
from workers.clock import Clock
from workers.intake import backlog
from workers.intake.backlog import Backlog

MB = 1024**2


@pytest.fixture
async def control(nats: NatsServer, vault: Vault, tenant: str) -> AsyncGenerator[Plane]:
    async with plane(nats.url, vault, tenant) as control:
        await control.make_streams()
        await control.put_tenant()
        await control.put_provider("mock", {})
        yield control


async def test_workers_share_one_bound(nats: NatsServer, control: Plane) -> None:
    async with AsyncExitStack() as stack:
        workers = [
            Backlog(
                await stack.enter_async_context(connected(nats.url)), worker=f"w{number}", bound=10 * MB, clock=Clock()
            )
            for number in range(3)
        ]
        watching = [asyncio.create_task(each.bucket.run()) for each in workers]
        for each in workers:
            await each.bucket.wait_until_loaded()
            each.add("loud", "mock", 4 * MB, delay_s=3600)
            await each.tell_once()

        await until(lambda: not any(each.has_room("loud", 1) for each in workers))

        assert all(each.has_room("quiet", 10 * MB) for each in workers)
        for each in watching:
            each.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


async def test_what_is_beyond_a_tenants_bound_fails_with_queue_full_and_the_rest_runs(
    nats: NatsServer, vault: Vault, control: Plane, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_PART", 1024)  # 5.25 MiB of 5.25 GiB
    ends: dict[str, Completed | Failed] = {}

    async def hear(msg: Msg) -> None:
        event = parse(msg.data)
        if isinstance(event, Completed | Failed):
            ends[event.request_id] = event

    await control.client.subscribe(subjects.replies_of_agent(tenant, "a"), cb=hear)
    settings = worker_settings(nats.url, vault, llm_worker_requests_mib=64, llm_stream_disk_gb=14)
    js = control.client.jetstream()

    async def publish(request_id: str, *, size: int, first_token_s: float) -> None:
        request = {
            "id": request_id,
            "tenant": tenant,
            "agent": "a",
            "model": "mock/echo",
            "messages": [{"role": "user", "content": "x" * size}],
            "provider_options": {"mock": {"text": "done", "first_token_s": first_token_s}},
        }
        await js.publish(subjects.request("mock", Priority.INTERACTIVE, tenant), json.dumps(request).encode())

    async with worker(settings, concurrency=8):
        # What is stored in the first two seconds after a worker met its server may have been given to another one.
        await publish("first", size=1, first_token_s=2.5)
        await until(lambda: len(ends) == 1)
        for number in range(40):
            await publish(f"r{number}", size=MB, first_token_s=1.0)
        await until(lambda: len(ends) == 41)

    failed = [end for end in ends.values() if isinstance(end, Failed)]
    assert {end.error.code for end in failed} == {"queue_full"}
    assert all(end.error.retryable for end in failed)
    assert 8 <= 41 - len(failed) < 40
    assert (await js.stream_info(streams.REQUESTS)).state.messages == 0
