"""Holds tenants to their limits: counts a request before anything is done for it, and tokens after they were used.

Counting comes before checking, so that of any number of requests at the same time exactly as many start as the limit
says; the day takes a refused one back. When the counters do not answer, requests start all the same: a limit bounds
spending, it is no reason to stop the fleet.
"""

import logging
from datetime import datetime
from typing import NoReturn

from contracts import subjects
from contracts.providers import Limits, PublishedTenant
from contracts.usage import Usage
from runtime.broker import Broker
from workers import telemetry
from workers.clock import Clock
from workers.jetstream.counters import Asked, Counters, Unanswered
from workers.quotas.rate_limits import Count, Limit, Unit, in_force, longest_exceeded, refusal, window

log = logging.getLogger(__name__)

COUNTERS_ANSWER_WITHIN_S = 1.0
"""How long a request waits for the counters before it starts without them."""


class RateLimiter:
    def __init__(self, broker: Broker, *, defaults: Limits, clock: Clock) -> None:
        self._counters = Counters(broker, within_s=COUNTERS_ANSWER_WITHIN_S)
        self._defaults = defaults
        self._clock = clock
        self._used_up: dict[str, Count] = {}
        """The count that refuses all requests of a tenant until its window ends: a flood costs the counters nothing."""
        self._answered = True

    async def admit(self, tenant: PublishedTenant, *, key: str, delivered_before: bool = False) -> None:
        """`key` names the request, so that it counts once. Raises TenantRateLimited.

        One that was counted and delivered again is in: whoever is refused is told so at once.
        """
        limits = in_force(tenant.limits, self._defaults)
        if not limits:
            return
        now = self._clock.now()
        windows = {limit: window(limit.span, now) for limit in limits}
        if not delivered_before:
            self.check_used_up(tenant)
        asked = [(limit, await self._ask(tenant.slug, limit, windows[limit], key=key)) for limit in limits]
        counted = [await self._count(limit, windows[limit], counter) for limit, counter in asked]
        counts = [count for count in counted if count is not None]
        if (exceeded := longest_exceeded(counts, now)) is None:
            return
        if exceeded.exceeded_for_good:
            self._used_up[tenant.slug] = exceeded
        for count in counts:
            if count.limit.takes_back:
                await self._post(tenant.slug, count.limit, count.window, -1, msg_id=f"{_msg_id(count.limit, key)}-back")
        self._refuse(tenant.slug, exceeded.limit, now)

    async def take_back(self, tenant: PublishedTenant, *, key: str, at: datetime) -> None:
        """The request that was admitted at that time under this key turned out to be none."""
        self._used_up.pop(tenant.slug, None)
        for limit in in_force(tenant.limits, self._defaults):
            if limit.unit is Unit.REQUESTS:
                await self._post(tenant.slug, limit, window(limit.span, at), -1, msg_id=f"{_msg_id(limit, key)}-back")

    def has_refused(self, tenant: str) -> bool:
        """Whether `check_used_up` may refuse a request of the tenant."""
        return tenant in self._used_up

    def check_used_up(self, tenant: PublishedTenant) -> None:
        """Refuses what can be refused without counting it. Raises TenantRateLimited."""
        used_up, now = self._used_up.get(tenant.slug), self._clock.now()
        if used_up is None:
            return
        if (
            used_up.limit in in_force(tenant.limits, self._defaults)
            and window(used_up.limit.span, now) == used_up.window
        ):
            self._refuse(tenant.slug, used_up.limit, now)
        del self._used_up[tenant.slug]

    def _refuse(self, tenant: str, limit: Limit, now: datetime) -> NoReturn:
        telemetry.REFUSALS.labels(limit.name).inc()
        raise refusal(tenant, limit, now)

    async def count_tokens(self, tenant: PublishedTenant, usage: Usage, *, key: str) -> None:
        """Books what an attempt used, for the requests that come after. `key` names the attempt."""
        amount = usage.input_tokens + usage.output_tokens
        for limit in in_force(tenant.limits, self._defaults):
            if limit.unit is Unit.TOKENS and amount:
                now = self._clock.now()
                await self._post(tenant.slug, limit, window(limit.span, now), amount, msg_id=_msg_id(limit, key))

    async def _ask(self, tenant: str, limit: Limit, in_window: str, *, key: str) -> Asked | Unanswered:
        """Asks the limit's counter, and does not wait for the answer: all are asked before one is waited for."""
        subject = subjects.limit(limit.unit, tenant, in_window)
        try:
            if limit.unit is Unit.REQUESTS:
                return await self._counters.begin(subject, 1, msg_id=_msg_id(limit, key))
            return await self._counters.begin(subject, 0)
        except Unanswered as exc:
            return exc

    async def _count(self, limit: Limit, in_window: str, asked: Asked | Unanswered) -> Count | None:
        """None when the counter has no objection: it has this request already, or does not answer."""
        try:
            if isinstance(asked, Unanswered):
                raise asked
            total = await asked.total()
        except Unanswered as exc:
            telemetry.UNCHECKED_LIMITS.labels(limit.name).inc()
            self._note_unchecked(str(exc))
            return None
        if not self._answered:
            log.warning("limits_checked_again")
        self._answered = True
        return None if total is None else Count(limit, in_window, total)

    async def _post(self, tenant: str, limit: Limit, in_window: str, amount: int, *, msg_id: str) -> None:
        try:
            await self._counters.post(subjects.limit(limit.unit, tenant, in_window), amount, msg_id=msg_id)
        except Unanswered as exc:
            self._note_unchecked(str(exc))

    def _note_unchecked(self, reason: str) -> None:
        """Says once that limits are not kept, until they are again."""
        if self._answered:
            log.warning("limits_unchecked", extra={"reason": reason})
        self._answered = False


def _msg_id(limit: Limit, key: str) -> str:
    """The id by which JetStream drops a second count of the same thing."""
    return f"{limit.name}-{key}"
