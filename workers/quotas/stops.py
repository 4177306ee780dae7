"""Whom a daily budget stopped of late, for the metrics and for the worker's sign of life, from which alerts are raised.

It is the least that a tenant's operators want to hear: nothing else tells that requests wait for a budget whose money
is kept free, and not spent.
"""

from collections import OrderedDict
from datetime import datetime, timedelta

from contracts.providers import BudgetStop, StopKind
from workers import telemetry
from workers.clock import Clock

_RECENT = timedelta(minutes=2)
MOST_TENANTS = 100
"""The sign of life has to fit into a message; the latest are told."""


class Stops:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: OrderedDict[str, tuple[StopKind, datetime]] = OrderedDict()

    def note(self, tenant: str, how: StopKind) -> None:
        """One request of the tenant was stopped."""
        telemetry.of(telemetry.BUDGET_STOPS, how).inc()
        self._last[tenant] = how, self._clock.now()
        self._last.move_to_end(tenant)
        if len(self._last) > MOST_TENANTS:
            self._last.popitem(last=False)

    def recent(self) -> tuple[BudgetStop, ...]:
        """The last stop of each tenant in the last minutes."""
        oldest = self._clock.now() - _RECENT
        while self._last and next(iter(self._last.values()))[1] < oldest:
            self._last.popitem(last=False)
        return tuple(BudgetStop(tenant=tenant, how=how, at=at) for tenant, (how, at) in self._last.items())
