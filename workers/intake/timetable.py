"""When requests come again that are given back unstarted, because others are to be seen that lie behind them.

JetStream serves what is due again before what is new (nats-server 2.15, `getNextMsg`). So the requests of a flood are
told to come again one after the other, at a pace that costs a worker a few percent of a core, and those of others,
which are new, find the way free. The pace is above what one worker can start, so no slot waits for it.
"""

from math import ceil

from workers.clock import Clock

COME_AGAIN_PER_S = 500
"""Requests of all tenants together that come again to one worker, which starts some 300 a second at most."""
BYTES_AGAIN_PER_S = 32 * 1024 * 1024
SOONEST_S, LATEST_S = 0.25, 60.0
"""No flood waits longer than that for a slot that has become free."""
_GRID_S = 0.1
"""The server looks through everything that it has given out whenever something is due; so it is due together."""


class Timetable:
    """The times at which requests of each tenant come again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}
        """When the last request of a tenant comes again."""

    def delay_s(self, tenant: str, *, size: int) -> float:
        """After how many seconds the next request of a tenant comes again; `size` in bytes."""
        now = self._clock.monotonic()
        self._last = {each: due for each, due in self._last.items() if due > now}
        due = max(self._last.get(tenant, 0), now + SOONEST_S)
        self._last[tenant] = due  # so that this tenant is one of those who share the pace
        due += len(self._last) * max(1 / COME_AGAIN_PER_S, size / BYTES_AGAIN_PER_S)
        self._last[tenant] = min(due, now + LATEST_S)
        return ceil(self._last[tenant] / _GRID_S) * _GRID_S - now
