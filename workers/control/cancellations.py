"""Which requests are to stop: those that run here, and those that this worker may still be given.

A cancel reaches every worker at once, but the request may still be in the queue; so each worker remembers the ids for
as long as a request may live.
"""

from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager

from contracts.requests import DEFAULT_DEADLINE_S
from workers.clock import Clock
from workers.interruption import Interruption, Reason

_MOST_REMEMBERED = 100_000

_Id = tuple[str, str]


class Cancellations:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: dict[_Id, set[Interruption]] = {}
        self._remembered: OrderedDict[_Id, float] = OrderedDict()

    @contextmanager
    def watch(self, tenant: str, request_id: str, interruption: Interruption) -> Generator[None]:
        """While the block runs, a cancel reaches `interruption`; one that came before reaches it at once."""
        this = (tenant, request_id)
        self._running.setdefault(this, set()).add(interruption)
        self._forget_old()
        if this in self._remembered:
            interruption.request(Reason.CANCELLED)
        try:
            yield
        finally:
            watching = self._running[this]
            watching.discard(interruption)
            if not watching:
                del self._running[this]

    def cancel(self, tenant: str, request_id: str) -> None:
        """Stops the request if it runs here, and should it come later."""
        this = (tenant, request_id)
        self._remembered[this] = self._clock.monotonic()
        self._forget_old()
        for interruption in self._running.get(this, ()):
            interruption.request(Reason.CANCELLED)

    def interrupt_all(self) -> None:
        """This worker stops; what runs is given to another."""
        for interruptions in self._running.values():
            for interruption in interruptions:
                interruption.request(Reason.DRAINING)

    def _forget_old(self) -> None:
        oldest_kept = self._clock.monotonic() - DEFAULT_DEADLINE_S
        while self._remembered:
            this, at = next(iter(self._remembered.items()))
            if at >= oldest_kept and len(self._remembered) <= _MOST_REMEMBERED:
                return
            del self._remembered[this]
