"""Hard daily budgets: what a call can cost at most is kept free before it is made, and settled when it is booked.

One counter for each tenant and day holds what was spent and what is kept free; whoever adds to it learns the total, so
no number of calls at the same time can overrun it. Beside it each call leaves a hold, by which another worker settles
what a dead one left behind. Every step has a message id of its own and counts once.

A request that does not say how long its answer may be gets what is left, and its answer is bounded by that. One that
finds too little left waits while calls under way may yet give something back, and is refused when there are none.
"""

import asyncio
import itertools
import logging
import math
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal

from contracts import subjects
from contracts.budget import UNITS_PER_USD, Hold
from contracts.errors import BudgetExceeded, DeadlineExceeded
from contracts.providers import Price, PublishedTenant
from contracts.requests import CompletionRequest
from contracts.usage import UsageRecord
from runtime.broker import Broker
from runtime.jetstream.publishing import NotStored, Publisher
from runtime.tasks import end
from workers import telemetry
from workers.clock import Clock
from workers.intake.waiting_room import WaitingRoom
from workers.interruption import Interruption
from workers.jetstream.counters import INCREMENT, Counters, Unanswered
from workers.jetstream.signal import Signal, wait_for
from workers.quotas.cost_bounds import bounds_its_output, upper_bound
from workers.quotas.holds import Holds
from workers.quotas.rate_limits import Span, left_s

log = logging.getLogger(__name__)

LEAST_OUTPUT_TOKENS = 256
"""An answer that is bounded by what is left of the budget is not bounded shorter than this."""
_ANSWER_S = 5.0
_STEPS_KNOWN = timedelta(minutes=9)
"""A bit less than the duplicate window of the counters' stream."""
_LOOK_S = 0.5
"""Who waits for another worker's calls to be settled looks again this often."""


class _HeldUp(Exception):
    """Too little is left now, but calls are under way that may give something back."""


@dataclass(frozen=True, slots=True)
class BudgetedCall:
    """A call that is about to be made."""

    request: CompletionRequest
    provider: str
    model: str
    at: datetime
    deadline: datetime

    def most(self, prices: Mapping[str, Price], *, max_tokens: int | None = None) -> int | None:
        """Units that it can cost, with an answer as long as the request says or as `max_tokens`."""
        request = self.request if max_tokens is None else self.request.model_copy(update={"max_tokens": max_tokens})
        bound = upper_bound(request, provider=self.provider, model=self.model, at=self.at, overrides=prices)
        return None if bound is None else units(bound)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a call needs, in units."""

    whole: int
    """The most that it can cost."""
    least: int
    """With the shortest answer that it can be bounded to; as `whole` when the request says how long it may be."""


@dataclass(frozen=True, slots=True)
class Reservation:
    hold: Hold
    max_tokens: int | None
    """What the answer is bounded to, because less than the whole was left; None: as the request says."""


@dataclass(slots=True)
class _Account:
    """What this worker knows of a tenant's budget, so that the counter is asked no more than needed."""

    window: str
    most: int
    left: int = 0
    """At the last look, less what was asked for since."""
    refused: int | None = None
    """The least that was refused while nothing was kept free: it will not fit any more."""
    line: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Who may not find enough tries in turn."""

    def refuses(self, ask: Ask) -> bool:
        return self.refused is not None and ask.least >= self.refused


class Budgets:
    def __init__(
        self,
        broker: Broker,
        publisher: Publisher,
        holds: Holds,
        *,
        waiting: WaitingRoom,
        worker: str,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._rng = rng
        self._counters = Counters(broker, within_s=_ANSWER_S)
        self._publisher = publisher
        self._holds = holds
        self._waiting = waiting
        self._worker = worker
        self._clock = clock
        self._numbers = itertools.count(1)
        self._slots: list[int] = []
        """Whose holds are empty again."""
        self._new_slots = itertools.count()
        self._outstanding: set[int] = set()
        """Numbers of holds that are not settled."""
        self._settled = Signal()
        self._accounts: dict[str, _Account] = {}
        self._owed: list[Hold] = []

    async def reserve(
        self, tenant: PublishedTenant, call: BudgetedCall, *, interruption: Interruption
    ) -> Reservation | None:
        """None when the tenant has no budget or the call costs nothing that is known.

        Waits in turn when too little is left for now. Raises BudgetExceeded, DeadlineExceeded, Interrupted, NotNow,
        NotStored.
        """
        if not tenant.daily_budget_usd:
            return None
        ask = what_it_needs(call, prices=tenant.prices)
        if ask is None or ask.whole == 0:
            return None
        account = self._account(tenant, window_of(tenant, call.at), most=limit_of(tenant, call.at))
        if account.refuses(ask):
            raise self._refusal(tenant, call.at)
        if account.left >= ask.whole and not account.line.locked():
            account.left -= ask.whole
            with suppress(_HeldUp):
                return await self._try(tenant, call, ask, account)
        with self._waiting.seat(tenant.slug, due_s=0):
            async with interruption:
                await account.line.acquire()
            try:
                return await self._wait_and_try(tenant, call, ask, account, interruption)
            finally:
                account.line.release()

    async def _wait_and_try(
        self,
        tenant: PublishedTenant,
        call: BudgetedCall,
        ask: Ask,
        account: _Account,
        interruption: Interruption,
    ) -> Reservation:
        while True:
            if account.refuses(ask):
                raise self._refusal(tenant, call.at)
            settled = self._settled.next
            try:
                return await self._try(tenant, call, ask, account)
            except _HeldUp:
                left_s = (call.deadline - self._clock.now()).total_seconds()
                if left_s <= 0:
                    raise DeadlineExceeded(
                        f"what is left of the budget of tenant {tenant.slug} was kept free for other calls until the "
                        "deadline"
                    ) from None
            async with interruption:
                await wait_for(settled, at_most_s=min(left_s, _LOOK_S * (0.5 + self._rng.random())))

    async def _try(self, tenant: PublishedTenant, call: BudgetedCall, ask: Ask, account: _Account) -> Reservation:
        hold = Hold(
            tenant=tenant.slug,
            window=account.window,
            worker=self._worker,
            slot=self._slots.pop() if self._slots else next(self._new_slots),
            number=next(self._numbers),
            units=ask.whole,
            at=call.at,
        )
        self._outstanding.add(hold.number)
        try:
            return await self._reserve(tenant, call, ask, account, hold)
        except BaseException as exc:
            if not isinstance(exc, BudgetExceeded | _HeldUp):
                self.owe(hold)
            raise

    async def _reserve(
        self, tenant: PublishedTenant, call: BudgetedCall, ask: Ask, account: _Account, hold: Hold
    ) -> Reservation:
        subject = subjects.budget(hold.tenant, hold.window)
        putting = asyncio.create_task(self._holds.put(hold))
        try:
            total = await self._add(subject, hold.units, msg_id=f"{hold.name}+")
            await putting
        except BaseException:
            await end(putting)  # what is put after its release would stay for ever
            raise
        account.left = account.most - total
        kept = share(ask, total=total, most=account.most)
        if kept == ask.whole:
            return Reservation(hold, max_tokens=None)
        if kept:
            hold = hold.model_copy(update={"returned": ask.whole - kept})
            await self._holds.put(hold)
            await self._post(subject, -hold.returned, msg_id=f"{hold.name}~")
            return Reservation(hold, max_tokens=affordable_tokens(kept, call, prices=tenant.prices))
        await self.release(hold)
        if not await self._is_spent(hold, ask, most=account.most):
            raise _HeldUp
        account.refused = min(ask.least, account.refused or ask.least)
        raise self._refusal(tenant, call.at)

    def _account(self, tenant: PublishedTenant, window: str, *, most: int) -> _Account:
        account = self._accounts.get(tenant.slug)
        if account is None or (account.window, account.most) != (window, most):
            account = self._accounts[tenant.slug] = _Account(window, most)
        return account

    def _refusal(self, tenant: PublishedTenant, at: datetime) -> BudgetExceeded:
        telemetry.REFUSALS.labels("daily_budget").inc()
        wait_s = left_s(Span.DAY, at)
        return BudgetExceeded(
            f"tenant {tenant.slug} has used its budget of {tenant.daily_budget_usd} USD of this day (UTC), or what is "
            f"left does not cover this request; the next day begins in {math.ceil(wait_s)} s",
            retry_after_s=wait_s,
        )

    async def settle(self, tenant: PublishedTenant, book: UsageRecord, reservation: Reservation | None) -> None:
        """Counts what the attempt cost, then gives back what was kept free for it. Raises NotStored."""
        if reservation is None and not tenant.daily_budget_usd:
            return
        window = reservation.hold.window if reservation else window_of(tenant, book.started_at)
        if book.cost:
            await self._post(subjects.budget(tenant.slug, window), units(book.cost), msg_id=f"{book.id}:{window}")
        if reservation:
            await self.release(reservation.hold)
            self._settled.notify_all()

    async def release(self, hold: Hold) -> None:
        """Raises NotStored."""
        own = hold.worker == self._worker
        if own and hold.number not in self._outstanding:
            return
        subject = subjects.budget(hold.tenant, hold.window)
        await self._post(subject, hold.returned - hold.units, msg_id=f"{hold.name}-")
        await self._holds.empty(hold)
        if own:
            self._outstanding.discard(hold.number)
            self._slots.append(hold.slot)

    async def release_of_the_dead(self, hold: Hold) -> None:
        """The steps that its worker may not have come to, and then its release. Raises NotStored.

        After some minutes the server does not know any more which steps it has counted; by then all were.
        """
        subject = subjects.budget(hold.tenant, hold.window)
        if self._clock.now() - hold.at < _STEPS_KNOWN:
            await self._post(subject, hold.units, msg_id=f"{hold.name}+")
            await self._post(subject, -hold.returned, msg_id=f"{hold.name}~")
        await self.release(hold)
        self._settled.notify_all()
        log.warning("hold_released", extra={"hold": hold.name, "tenant": hold.tenant})

    def owe(self, hold: Hold) -> None:
        """To be given back later; whether it was already does not matter."""
        self._owed.append(hold)

    async def release_owed(self) -> None:
        """Raises NotStored."""
        while self._owed:
            await self.release_of_the_dead(self._owed[0])
            self._owed.pop(0)

    async def _add(self, subject: str, amount: int, *, msg_id: str) -> int:
        try:
            total = await self._counters.add(subject, amount, msg_id=msg_id)
            return await self._counters.read(subject) if total is None else total
        except Unanswered as exc:
            raise NotStored(str(exc)) from exc

    async def _post(self, subject: str, amount: int, *, msg_id: str) -> None:
        if amount:
            await self._publisher.durable(subject, b"", msg_id=msg_id, headers={INCREMENT: f"{amount:+d}"})

    async def _is_spent(self, hold: Hold, ask: Ask, *, most: int) -> bool:
        """Whether the call will not fit even when everything under way has been settled.

        A call may be settled between a look at the holds and one at the counter: so it looks twice, and both must
        find the same.
        """
        totals: set[int] = set()
        for _ in range(2):
            try:
                if await self._holds.any_beside(hold):
                    return False
                totals.add(await self._counters.read(subjects.budget(hold.tenant, hold.window)))
            except (TimeoutError, Unanswered) as exc:
                raise NotStored("the holds of budgets cannot be read") from exc
        return len(totals) == 1 and totals.pop() + ask.least > most


def units(usd: Decimal) -> int:
    """Rounded up, so that a sum of units is never less than the sum of amounts."""
    return int((usd * UNITS_PER_USD).to_integral_value(ROUND_CEILING))


def window_of(tenant: PublishedTenant, at: datetime) -> str:
    """The counter's token for the day; a budget that began on that day has a counter of its own."""
    day = at.astimezone(UTC).date()
    start = tenant.budget_start
    return f"{day:%Y%m%d}" + (f"-{start.revision}" if start and start.day == day else "")


def limit_of(tenant: PublishedTenant, at: datetime) -> int:
    """Units that the counter may reach; less on the day when the budget began, by what had been spent."""
    start = tenant.budget_start
    spent = start.spent_usd if start and start.day == at.astimezone(UTC).date() else Decimal(0)
    return int((Decimal(tenant.daily_budget_usd or 0) - spent) * UNITS_PER_USD)


def what_it_needs(call: BudgetedCall, *, prices: Mapping[str, Price]) -> Ask | None:
    """None when no price is known."""
    whole = call.most(prices)
    if whole is None:
        return None
    if bounds_its_output(call.request, call.provider):
        return Ask(whole, whole)
    return Ask(whole, min(whole, call.most(prices, max_tokens=LEAST_OUTPUT_TOKENS) or whole))


def share(ask: Ask, *, total: int, most: int) -> int:
    """What may be kept of what was asked, when the counter with all of it is at `total`. 0: nothing."""
    kept = ask.whole - max(0, total - most)
    return kept if kept >= ask.least else 0


def affordable_tokens(kept: int, call: BudgetedCall, *, prices: Mapping[str, Price]) -> int:
    """The longest answer whose most expensive bill is within `kept` units."""

    def fits(max_tokens: int) -> bool:
        return (call.most(prices, max_tokens=max_tokens) or 0) <= kept

    low, high = LEAST_OUTPUT_TOKENS, 2 * LEAST_OUTPUT_TOKENS
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
