"""TCP servers that begin and end within a process, without leaving a connection open."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from runtime.listener import bind
from runtime.tasks import end

Serve = Callable[[socket.socket], Awaitable[None]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def accepting(serve: Serve, port: int = 0, *, host: str = "127.0.0.1") -> AsyncGenerator[int]:
    """Listens at a port (0: a free one), which it yields, and serves each connection in a task of its own. At the end
    all of these have ended. Raises Unreachable when the port cannot be had.

    asyncio.Server would not do: a connection that it accepts a moment before it is closed stays open until the garbage
    collector finds it.
    """
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    new: set[socket.socket] = set()

    def accept() -> None:
        with suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                new.add(connection)
                task = asyncio.create_task(begin(connection), name="connection")
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def begin(connection: socket.socket) -> None:
        new.remove(connection)
        await serve(connection)

    with bind(host, port) as listener:
        listener.setblocking(False)
        loop.add_reader(listener, accept)
        try:
            yield listener.getsockname()[1]
        finally:
            loop.remove_reader(listener)
            await end(*tasks)
            for connection in new:
                connection.close()


@asynccontextmanager
async def listening(talk: Talk, port: int = 0, *, host: str = "127.0.0.1") -> AsyncGenerator[int]:
    """The same with streams: `talk` is called for each connection, which is closed when it returns."""

    async def serve(connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                await talk(reader, writer)
                writer.close()
                await writer.wait_closed()
            except ConnectionError:
                writer.close()  # it is gone: Python 3.11.2 fails where one that is gone is broken off
                raise
            except BaseException:
                writer.transport.abort()
                raise

    async with accepting(serve, port, host=host) as listening_at:
        yield listening_at
