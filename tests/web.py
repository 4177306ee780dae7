"""Web servers inside a test's own process."""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from fleet.simulator.tcp import accepting


@asynccontextmanager
async def serving(app: web.Application, port: int = 0, *, tls: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """Serves on the port that it yields. No connection is left open at the end, nor is any answer waited for."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    transports: list[asyncio.Transport] = []
    server = runner.server
    assert server is not None

    async def serve(connection: socket.socket) -> None:
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(server, connection, ssl=tls)
        except OSError:  # who connected does not trust us, or is gone
            connection.close()
        else:
            transports.append(transport)

    try:
        async with accepting(serve, port) as serving_at:
            yield serving_at
    finally:
        await runner.cleanup()
        for transport in transports:  # aiohttp leaves some open
            transport.abort()
        await asyncio.sleep(0)
