"""One client for each endpoint, key and tenant: made when it is first needed, closed when it was not for a while."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from contracts.errors import AuthenticationFailed, NoProvider
from runtime.egress import IDLE_CONNECTION_S, forbidden_address

UNUSED_S = float(IDLE_CONNECTION_S)
"""Seconds after which an unused client is closed: no connection of one is kept for longer anyway."""


class Closable(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


@dataclass(slots=True)
class _Slot(Generic[C]):
    client: C
    users: int = 0
    closes: asyncio.TimerHandle | None = None


class ClientPool(Generic[C]):
    """Clients by base URL, key and tenant. A key that was rotated leaves its client unused, so that it goes soon after
    the last stream."""

    def __init__(self, make: Callable[[str, str, str], C], *, unused_s: float = UNUSED_S) -> None:
        self._make = make
        """Makes a client from a base URL, a key and a tenant."""
        self._unused_s = unused_s
        self._slots: dict[tuple[str, str, str], _Slot[C]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def client(self, base_url: str, key: str, tenant: str) -> AsyncGenerator[C]:
        """Raises NoProvider when the client was kept from an address that is not allowed: to try again is no use."""
        where = (base_url, key, tenant)
        slot = self._slots.get(where)
        if slot is None:
            slot = self._slots[where] = _Slot(self._make(*where))
        slot.users += 1
        if slot.closes is not None:
            slot.closes.cancel()
        try:
            yield slot.client
        except Exception as exc:
            if forbidden := forbidden_address(exc):
                raise NoProvider(str(forbidden)) from exc
            raise
        finally:
            slot.users -= 1
            if not slot.users:
                slot.closes = asyncio.get_running_loop().call_later(self._unused_s, self._close, where)

    def __len__(self) -> int:
        return len(self._slots)

    async def aclose(self) -> None:
        for where in list(self._slots):
            self._close(where)
        await asyncio.gather(*self._closing)

    def _close(self, where: tuple[str, str, str]) -> None:
        if (slot := self._slots.pop(where, None)) is None:
            return
        if slot.closes is not None:
            slot.closes.cancel()
        task = asyncio.create_task(slot.client.close(), name="close vendor client")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def usable_key(key: str, *, provider: str) -> str:
    """`key`, if a header can hold it. Raises AuthenticationFailed."""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise AuthenticationFailed(
            f"the stored key for {provider} holds characters that no key has; store it anew", provider=provider
        )
    return key
