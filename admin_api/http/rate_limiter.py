"""How often something may happen, for each of many keys, in bounded memory.

This is the generic cell rate algorithm (GCRA) as ITU-T Recommendation I.371 describes it, by virtual scheduling. Of
each key one number is kept, its theoretical arrival time: when its next request would come if requests came evenly. A
request may come earlier than that by at most the burst tolerance. The tolerance here is a whole period, so a key may
use up its limit at once, and gets it back evenly.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import floor

_ROUNDING_S = 1e-6
"""Sums of floats differ by less than this from the exact ones; a limit of 3 in 60 s must not become 2."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a key may still do, and whether the request that was asked about may be made."""

    allowed: bool
    remaining: int
    """How many requests could follow at once."""
    retry_after_s: float
    """Until the next request would be allowed; 0 when it would be at once."""
    reset_s: float
    """Until the whole limit is there again."""


class RateLimiter:
    """Allows each key `limit` requests in `period_s`.

    At most `keys` keys are remembered. Beyond them the one that was allowed nothing for the longest is forgotten, and
    begins anew.
    """

    def __init__(
        self, *, limit: int, period_s: float = 60, keys: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit = limit
        self.period_s = period_s
        self._interval_s = period_s / limit
        self._keys = keys
        self._clock = clock
        self._arrives_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._arrives_at)

    def take(self, key: str) -> Quota:
        """Asks for one request, and counts it when it is allowed."""
        return self._ask(key, count=True)

    def peek(self, key: str) -> Quota:
        """Whether a request would be allowed now, without counting one."""
        return self._ask(key, count=False)

    def _ask(self, key: str, *, count: bool) -> Quota:
        now = self._clock()
        # How much earlier than its theoretical arrival time a request would come now. It is the part of the period that
        # is used up: 0 when the whole limit is there.
        early_s = max(self._arrives_at.get(key, now) - now, 0)
        allowed = early_s + self._interval_s <= self.period_s + _ROUNDING_S
        if allowed and count:
            self._arrives_at[key] = now + early_s + self._interval_s
            self._arrives_at.move_to_end(key)
            if len(self._arrives_at) > self._keys:
                self._arrives_at.popitem(last=False)
            early_s += self._interval_s
        left_s = self.period_s - early_s
        return Quota(
            allowed=allowed,
            remaining=max(floor((left_s + _ROUNDING_S) / self._interval_s), 0),
            retry_after_s=max(self._interval_s - left_s, 0),
            reset_s=early_s,
        )
