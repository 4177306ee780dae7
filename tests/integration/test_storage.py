"""A disk that is full: readiness says so, nothing that was confirmed is lost, and all goes on when there is room."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import nats
import nats.errors
import nats.js.errors
import pytest
from nats.aio.msg import Msg

from contracts import streams, subjects
from contracts.control import MSG_ID
from contracts.events import Completed, Failed, parse
from contracts.subjects import Priority
from fleet.deploy import nats_config
from fleet.local.servers import NatsServer
from runtime.broker import Broker
from runtime.jetstream.publishing import Publisher, SubjectFull
from runtime.jetstream.storage import stores
from tests.kit import Plane, connected, plane, worker, worker_settings
from tests.patience import PATIENCE_S, until
from tests.ports import free_port
from tests.servers import Vault

IN_A_NAMESPACE = ("unshare", "--map-root-user", "--mount")
FULL = Path("/dev/full")
"""A stream that goes on in this file stores nothing more, as on a disk that is full."""


@pytest.fixture
async def control(nats: NatsServer, vault: Vault, tenant: str) -> AsyncGenerator[Plane]:
    async with plane(nats.url, vault, tenant) as control:
        await control.make_streams()
        await control.put_tenant()
        await control.put_provider("mock", {})
        yield control


@pytest.fixture
async def broker(nats: NatsServer, control: Plane) -> AsyncGenerator[Broker]:
    async with connected(nats.url) as broker:
        yield broker


async def fill_disk(server: NatsServer, broker: Broker, stream: str, subject: str, *, most: int) -> Path:
    """Publishes messages of at most that size until not even a small one is stored. Returns what to unlink for room.

    A stream goes on in another file when one has some megabytes; that one is where the disk is full.
    """
    (messages,) = server.folder.glob(f"jetstream/**/streams/{stream}/msgs")
    full = messages / f"{1 + len(list(messages.glob('*.blk')))}.blk"
    full.symlink_to(FULL)
    number = 0
    for size in (most, 1000, 10):
        with suppress(nats.errors.TimeoutError):
            while True:
                await broker.client.request(f"{subject}{number // 50}", b"x" * size, timeout=0.5)
                number += 1
    return full


async def test_a_worker_says_that_the_disk_is_full_and_goes_on_when_it_is_not(
    nats: NatsServer, vault: Vault, control: Plane, broker: Broker, tenant: str
) -> None:
    ends: list[Completed | Failed] = []

    async def hear(msg: Msg) -> None:
        event = parse(msg.data)
        if isinstance(event, Completed | Failed):
            ends.append(event)

    await control.client.subscribe(subjects.replies_of_agent(tenant, "a"), cb=hear)
    port = free_port()
    async with (
        worker(worker_settings(nats.url, vault, llm_http_port=port)),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):

        async def until_it_has_storage(there: bool) -> httpx.Response:
            async with asyncio.timeout(PATIENCE_S):
                while (answer := await http.get("/readyz")).json()["checks"]["storage"] is not there:
                    await asyncio.sleep(0.05)
            return answer

        assert (await until_it_has_storage(True)).status_code == 200
        full = await fill_disk(nats, broker, streams.ATTEMPTS, "llm.v1.attempt.other.a.r", most=16_000)
        request = {"id": "r1", "tenant": tenant, "agent": "a", "model": "mock/echo"}
        body = json.dumps({**request, "messages": [{"role": "user", "content": "Hello"}]}).encode()
        js = control.client.jetstream()
        await js.publish(subjects.request("mock", Priority.INTERACTIVE, tenant), body, headers={MSG_ID: "r1"})

        assert (await until_it_has_storage(False)).status_code == 503
        assert not ends

        await nats.kill()
        full.unlink()
        await nats.start()
        await control.make_streams()  # those in memory
        await until(lambda: bool(ends))
        await until_it_has_storage(True)

    assert [type(end) for end in ends] == [Completed]
    assert (await js.stream_info(streams.REQUESTS)).state.messages == 0


@pytest.fixture
async def small_disk(tmp_path: Path) -> AsyncGenerator[str]:
    """The address of a server with a disk of 32 MB, which ends with it."""
    disk, config, port = tmp_path / "disk", tmp_path / "nats.conf", free_port()
    disk.mkdir()
    config.write_text(
        nats_config.server(listen=f"127.0.0.1:{port}", store_dir=str(disk), name="small", encrypted=False)
    )
    start = f"mount -t tmpfs -o size=32m tmpfs {disk} && exec {Path(sys.executable).parent}/nats-server -c {config}"
    process = await asyncio.create_subprocess_exec(*IN_A_NAMESPACE, "sh", "-c", start, stderr=DEVNULL)
    async with asyncio.timeout(PATIENCE_S):
        while not await is_open(port):
            await asyncio.sleep(0.05)
    yield f"nats://127.0.0.1:{port}"
    process.kill()
    await process.wait()


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def may_mount() -> bool:
    with TemporaryDirectory() as folder:
        mount = [*IN_A_NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", folder]
        return (
            shutil.which("unshare") is not None and subprocess.run(mount, check=False, stderr=DEVNULL).returncode == 0
        )


@pytest.mark.skipif(not may_mount(), reason="a disk of a size of its own takes a mount namespace")
async def test_a_stream_whose_write_failed_is_told_from_one_that_stores(small_disk: str) -> None:
    """And what was confirmed is delivered."""
    async with connected(small_disk) as broker:
        await streams.ensure(broker.request, streams.Sizes())
        assert await stores(broker, streams.REQUESTS)
        number, subject = 0, subjects.request("mock", Priority.INTERACTIVE, "acme")
        with suppress(nats.errors.TimeoutError):
            while number < 64:
                await broker.client.request(subject, b"%d" % number + b"x" * 1_000_000, timeout=2)
                number += 1

        assert 8 < number < 64
        assert not await stores(broker, streams.REQUESTS)
        assert await stores(broker, streams.RESULTS)
        puller = await broker.client.jetstream().pull_subscribe_bind(
            streams.pool_consumer("mock", Priority.INTERACTIVE), streams.REQUESTS
        )
        (message,) = await puller.fetch(1)
        assert message.data.startswith(b"0x")


async def test_who_publishes_notes_that_a_stream_is_full_and_that_it_is_not(broker: Broker) -> None:
    publisher = Publisher(broker)
    small = streams.Sizes(max_usage_bytes=1024)
    await streams.ensure(broker.request, small)

    with pytest.raises(SubjectFull):
        await publisher.durable(subjects.usage("mock", "acme"), b"x" * 2000, msg_id="m1")
    assert not publisher.storage.has_room

    await publisher.durable(subjects.usage("mock", "acme"), b"x" * 10, msg_id="m2")
    assert publisher.storage.has_room


async def test_a_queue_that_is_full_for_a_tenant_is_no_lack_of_storage(nats: NatsServer) -> None:
    async with connected(nats.url) as broker:
        await streams.ensure(broker.request, streams.Sizes(queue_limit_per_tenant=1))
        publisher = Publisher(broker)
        subject = subjects.request("mock", Priority.INTERACTIVE, "acme")
        await publisher.durable(subject, b"one", msg_id="m1")

        with pytest.raises(SubjectFull):
            await publisher.durable(subject, b"two", msg_id="m2")

        assert publisher.storage.has_room


async def test_a_server_whose_store_is_used_up_is_said_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By streams that reserve nothing, as those of others may do."""
    configuration = nats_config.server

    def small(**how: Any) -> str:
        return configuration(**how).replace("max_file_store: 64GB", "max_file_store: 1MB")

    monkeypatch.setattr(nats_config, "server", small)
    server = NatsServer(tmp_path / "nats", port=free_port())
    await server.start()
    try:
        async with connected(server.url) as broker:
            publisher = Publisher(broker)
            await broker.client.jetstream().add_stream(name="OURS", subjects=[subjects.REQUESTS, "theirs"])
            with suppress(nats.js.errors.APIError):
                while True:
                    await broker.client.jetstream().publish("theirs", b"x" * 100_000)

            with pytest.raises(SubjectFull):
                await publisher.durable(subjects.request("mock", Priority.INTERACTIVE, "acme"), b"x", msg_id="m1")

            assert not publisher.storage.has_room
    finally:
        await server.kill()
