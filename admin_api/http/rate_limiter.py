"""How often something may happen, for each of many keys, in bounded memory.

The generic cell rate algorithm (ITU-T I.371): one time for each key says when its next turn would be, had it come
evenly; a turn may come early by as much as a whole period, so a burst may use up the limit at once.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import floor

_ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True)
class Turn:
    """Whether it is a key's turn."""

    granted: bool
    remaining: int
    """How many could follow at once."""
    wait_s: float
    """Until the next one would be granted; 0: at once."""
    reset_s: float
    """Until the whole limit is there again."""


class Pace:
    """`limit` turns in `period_s`, for each key. Beyond `keys` of them the one that had no turn for the longest is
    forgotten, and begins anew.
    """

    def __init__(
        self, *, limit: int, period_s: float = 60, keys: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit = limit
        self.period_s = period_s
        self._interval_s = period_s / limit
        self._keys = keys
        self._clock = clock
        self._free_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._free_at)

    def take(self, key: str) -> Turn:
        """A turn, which is used up when it is granted."""
        now = self._clock()
        used_s = self._used_s(key, now)
        if not self._granted(used_s):
            return self._turn(used_s, granted=False)
        self._free_at[key] = now + used_s + self._interval_s
        self._free_at.move_to_end(key)
        if len(self._free_at) > self._keys:
            self._free_at.popitem(last=False)
        return self._turn(used_s + self._interval_s, granted=True)

    def look(self, key: str) -> Turn:
        """Whether a turn would be granted now; none is used up."""
        used_s = self._used_s(key, self._clock())
        return self._turn(used_s, granted=self._granted(used_s))

    def _used_s(self, key: str, now: float) -> float:
        return max(self._free_at.get(key, now) - now, 0)

    def _granted(self, used_s: float) -> bool:
        return used_s + self._interval_s <= self.period_s + _ROUNDING_S

    def _turn(self, used_s: float, *, granted: bool) -> Turn:
        left_s = self.period_s - used_s
        return Turn(
            granted=granted,
            remaining=max(floor((left_s + _ROUNDING_S) / self._interval_s), 0),
            wait_s=max(self._interval_s - left_s, 0),
            reset_s=used_s,
        )
