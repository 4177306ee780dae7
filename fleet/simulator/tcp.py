"""TCP servers inside a process that goes on without them."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from runtime.tasks import end

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

_BACKLOG = 2048


@asynccontextmanager
async def listening(talk: Talk, port: int = 0, *, host: str = "127.0.0.1") -> AsyncGenerator[int]:
    """Talks to whoever connects to the port that it yields; a connection is closed when `talk` returns.

    At the end all of them are. (asyncio.Server forgets those that it has accepted: one that came a moment before stays
    open, until the collector finds it.)
    """
    loop = asyncio.get_running_loop()
    talks: set[asyncio.Task[None]] = set()
    new: set[socket.socket] = set()

    def accept() -> None:
        with suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                new.add(connection)
                task = asyncio.create_task(serve(connection), name="connection")
                talks.add(task)
                task.add_done_callback(talks.discard)

    async def serve(connection: socket.socket) -> None:
        new.remove(connection)
        reader, writer = await asyncio.open_connection(sock=connection)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                await talk(reader, writer)
                writer.close()
                await writer.wait_closed()
            finally:
                writer.transport.abort()

    with socket.create_server((host, port), backlog=_BACKLOG) as listener:
        listener.setblocking(False)
        loop.add_reader(listener, accept)
        try:
            yield listener.getsockname()[1]
        finally:
            loop.remove_reader(listener)
            await end(*talks)
            for connection in new:
                connection.close()
