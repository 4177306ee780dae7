"""How long an adapter waits for a vendor, and what it raises when it waited long enough."""

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

import httpx2

from contracts.errors import DeadlineExceeded, ProviderTimeout
from contracts.providers import Timeouts

LOOKUP_S = 15.0
"""The most seconds for calls that answer at once: models, health, token counts."""

T = TypeVar("T")


class TimeLimits:
    """The limits of one call, which starts when this is made. Time that the caller takes is not the vendor's.

    Raises DeadlineExceeded when no time is left to begin with.
    """

    def __init__(self, timeouts: Timeouts, *, time_left_s: float, provider: str) -> None:
        if time_left_s <= 0:
            raise DeadlineExceeded(f"the deadline passed before {provider} was called", provider=provider)
        self._loop = asyncio.get_running_loop()
        self._timeouts = timeouts
        self._provider = provider
        self.alive_at = math.inf
        """When something came last, by the loop's clock; infinite before anything has come."""
        self._deadline = self._loop.time() + time_left_s
        self._waits: asyncio.Timeout | None = None
        self.start()

    def hold(self) -> None:
        """Says that the call has not started: only the deadline counts, until `start`."""
        self._first_token_by = self._total_by = math.inf

    def start(self) -> None:
        """Says that the call starts only now, also for what is being waited for: the vendor's limits begin anew, the
        deadline stays."""
        now = self._loop.time()
        self._first_token_by = now + self._timeouts.first_token_s
        self._total_by = now + self._timeouts.total_s
        if self._waits is not None:
            self._waits.reschedule(min(self._first_token_by, self._total_by, self._deadline))

    def sign_of_life(self) -> None:
        """Says that something came, be it a ping: from now on the idle limit holds."""
        self.alive_at = self._loop.time()

    @property
    def _is_alive(self) -> bool:
        return self.alive_at != math.inf

    @property
    def ends_at(self) -> float:
        """When the call has taken too long, by the loop's clock, if nothing more comes."""
        next_by = self.alive_at + self._timeouts.idle_s if self._is_alive else self._first_token_by
        return min(next_by, self._total_by, self._deadline)

    def exceeded(self) -> ProviderTimeout | DeadlineExceeded:
        """Why the call ends at `ends_at`."""
        ends_at = self.ends_at
        if ends_at == self._deadline:
            text = f"the deadline passed while {self._provider} was answering"
            return DeadlineExceeded(text, provider=self._provider)
        if ends_at == self._total_by:
            failure = f"did not finish within {self._timeouts.total_s:g} s (total_s)"
        elif self._is_alive:
            failure = f"sent nothing for {self._timeouts.idle_s:g} s (idle_s)"
        else:
            failure = f"sent nothing within {self._timeouts.first_token_s:g} s (first_token_s)"
        return ProviderTimeout(f"{self._provider} {failure}", provider=self._provider)

    async def wait(self, what: Awaitable[T]) -> T:
        """What `what` returns. Raises ProviderTimeout, DeadlineExceeded."""
        if self._is_alive:
            self.sign_of_life()  # it was the caller that took its time
        timeout = self._waits = asyncio.timeout_at(self.ends_at)
        try:
            async with timeout:
                return await what
        except TimeoutError as exc:
            if not timeout.expired():
                raise
            raise self.exceeded() from exc
        finally:
            self._waits = None


def connect_timeout(timeouts: Timeouts) -> httpx2.Timeout:
    """What the HTTP client itself limits: connecting. Reads have no limit there, because only TimeLimits tells the
    first token, idling and the total apart."""
    return httpx2.Timeout(connect=timeouts.connect_s, pool=timeouts.connect_s, read=None, write=None)


def lookup_limits(timeouts: Timeouts, *, provider: str) -> TimeLimits:
    """The limits of a call that answers at once."""
    total_s = min(timeouts.total_s, LOOKUP_S)
    return TimeLimits(timeouts.model_copy(update={"total_s": total_s}), time_left_s=math.inf, provider=provider)
