"""A program of somebody else that has a part's port, and answers there, is not taken for the part."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fleet.local.process import PortTaken
from fleet.local.servers import NatsServer, PostgresServer, VaultServer
from fleet.local.stack import Ports, Stack, Wishes
from fleet.local.state import State
from fleet.local.supervisor import keep_running
from runtime.tasks import end
from tests.ports import free_port

Server = NatsServer | PostgresServer | VaultServer


class _AlwaysWell(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Says nothing."""


@contextmanager
def foreign_program(port: int) -> Generator[None]:
    """It answers every GET with 200."""
    with ThreadingHTTPServer(("127.0.0.1", port), _AlwaysWell) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield
        finally:
            server.shutdown()
            serving.join()


SERVERS: dict[str, Callable[[Path], Server]] = {
    "nats": NatsServer,
    "postgres": lambda folder: PostgresServer(folder, durable=False),
    "vault": lambda folder: VaultServer(folder, providers=["mock"]),
}


@pytest.mark.parametrize("name", SERVERS)
async def test_a_server_whose_port_is_taken_says_so_and_comes_back_when_it_is_free(name: str, tmp_path: Path) -> None:
    server = SERVERS[name](tmp_path / "server")
    try:
        await server.start()
        await server.kill()
        with foreign_program(server.port):
            with pytest.raises(PortTaken, match=f"port {server.port} of {name} is taken by another program"):
                await server.start()
            assert server.process is not None
            assert not server.process.alive
        await server.start()
    finally:
        await server.stop()


async def test_another_nats_server_is_not_taken_for_ours(tmp_path: Path) -> None:
    theirs = NatsServer(tmp_path / "theirs")
    await theirs.start()
    try:
        with pytest.raises(PortTaken):
            await NatsServer(tmp_path / "ours", port=theirs.port).start()
    finally:
        await theirs.stop()


async def test_a_part_is_not_restarted_for_as_long_as_its_port_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fleet.local.supervisor")
    server = NatsServer(tmp_path / "nats")
    await server.start()
    restarted = asyncio.Event()
    keeping = asyncio.create_task(keep_running("nats", server, on_restart=restarted.set))

    def said(event: str) -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.getMessage() == event]

    try:
        await server.kill()
        with foreign_program(server.port):
            async with asyncio.timeout(90):
                while len(said("part_did_not_start")) < 3:
                    await asyncio.sleep(0.02)
            assert not restarted.is_set()
        async with asyncio.timeout(90):
            await restarted.wait()
    finally:
        await end(keeping)
        await server.stop()
    assert {r.__dict__["error"] for r in said("part_did_not_start")} == {
        f"port {server.port} of nats is taken by another program"
    }
    assert [len(said(event)) for event in ("part_died", "part_restarted")] == [1, 1]


async def test_a_stack_starts_elsewhere_when_its_ports_are_taken_before_it_has_them(tmp_path: Path) -> None:
    state, said = State(tmp_path), list[str]()
    with ExitStack() as stack:
        stack.enter_context(state.locked())
        local = Stack(state, Wishes(pools={"mock": 1}), say=said.append)
        chosen = json.loads((tmp_path / "ports.json").read_text())
        taken = {name: chosen[name] for name in SERVERS}
        for port in taken.values():
            stack.enter_context(foreign_program(port))
        try:
            await local.start()
            facts = local.facts()
            assert (await asyncio.to_thread(local.admin.get, "tenants/demo"))["slug"] == "demo"
        finally:
            await local.stop()
    used = {"nats": facts["nats_url"], "postgres": facts["database_url"], "vault": facts["vault_addr"]}
    assert all(urlsplit(used[name]).port not in (None, port) for name, port in taken.items())
    assert "worker-mock answers" in said


async def test_a_port_that_was_asked_for_is_not_changed(tmp_path: Path) -> None:
    state = State(tmp_path)
    with state.locked():
        local = Stack(state, Wishes(pools={}, ports=Ports(nats=free_port())), say=lambda _: None)
        port = json.loads((tmp_path / "ports.json").read_text())["nats"]
        with foreign_program(port):
            try:
                with pytest.raises(ExceptionGroup) as refused:
                    await local.start()
            finally:
                await local.stop()
    assert [str(exc) for exc in refused.value.exceptions] == [f"port {port} of nats is taken by another program"]
