"""Evaluates alerts, beside the booking: takes what was counted, judges what it touched, raises and resolves.

Every consumer tries once a second; the one that gets the lock does it for all. A round is one transaction, so a
consumer that dies leaves everything to the next. What is judged are levels and not changes: a round that is missed is
made up for by the next one.
"""

import logging
import time
from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.health import OpenCircuit
from contracts.notices import NoticeKind
from migrations.outages import DatabaseUnavailable, outages_as_unavailable
from runtime.tasks import every
from workers.clock import Clock
from workers.usage.alerts import conditions, measures, metrics, transitions, windows
from workers.usage.alerts.alert_counts import AlertCounts, TenantDay
from workers.usage.alerts.budget_stops import BudgetStops
from workers.usage.alerts.circuits import Circuits
from workers.usage.alerts.conditions import Condition, ModelKey, ProviderKey, Scope, Thresholds, Verdict
from workers.usage.alerts.measures import Usual

log = logging.getLogger(__name__)

EVERY_S = 1.0
RESOLVE_EVERY_S = 10.0
"""How often conditions are judged that nothing new was counted for: time alone may have ended them."""
_LOCK = int.from_bytes(b"alerts")


class Evaluator:
    """Raises and resolves alerts for all consumers, as long as it is the one that holds the lock of a round."""

    def __init__(
        self,
        engine: AsyncEngine,
        circuits: Circuits,
        thresholds: Thresholds,
        *,
        clock: Clock,
        stops: BudgetStops | None = None,
    ) -> None:
        """`stops`: None where budgets' stops are another's to tell."""
        self._engine = engine
        self._circuits = circuits
        self._stops = stops
        self._thresholds = thresholds
        self._clock = clock
        self._usual = Usual()
        self._all_judged_at: float | None = None

    async def keep_evaluating(self) -> None:
        """A round each second, for ever."""
        await every(
            EVERY_S,
            self._round,
            log=log,
            failure_event="alerts_not_evaluated",
            expected=(DatabaseUnavailable,),
            sleep=self._clock.sleep,
        )

    async def _round(self) -> float | None:
        """Returns 0 when the next round is due at once."""
        started = time.perf_counter()
        try:
            with outages_as_unavailable():
                more = await self.evaluate()
        except Exception:
            metrics.EVALUATIONS.labels("failed").inc()
            raise
        metrics.EVALUATIONS.labels("done").inc()
        metrics.EVALUATION_SECONDS.observe(time.perf_counter() - started)
        return 0.0 if more else None

    async def evaluate(self) -> bool:
        """One round, unless another consumer is at it. Returns whether more was counted than one round takes."""
        now = self._clock.now()
        async with self._engine.begin() as connection:
            if not await connection.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
                return False
            counted, batches = await windows.take(connection)
            await windows.add(connection, counted.windows)
            unresolved = await transitions.unresolved(connection)
            scopes = touched_by(counted)
            now_s = self._clock.monotonic()
            judge_all = self._all_judged_at is None or now_s - self._all_judged_at >= RESOLVE_EVERY_S
            if judge_all:
                scopes |= {scope for condition in unresolved if (scope := condition.scope)}
                await windows.fold(connection, now=now)
            circuits = self._circuits.known()
            stops = self._stops.known() if self._stops else None
            verdicts = await self._judge(connection, scopes, circuits or (), now=now)
            stopped = conditions.of_budget_stops(stops or (), now=now)
            verdicts |= {verdict.condition: verdict for verdict in stopped}
            raised = [v for v in verdicts.values() if v.begins and v.condition not in unresolved]
            raised = [v for v in raised if await transitions.raise_(connection, v, now=now)]
            # An alert whose condition was not judged in this round stays as it is. One without a scope is about what
            # workers tell, and none of those was judged while nobody knows what they tell.
            told = {NoticeKind.PROVIDER_UNAVAILABLE: circuits, NoticeKind.BUDGET_STOPS: stops}
            judged = [c for c in unresolved if (c.scope in scopes if c.scope else told[c.kind] is not None)]
            over = [c for c in judged if (verdict := verdicts.get(c)) is None or not verdict.lasts]
            for condition in over:
                await transitions.resolve(connection, unresolved[condition], now=now)
        _tell([verdict.condition for verdict in raised], over, unresolved=len(unresolved))
        if judge_all:
            self._all_judged_at = now_s
        return batches == windows.BATCHES_AT_ONCE

    async def _judge(
        self, connection: AsyncConnection, scopes: Collection[Scope], circuits: Iterable[OpenCircuit], *, now: datetime
    ) -> dict[Condition, Verdict]:
        """The verdicts on these scopes and on these circuits. A scope that nothing is known of has none."""
        days = [scope for scope in scopes if isinstance(scope, TenantDay)]
        providers = [scope for scope in scopes if isinstance(scope, ProviderKey)]
        models = [scope for scope in scopes if isinstance(scope, ModelKey)]
        verdicts: list[Verdict] = []
        for spending in await measures.spending(connection, days):
            verdicts += conditions.of_spending(spending, self._thresholds, now=now)
        for health in await measures.health(connection, providers, now=now):
            verdicts += conditions.of_health(health, self._thresholds, now=now)
        for latency in await measures.latency(connection, models, self._usual, now=now):
            verdicts += conditions.of_latency(latency, self._thresholds, now=now)
        verdicts += conditions.of_circuits(circuits, now=now)
        return {verdict.condition: verdict for verdict in verdicts}


def touched_by(counted: AlertCounts) -> set[Scope]:
    """Where something new was counted, so that conditions may have begun or ended."""
    return {
        *counted.days,
        *(ProviderKey(*key[:2]) for key in counted.windows),
        *(ModelKey(*key[:3]) for key in counted.windows),
    }


def _tell(raised: Collection[Condition], resolved: Collection[Condition], *, unresolved: int) -> None:
    """Logs and counts what has changed; `unresolved` is how many alerts were so before."""
    for what, which in (("raised", raised), ("resolved", resolved)):
        for condition in which:
            metrics.TRANSITIONS.labels(condition.kind, what).inc()
            facts = {"kind": condition.kind, "tenant": condition.tenant, "about": condition.about}
            log.info(f"alert_{what}", extra=facts)
    metrics.UNRESOLVED.set(unresolved + len(raised) - len(resolved))
