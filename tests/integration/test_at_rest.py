"""What JetStream writes to disk: encrypted, also what was there before, and with another key from a start on.

`fleet up` gives its server keys as these tests do; see also tests/acceptance/test_at_rest.py.
"""

import asyncio
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import nats as nats_py
import nats.errors
import pytest
from nats.aio.client import Client

from contracts import streams
from fleet.deploy import nats_config
from fleet.deploy.nats_config import JetStreamKeys, Node
from fleet.deploy.nats_seeds import new_jetstream_key
from fleet.local.process import Command, Process, StartFailed
from fleet.local.servers import NatsServer
from tests import compose
from tests.patience import PATIENCE_S
from tests.ports import free_port

SAID = b"a-canary-that-nobody-may-find"
SUBJECT = "llm.v1.dead.mock.acme"
DURABLE = "reader"
BIN = Path(sys.executable).parent


@asynccontextmanager
async def running(folder: Path, keys: JetStreamKeys | None) -> AsyncGenerator[NatsServer]:
    """A server that is stopped cleanly at the end."""
    server = NatsServer(folder, port=free_port(), keys=keys)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def connected(server: NatsServer) -> AsyncGenerator[Client]:
    client = await nats_py.connect(server.url)
    try:
        yield client
    finally:
        await client.close()


async def make_streams(client: Client, *, replicas: int = 1) -> None:
    async def ask(subject: str, payload: bytes) -> bytes:
        return (await client.request(subject, payload, timeout=30)).data

    await streams.ensure(ask, streams.Sizes(replicas=replicas))


async def say(server: NatsServer, *, replicas: int = 1) -> None:
    """Makes the fleet's streams, has one of them keep three messages, and one consumer acknowledge the first."""
    async with connected(server) as client:
        await make_streams(client, replicas=replicas)
        jetstream = client.jetstream(timeout=30)
        for _ in range(3):
            await jetstream.publish(SUBJECT, SAID)
        reader = await jetstream.pull_subscribe(SUBJECT, durable=DURABLE, stream=streams.DEAD)
        (first,) = await reader.fetch(1, timeout=30)
        await first.ack_sync(timeout=30)


async def kept(server: NatsServer) -> list[bytes]:
    async with connected(server) as client:
        jetstream = client.jetstream(timeout=30)
        state = (await jetstream.stream_info(streams.DEAD)).state
        return [
            (await jetstream.get_msg(streams.DEAD, seq)).data or b""
            for seq in range(state.first_seq, state.last_seq + 1)
        ]


async def unread(server: NatsServer) -> int | None:
    async with connected(server) as client:
        return (await client.jetstream(timeout=30).consumer_info(streams.DEAD, DURABLE)).num_pending


def files_with(needle: bytes, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


async def test_what_is_kept_can_be_read_by_the_server_only(tmp_path: Path) -> None:
    keys = JetStreamKeys(new_jetstream_key())
    async with running(tmp_path, keys) as server:
        await say(server)
        assert files_with(SAID, tmp_path) == []
    assert files_with(SAID, tmp_path) == []
    assert files_with(keys.key.encode(), tmp_path) == []

    async with running(tmp_path, keys) as server:
        assert await kept(server) == [SAID] * 3
        assert await unread(server) == 2


async def test_what_an_earlier_version_kept_is_encrypted_at_the_next_start(tmp_path: Path) -> None:
    async with running(tmp_path, None) as server:
        await say(server)
    assert files_with(SAID, tmp_path) != []

    async with running(tmp_path, JetStreamKeys(new_jetstream_key())) as server:
        assert files_with(SAID, tmp_path) == []
        assert await kept(server) == [SAID] * 3
        assert await unread(server) == 2


async def test_another_key_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    old, new = new_jetstream_key(), new_jetstream_key()
    async with running(tmp_path, JetStreamKeys(old)) as server:
        await say(server)

    async with running(tmp_path, JetStreamKeys(new, old)) as server, connected(server) as client:
        assert await kept(server) == [SAID] * 3
        await make_streams(client)
        await client.jetstream(timeout=30).pull_subscribe(SUBJECT, durable=DURABLE, stream=streams.DEAD)
        assert await unread(server) == 3

    async with running(tmp_path, JetStreamKeys(new)) as server:
        assert await kept(server) == [SAID] * 3
        assert await unread(server) == 3
    with pytest.raises(StartFailed):
        await NatsServer(tmp_path, port=free_port(), keys=JetStreamKeys(old)).start()


@pytest.mark.parametrize("wrong", [JetStreamKeys(new_jetstream_key()), None], ids=["another key", "no key"])
async def test_a_server_with_a_wrong_key_does_not_serve_and_spoils_nothing(
    wrong: JetStreamKeys | None, tmp_path: Path
) -> None:
    keys = JetStreamKeys(new_jetstream_key())
    async with running(tmp_path, keys) as server:
        await say(server)

    refused = NatsServer(tmp_path, port=free_port(), keys=wrong)
    with pytest.raises(StartFailed, match="encrypted with another key"):
        await refused.start()

    assert refused.process is not None
    assert not refused.process.alive
    async with running(tmp_path, keys) as server:
        assert await kept(server) == [SAID] * 3
        assert await unread(server) == 2


async def test_the_nodes_of_a_cluster_get_another_key_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node begins anew without its files, and has the others' before the next one does so."""
    routes = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    ports = [free_port() for _ in range(3)]
    health = {f"node-{number}": free_port() for number in range(3)}
    whole = nats_config.server

    def watched(*, node: Node, **how: Any) -> str:
        return f"http: 127.0.0.1:{health[node.name]}\n" + whole(node=node, **how)

    monkeypatch.setattr(nats_config, "server", watched)

    def node(number: int, keys: JetStreamKeys) -> NatsServer:
        others = tuple(route for route in routes if route != routes[number])
        where = Node(f"node-{number}", routes[number], others)
        return NatsServer(tmp_path / where.name, port=ports[number], node=where, keys=keys)

    old, new = JetStreamKeys(new_jetstream_key()), JetStreamKeys(new_jetstream_key())
    nodes = [node(number, old) for number in range(3)]
    try:
        await asyncio.gather(*(server.start() for server in nodes))
        await _until_they_are_one(nodes)
        await say(nodes[0], replicas=3)
        for number in range(3):
            await nodes[number].stop()
            shutil.rmtree(nodes[number].folder / "jetstream")
            nodes[number] = node(number, new)
            await nodes[number].start()
            await _until_well(health[f"node-{number}"])

        assert [await kept(server) for server in nodes] == [[SAID] * 3] * 3
        assert await unread(nodes[0]) == 2
    finally:
        await asyncio.gather(*(server.kill() for server in nodes))
    assert files_with(SAID, tmp_path) == []


async def _until_they_are_one(servers: list[NatsServer]) -> None:
    """Waits until the nodes know each other, and have made the fleet's streams."""
    async with connected(servers[0]) as client, asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(nats.errors.Error, TimeoutError, streams.JetStreamError):
                return await make_streams(client, replicas=len(servers))


async def _until_well(port: int) -> None:
    """Waits until a node says that it has what the others have. What they say of it is old at first."""
    async with httpx.AsyncClient() as http, asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(httpx.TransportError):
                if (await http.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)


def printed(folder: Path, *options: str) -> str:
    """What `fleet nats-config` prints."""
    where = ["--provider", "mock", "--listen", f"127.0.0.1:{free_port()}", "--store-dir", str(folder / "store")]
    command = [str(BIN / "fleet"), "nats-config", *where, *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@asynccontextmanager
async def nats_server(folder: Path, config: str, env: Mapping[str, str], *options: str) -> AsyncGenerator[Path]:
    """Runs it with this configuration until it is ready. Its log."""
    (folder / "nats.conf").write_text(config)
    log = folder / "nats.log"
    log.unlink(missing_ok=True)
    argv = (str(BIN / "nats-server"), "-c", str(folder / "nats.conf"), *options)
    process = Process(Command("nats", argv, log, env))

    async def is_ready() -> bool:
        return "Server is ready" in log.read_text()

    try:
        await process.wait_until(is_ready, timeout_s=60)
        yield log
    finally:
        await process.kill()


async def test_a_printed_configuration_takes_the_key_from_the_environment(tmp_path: Path) -> None:
    keys = JetStreamKeys(new_jetstream_key())
    config = printed(tmp_path, "--passwords", "passwords")
    async with nats_server(tmp_path, config, keys.environment()) as log:
        assert "Encryption:      AES-GCM" in log.read_text()
    assert {"#   NATS_JETSTREAM_KEY", "#   NATS_JETSTREAM_KEY_PREVIOUS"} <= set(config.splitlines())
    assert files_with(keys.key.encode(), tmp_path) == []


@pytest.mark.parametrize(("wrong", "status"), [(False, 200), (True, 503)])
async def test_the_health_check_of_the_compose_file_fails_while_the_key_is_wrong(
    wrong: bool, status: int, tmp_path: Path
) -> None:
    keys = JetStreamKeys(new_jetstream_key())
    async with running(tmp_path, keys) as server:
        await say(server)
    address = compose.read()["services"]["nats"]["healthcheck"]["test"][-1]
    port, given = free_port(), JetStreamKeys(new_jetstream_key()) if wrong else keys
    config = (tmp_path / "nats.conf").read_text()
    async with nats_server(tmp_path, config, given.environment(), "-m", str(port)), httpx.AsyncClient() as http:
        assert (await http.get(address.replace("8222", str(port)))).status_code == status


async def test_a_printed_configuration_includes_the_file_of_the_key(tmp_path: Path) -> None:
    options = ("--passwords", "passwords", "--jetstream-key", "jetstream-key.conf")
    config = printed(tmp_path, *options)
    file = tmp_path / "jetstream-key.conf"
    made = file.read_text()
    async with nats_server(tmp_path, config, {}) as log:
        assert "Encryption:      AES-GCM" in log.read_text()

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = made.split('"')[1]
    assert len(key) == 64
    assert files_with(key.encode(), tmp_path) == [file]
    assert not any(line.startswith("#") for line in config.splitlines())
    assert 'include "jetstream-key.conf"' in printed(tmp_path, *options)
    assert file.read_text() == made


async def test_a_printed_configuration_leaves_encryption_to_the_disk_where_that_is_wished(tmp_path: Path) -> None:
    config = printed(tmp_path, "--passwords", "passwords", "--no-encrypt")
    async with nats_server(tmp_path, config, {}) as log:
        assert "Encryption:" not in log.read_text()
    assert "NATS_JETSTREAM_KEY" not in config


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        ("", ("--jetstream-key", "key.conf"), "does not set NATS_JETSTREAM_KEY"),
        ('NATS_JETSTREAM_KEY: "k"\n', ("--jetstream-key", "key.conf"), "does not set NATS_JETSTREAM_KEY_PREVIOUS"),
        ("", ("--jetstream-key", "key.conf", "--no-encrypt"), "--no-encrypt"),
    ],
)
def test_a_file_without_the_key_is_refused(text: str, options: tuple[str, ...], why: str, tmp_path: Path) -> None:
    (tmp_path / "key.conf").write_text(text)
    ended = subprocess.run(
        [str(BIN / "fleet"), "nats-config", *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert why in " ".join(ended.stderr.split())
    assert ended.stdout == ""
