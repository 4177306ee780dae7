"""Which requests are to stop: those that run here, and those that this worker may still be given.

The stream knows every cancel of the last hour, tenant by tenant. A worker reads those of a tenant when its first
request comes, and from then on adds what it hears (cancel_feed.py). Memory is bounded for each tenant and in all: of a
tenant that has no room, and while nothing is heard, the stream is read again when a request starts.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from functools import partial
from types import TracebackType

import nats.errors

from contracts.streams import CANCELS_KEPT_PER_TENANT, CANCELS_KEPT_S
from runtime.tasks import end
from workers.clock import Clock
from workers.interruption import Interruption, Reason

log = logging.getLogger(__name__)

_MOST_IDS = 200_000
"""Of all tenants together, some 200 bytes each. Beyond it the tenant with most of them is forgotten."""
_MOST_TENANTS = 10_000
_READ_AT_ONCE = 8

ReadStored = Callable[[str], AsyncGenerator[tuple[str, datetime]]]
"""From a tenant to the ids in its stored cancels, oldest first, and when each was stored. Raises nats.errors.Error and
TimeoutError."""


class _Cancelled:
    """The cancelled ids of one tenant, as hashes, and until when each counts. Times are monotonic."""

    def __init__(self) -> None:
        self.is_complete = False
        """Whether the stored cancels are among them."""
        self._until: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, request_id: str, *, until: float) -> None:
        key = hash(request_id)
        self._until.pop(key, None)
        self._until[key] = until
        if len(self._until) > CANCELS_KEPT_PER_TENANT:
            self._until.popitem(last=False)

    def add_older(self, older: list[tuple[str, float]]) -> None:
        """What was read, oldest first, while newer ones were heard."""
        heard, self._until = self._until, OrderedDict((hash(request_id), until) for request_id, until in older)
        self._until.update(heard)
        while len(self._until) > CANCELS_KEPT_PER_TENANT:
            self._until.popitem(last=False)

    def has(self, request_id: str, *, now: float) -> bool:
        return self._until.get(hash(request_id), now) > now


class Cancellations:
    """The cancels that this worker knows, and the requests that they may reach. `close` ends what is being read."""

    def __init__(self, clock: Clock, *, read_stored: ReadStored) -> None:
        self._clock = clock
        self._read_stored = read_stored
        self._running: dict[tuple[str, str], set[Interruption]] = {}
        self._hears = False
        self._known: OrderedDict[str, _Cancelled] = OrderedDict()
        """Of the tenants whose requests came, the one that was asked for last at the end."""
        self._ids = 0
        self._reading: dict[str, asyncio.Task[_Cancelled]] = {}
        """The one that is joined, by tenant."""
        self._readings = set[asyncio.Task[_Cancelled]]()
        self._turns = asyncio.Semaphore(_READ_AT_ONCE)

    @property
    def held(self) -> int:
        """How many cancelled ids are in memory."""
        return self._ids

    def watch(self, tenant: str, request_id: str, interruption: Interruption) -> "Watch":
        """For `async with`: while the block runs, a cancel reaches `interruption`; one of the last hour reaches it
        before.

        When the stream cannot be read, the block runs all the same; then an earlier cancel is found once it can.
        """
        return Watch(self, tenant, request_id, interruption)

    async def begin(self, tenant: str, request_id: str, interruption: Interruption) -> None:
        """For `Watch`."""
        self._running.setdefault((tenant, request_id), set()).add(interruption)
        known = self._known.get(tenant)
        if known is None or not known.is_complete:
            known = await asyncio.shield(self._read(tenant))
        else:
            self._known.move_to_end(tenant)
        if known.has(request_id, now=self._clock.monotonic()):
            interruption.request(Reason.CANCELLED)

    def end(self, tenant: str, request_id: str, interruption: Interruption) -> None:
        """For `Watch`."""
        watching = self._running[tenant, request_id]
        watching.discard(interruption)
        if not watching:
            del self._running[tenant, request_id]

    def cancel(self, tenant: str, request_id: str) -> None:
        """Stops the request if it runs here, and should it come later."""
        self._interrupt(tenant, request_id)
        if (known := self._known.get(tenant)) is not None:
            before = len(known)
            known.add(request_id, until=self._clock.monotonic() + CANCELS_KEPT_S)
            self._ids += len(known) - before
            self._make_room()

    def interrupt_all(self) -> None:
        """This worker stops; what runs is given to another."""
        for interruptions in self._running.values():
            for interruption in interruptions:
                interruption.request(Reason.DRAINING)

    async def hear(self) -> None:
        """`cancel` is called for every cancel from now on. Returns when those missed have reached what runs."""
        self._hears = True
        self._reading = {}  # what began before may have read past the place of a cancel that was missed
        if reading := [self._read(tenant) for tenant in {tenant for tenant, _ in self._running}]:
            await asyncio.wait(reading)  # requests wait for them as well, so they must not end with this

    def hear_no_more(self) -> None:
        """Cancels may be missed from now on, so what is known of the tenants is not all."""
        self._hears = False
        self._known.clear()
        self._ids = 0

    async def close(self) -> None:
        await end(*self._readings)

    def _read(self, tenant: str) -> asyncio.Task[_Cancelled]:
        """Once at the same time for each tenant."""
        if (reading := self._reading.get(tenant)) is None:
            reading = asyncio.create_task(self._read_once(tenant), name=f"read cancels of {tenant}")
            self._reading[tenant] = reading
            self._readings.add(reading)
            reading.add_done_callback(partial(self._forget_reading, tenant))
        return reading

    def _forget_reading(self, tenant: str, reading: asyncio.Task[_Cancelled]) -> None:
        self._readings.discard(reading)
        if self._reading.get(tenant) is reading:
            del self._reading[tenant]

    async def _read_once(self, tenant: str) -> _Cancelled:
        async with self._turns:
            known = _Cancelled()
            if self._hears:
                self._forget(tenant)
                self._known[tenant] = known  # what is heard meanwhile is added to it
            older: list[tuple[str, float]] = []
            is_complete = True
            try:
                async with aclosing(self._read_stored(tenant)) as stored:
                    async for request_id, stored_at in stored:
                        self._interrupt(tenant, request_id)
                        age_s = max(0.0, (self._clock.now() - stored_at).total_seconds())
                        older.append((request_id, self._clock.monotonic() + CANCELS_KEPT_S - age_s))
            except (nats.errors.Error, TimeoutError) as exc:
                log.warning("cancels_not_read", extra={"tenant": tenant, "error": type(exc).__name__})
                is_complete = False
            before = len(known)
            known.add_older(older)
            known.is_complete = is_complete
            if self._known.get(tenant) is known:
                self._ids += len(known) - before
                self._make_room()
            return known

    def _interrupt(self, tenant: str, request_id: str) -> None:
        for interruption in self._running.get((tenant, request_id), ()):
            interruption.request(Reason.CANCELLED)

    def _forget(self, tenant: str) -> None:
        if (known := self._known.pop(tenant, None)) is not None:
            self._ids -= len(known)

    def _make_room(self) -> None:
        """A tenant with many cancels goes before one that was not asked for lately."""
        while self._ids > _MOST_IDS:
            self._forget(max(self._known, key=lambda tenant: len(self._known[tenant])))
        while len(self._known) > _MOST_TENANTS:
            self._forget(next(iter(self._known)))


class Watch:
    """For the cancels of one request while it runs; made by `Cancellations.watch`."""

    def __init__(self, cancellations: Cancellations, tenant: str, request_id: str, interruption: Interruption) -> None:
        self._cancellations = cancellations
        self._of = tenant, request_id, interruption

    async def __aenter__(self) -> None:
        try:
            await self._cancellations.begin(*self._of)
        except BaseException:
            self._cancellations.end(*self._of)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._cancellations.end(*self._of)
