"""The floor: a process that passes bytes on and looks at none of them.

    python -m benchmarks.load.relay --port 18081 --to 18080

It is no gateway. It shows what one more process in the path costs on the machine, whatever that process does.
"""

import argparse
import asyncio
import gc
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One of the two connections of a caller; what comes before the other one is there waits for it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._other: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def join(self, other: asyncio.Transport) -> None:
        self._other = other
        other.writelines(self._early)

    def data_received(self, data: bytes) -> None:
        if self._other:
            self._other.write(data)
        else:
            self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._other:
            self._other.close()


class Front(Side):
    """The caller's side, which connects to the vendor."""

    def __init__(self, to: int) -> None:
        super().__init__()
        self._to = to

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect(), name="connect to the vendor")

    async def _connect(self) -> None:
        back = Side()
        await asyncio.get_running_loop().create_connection(lambda: back, "127.0.0.1", self._to)
        assert self.transport
        assert back.transport
        back.join(self.transport)
        self.join(back.transport)


async def main(port: int, to: int) -> None:
    """Serves on 127.0.0.1 until the process ends."""
    server = await asyncio.get_running_loop().create_server(lambda: Front(to), "127.0.0.1", port, backlog=4096)
    gc.freeze()
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True, help="the vendor's port")
    options = parser.parse_args()
    uvloop.run(main(options.port, options.to))
