"""Connections that are idle, to be used again: the last one first, and none for long."""

import asyncio
from collections import OrderedDict
from typing import NamedTuple

from runtime.egress import IDLE_CONNECTION_S, MAX_CONNECTIONS, MAX_IDLE_CONNECTIONS
from workers.providers.shared.http.connection import Connection
from workers.providers.shared.http.request import Origin


class Destination(NamedTuple):
    """Whose connection it is, and where it leads: no tenant uses one of another."""

    origin: Origin
    tenant: str


class IdleConnections:
    """What each of these does takes as long with one connection as with all."""

    def __init__(
        self, *, idle_s: float = IDLE_CONNECTION_S, most: int = MAX_CONNECTIONS, most_of_one: int = MAX_IDLE_CONNECTIONS
    ) -> None:
        """`most`: in all; `most_of_one`: to one destination. What is beyond closes the one that is idle longest."""
        self._idle_s = idle_s
        self._most = most
        self._most_of_one = most_of_one
        self._all: OrderedDict[Connection, tuple[Destination, float]] = OrderedDict()
        """With the time since which each is idle; the longest first."""
        self._of: dict[Destination, OrderedDict[Connection, None]] = {}
        self._sweeps: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def put(self, connection: Connection, destination: Destination) -> None:
        loop = asyncio.get_running_loop()
        of_one = self._of.setdefault(destination, OrderedDict())
        of_one[connection] = None
        self._all[connection] = destination, loop.time()
        if len(of_one) > self._most_of_one:
            self._close(next(iter(of_one)))
        elif len(self._all) > self._most:
            self._close(next(iter(self._all)))
        if self._sweeps is None:
            self._sweeps = loop.call_later(self._idle_s, self._sweep)

    def take(self, destination: Destination) -> Connection | None:
        """The one that was used last; None when there is none on which a request may be sent."""
        while of_one := self._of.get(destination):
            connection = next(reversed(of_one))
            self.discard(connection)
            if connection.is_quiet:
                return connection
            connection.close()
        return None

    def discard(self, connection: Connection) -> None:
        """Forgets a connection, if it is idle."""
        if (known := self._all.pop(connection, None)) is None:
            return
        of_one = self._of[known[0]]
        del of_one[connection]
        if not of_one:
            del self._of[known[0]]

    def close(self) -> None:
        if self._sweeps is not None:
            self._sweeps.cancel()
            self._sweeps = None
        while self._all:
            self._close(next(iter(self._all)))

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeps = None
        while self._all:
            connection, (_, since) = next(iter(self._all.items()))
            if since + self._idle_s > loop.time():
                self._sweeps = loop.call_at(since + self._idle_s, self._sweep)
                return
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self.discard(connection)
        connection.close()
