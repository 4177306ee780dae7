"""An HTTP/1.1 client for the requests of adapters: to addresses that tenants name (runtime.egress), and with replies
that are passed on as they arrive.

A request is sent once. Only where nothing of it was given to a connection is another one made: what may have reached a
vendor may be paid for.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from runtime.egress import Egress, NotConnected
from workers.providers.shared.http.connection import Connection
from workers.providers.shared.http.framing import ConnectionBroken
from workers.providers.shared.http.pool import Destination, IdleConnections
from workers.providers.shared.http.reply import HttpReply
from workers.providers.shared.http.request import HttpRequest, encoded

__all__ = ["ConnectionBroken", "HttpClient", "HttpReply", "HttpRequest", "NotConnected"]


class HttpClient:
    """Keeps connections to each origin, for each tenant. Redirects are not followed, no proxy is used."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress
        self._idle = IdleConnections()
        self._connections: set[Connection] = set()
        """All that are open."""
        self._all_lost: asyncio.Future[None] | None = None

    async def send(
        self,
        request: HttpRequest,
        *,
        tenant: str,
        connect_s: float,
        may_send: Callable[[], Awaitable[None]] | None = None,
    ) -> HttpReply:
        """The reply, of which the head has come: to be closed, unless its body is read.

        `may_send` is awaited once, before the first byte is sent; where no connection is idle, one is made meanwhile.
        What it raises is raised.

        Raises NotConnected, also when there was no connection within `connect_s` seconds; ForbiddenAddress;
        ConnectionBroken when something was sent, and no head of a reply came; ValueError for a request that cannot be
        sent. The socket is closed when this is cancelled.
        """
        origin, head = encoded(request)
        destination = Destination(origin, tenant)
        connection = self._idle.take(destination)
        try:
            if connection is None and may_send is not None:
                connection = await self._connected_meanwhile(destination, connect_s, may_send)
            elif may_send is not None:
                await may_send()
        except BaseException:
            if connection is not None:
                self._put(destination, connection)
            raise
        if connection is None or not connection.is_open:
            connection = await self._connect(destination, connect_s)
        return await connection.send(head, request.body)

    async def aclose(self) -> None:
        """Closes all connections, also those on which a reply arrives."""
        self._idle.close()
        if not self._connections:
            return
        self._all_lost = asyncio.get_running_loop().create_future()
        for connection in list(self._connections):
            connection.close()
        await self._all_lost

    async def _connected_meanwhile(
        self, destination: Destination, connect_s: float, may_send: Callable[[], Awaitable[None]]
    ) -> Connection:
        """A new connection, made while leave to send is asked for."""
        connecting = asyncio.create_task(self._connect(destination, connect_s), name="connect")
        try:
            await may_send()
        except BaseException:
            connecting.cancel()
            await asyncio.wait([connecting])
            if not connecting.cancelled() and connecting.exception() is None:
                self._put(destination, connecting.result())
            raise
        try:
            return await connecting
        except BaseException:  # stopped in the very moment in which it was made
            if connecting.done() and not connecting.cancelled() and connecting.exception() is None:
                self._put(destination, connecting.result())
            raise

    async def _connect(self, destination: Destination, connect_s: float) -> Connection:
        origin, tenant = destination
        make = partial(
            Connection, self._egress.flow(tenant), on_idle=partial(self._put, destination), on_lost=self._lost
        )
        connection = await self._egress.connect(
            make, origin.host, origin.port, tls=origin.scheme == "https", timeout_s=connect_s
        )
        if connection.is_open:
            self._connections.add(connection)
        return connection

    def _put(self, destination: Destination, connection: Connection) -> None:
        if connection.is_open:
            self._idle.put(connection, destination)

    def _lost(self, connection: Connection) -> None:
        self._idle.discard(connection)
        self._connections.discard(connection)
        if self._all_lost is not None and not self._connections and not self._all_lost.done():
            self._all_lost.set_result(None)
