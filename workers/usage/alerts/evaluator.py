"""Evaluates alerts, beside the booking: takes what was counted, judges what it touched, raises and resolves.

Every consumer tries once a second; the one that gets the lock does it for all. A round is one transaction, so a
consumer that dies leaves everything to the next. What is judged are levels and not changes: a round that is missed is
made up for by the next one.
"""

import logging
import time
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from migrations.engine import is_outage, one_line
from workers.clock import Clock
from workers.usage.alerts import conditions, measures, metrics, transitions, windows
from workers.usage.alerts.circuits import Circuits
from workers.usage.alerts.conditions import Condition, ModelKey, Place, ProviderKey, Thresholds, Verdict
from workers.usage.alerts.measures import Usual
from workers.usage.alerts.pulse import Pulse, TenantDay

log = logging.getLogger(__name__)

EVERY_S = 1.0
RESOLVE_EVERY_S = 10.0
"""How often conditions are judged that nothing new was counted for: time alone may have ended them."""
_LOCK = int.from_bytes(b"alerts")


class Evaluator:
    def __init__(self, engine: AsyncEngine, circuits: Circuits, thresholds: Thresholds, *, clock: Clock) -> None:
        self._engine = engine
        self._circuits = circuits
        self._thresholds = thresholds
        self._clock = clock
        self._usual = Usual()
        self._all_judged_at: float | None = None

    async def keep_evaluating(self) -> None:
        """Runs for ever."""
        while True:
            more = False
            started = time.perf_counter()
            try:
                more = await self.evaluate()
            except Exception as exc:  # the top of the loop: the next round does what this one did not
                metrics.EVALUATIONS.labels("failed").inc()
                if is_outage(exc):
                    log.warning("alerts_not_evaluated", extra={"error": one_line(exc)})
                else:
                    log.exception("alerts_not_evaluated")
            else:
                metrics.EVALUATIONS.labels("done").inc()
                metrics.EVALUATION_SECONDS.observe(time.perf_counter() - started)
            if not more:
                await self._clock.sleep(EVERY_S)

    async def evaluate(self) -> bool:
        """One round, unless another consumer is at it. Returns whether more was counted than one round takes."""
        now = self._clock.now()
        async with self._engine.begin() as connection:
            if not await connection.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
                return False
            pulse, batches = await windows.take(connection)
            await windows.add(connection, pulse.windows)
            unresolved = await transitions.unresolved(connection)
            places = touched_by(pulse)
            judge_all = self._is_time_for_all()
            if judge_all:
                places |= {place for condition in unresolved if (place := condition.place)}
                await windows.fold(connection, now=now)
            verdicts = await self._judge(connection, places, now=now)
            raised = [v for v in verdicts.values() if v.begins and v.condition not in unresolved]
            raised = [v for v in raised if await transitions.raise_(connection, v, now=now)]
            over = [c for c in unresolved if self._was_judged(c, places) and not _lasts(verdicts.get(c))]
            for condition in over:
                await transitions.resolve(connection, unresolved[condition], now=now)
        _note([verdict.condition for verdict in raised], over, unresolved=len(unresolved))
        if judge_all:
            self._all_judged_at = self._clock.monotonic()
        return batches == windows.PULSES_AT_ONCE

    def _is_time_for_all(self) -> bool:
        return self._all_judged_at is None or self._clock.monotonic() - self._all_judged_at >= RESOLVE_EVERY_S

    async def _judge(
        self, connection: AsyncConnection, places: Collection[Place], *, now: datetime
    ) -> dict[Condition, Verdict]:
        """Of a place that nothing is known of there is no verdict."""
        days = [place for place in places if isinstance(place, TenantDay)]
        providers = [place for place in places if isinstance(place, ProviderKey)]
        models = [place for place in places if isinstance(place, ModelKey)]
        verdicts: list[Verdict] = []
        for spending in await measures.spending(connection, days):
            verdicts += conditions.of_spending(spending, self._thresholds, now=now)
        for health in await measures.health(connection, providers, now=now):
            verdicts += conditions.of_health(health, self._thresholds, now=now)
        for latency in await measures.latency(connection, models, self._usual, now=now):
            verdicts += conditions.of_latency(latency, self._thresholds, now=now)
        verdicts += [conditions.of_circuit(circuit, now=now) for circuit in self._circuits.known() or ()]
        return {verdict.condition: verdict for verdict in verdicts}

    def _was_judged(self, condition: Condition, places: Collection[Place]) -> bool:
        place = condition.place
        return self._circuits.known() is not None if place is None else place in places


def touched_by(pulse: Pulse) -> set[Place]:
    return {
        *pulse.days,
        *(ProviderKey(*key[:2]) for key in pulse.windows),
        *(ModelKey(*key[:3]) for key in pulse.windows),
    }


def _lasts(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.lasts


def _note(raised: Collection[Condition], resolved: Collection[Condition], *, unresolved: int) -> None:
    for what, which in (("raised", raised), ("resolved", resolved)):
        for condition in which:
            metrics.TRANSITIONS.labels(condition.kind, what).inc()
            facts = {"kind": condition.kind, "tenant": condition.tenant, "about": condition.about}
            log.info(f"alert_{what}", extra=facts)
    metrics.UNRESOLVED.set(unresolved + len(raised) - len(resolved))
