"""One client for each endpoint and key: made when it is first needed, closed when nobody needed it for a while."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from contracts.errors import AuthenticationFailed, NoProvider
from runtime.egress import forbidden_address

UNUSED_S = 600.0


class Closable(Protocol):
    def close(self) -> Awaitable[None]: ...


C = TypeVar("C", bound=Closable)


@dataclass(slots=True)
class _Slot(Generic[C]):
    client: C
    users: int = 0
    last_used: float = 0.0


class ClientPool(Generic[C]):
    """A key that was rotated leaves its client unused, so that it goes."""

    def __init__(self, make: Callable[[str, str], C], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        """From base URL and key."""
        self._clock = clock
        self._slots: dict[tuple[str, str], _Slot[C]] = {}

    @asynccontextmanager
    async def client(self, base_url: str, key: str) -> AsyncGenerator[C]:
        """Raises NoProvider when the client was kept from an address that is not allowed: to try again is no use."""
        slot = self._slots.get((base_url, key))
        if slot is None:
            slot = self._slots[base_url, key] = _Slot(self._make(base_url, key))
        slot.users += 1
        try:
            yield slot.client
        except Exception as exc:
            if forbidden := forbidden_address(exc):
                raise NoProvider(str(forbidden)) from exc
            raise
        finally:
            slot.users -= 1
            slot.last_used = self._clock()
            await self._close([where for where, slot in self._slots.items() if self._unused(slot)])

    def __len__(self) -> int:
        return len(self._slots)

    async def aclose(self) -> None:
        await self._close(list(self._slots))

    def _unused(self, slot: _Slot[C]) -> bool:
        return not slot.users and self._clock() - slot.last_used > UNUSED_S

    async def _close(self, which: list[tuple[str, str]]) -> None:
        for slot in [self._slots.pop(where) for where in which]:
            await slot.client.close()


def usable_key(key: str, *, provider: str) -> str:
    """`key`, which a header can hold. Raises AuthenticationFailed."""
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise AuthenticationFailed(
            f"the stored key for {provider} holds characters that no key has; store it anew", provider=provider
        )
    return key
