"""A TCP proxy on loopback whose connections a test cuts, makes lead nowhere, or refuses."""

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from fleet.simulator.tcp import listening

_CHUNK = 64 * 1024


class Proxy:
    """`async with Proxy(port) as proxy:` passes what arrives at `proxy.port` on to 127.0.0.1:`port`, and back."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self.port = 0
        self.refusing = False
        """While true, whoever connects is hung up on at once."""
        self._stack = AsyncExitStack()
        self._links: set[_Link] = set()

    def cut(self) -> int:
        """Resets every connection; how many there were."""
        links = list(self._links)
        for link in links:
            link.abort()
        return len(links)

    def black_hole(self) -> int:
        """From now on nothing that is sent on the connections there are arrives, and neither end is told.

        New connections work. How many there were.
        """
        for link in self._links:
            link.leads_nowhere = True
        return len(self._links)

    async def __aenter__(self) -> Self:
        self.port = await self._stack.enter_async_context(listening(self._serve))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, far_writer)
        self._links.add(link)
        try:
            await asyncio.gather(link.pass_on(reader, far_writer), link.pass_on(far_reader, writer))
        finally:
            self._links.discard(link)
            link.abort()


class _Link:
    """Two connections that are one to those at their ends."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._ends = (near, far)
        self.leads_nowhere = False

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until `reader` ends; then both ends are closed, unless nothing gets through any more."""
        try:
            while data := await reader.read(_CHUNK):
                if not self.leads_nowhere:
                    writer.write(data)
                    await writer.drain()
        except ConnectionError:
            self.abort()
        if not self.leads_nowhere:
            for end in self._ends:
                end.close()

    def abort(self) -> None:
        for end in self._ends:
            end.transport.abort()
