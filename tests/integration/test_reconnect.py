"""Connections to NATS that come back after a while."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

import psutil
import pytest

from fleet.client import Client
from fleet.local.servers import NatsServer
from fleet.simulator.tcp import listening
from runtime import broker
from tests.kit import connected, plane
from tests.patience import until
from tests.servers import Vault

TRIES = 4


def of_an_agent(url: str) -> AbstractAsyncContextManager[object]:
    return Client(url, tenant="acme", agent="tester", connect_timeout=0.2)


@pytest.fixture
async def stack(nats: NatsServer, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.mark.parametrize("connection", [connected, of_an_agent])
async def test_tries_to_reconnect_leave_no_socket_open(
    stack: AsyncExitStack,
    nats: NatsServer,
    vault: Vault,
    monkeypatch: pytest.MonkeyPatch,
    connection: Callable[[str], AbstractAsyncContextManager[object]],
) -> None:
    """To a server that takes connections and says nothing."""
    monkeypatch.setattr(broker, "CONNECT_TIMEOUT_S", 0.2)
    control = await stack.enter_async_context(plane(nats.url, vault, "acme"))
    await control.make_streams()
    await control.client.close()
    await stack.enter_async_context(connection(nats.url))
    await nats.kill()
    tries = 0

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await asyncio.Event().wait()

    async with listening(say_nothing, nats.port):
        await until(lambda: tries >= TRIES)
        ours = [
            one
            for one in psutil.Process().net_connections("tcp")
            if one.raddr and one.raddr[1] == nats.port and one.status == psutil.CONN_ESTABLISHED
        ]

    assert len(ours) <= 1
    await nats.start()
