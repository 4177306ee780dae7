"""Hard daily budgets: what a call needs is kept free before it, grows with its answer, and is settled at its end.

The way of a call's money:

1. `cost_bounds.py` says what the call can cost at most, and with the shortest answer that is worth a call. Where the
   answer's length is not said and all of it streams, less is kept free at first: what such answers usually have been
   (`history.py`), else a small step. It grows ahead of the answer (`growth.py`), each step with a hold of its own.
2. `reserve` adds that to the tenant's counter of the day (stream `LLM_BUDGETS`), whose answer is the total. As the
   counter holds what was spent and what is kept free, no number of calls at the same time can overrun it.
3. Beside the counter it writes a hold (`holds.py`, bucket `llm_holds`): who keeps how much free. From the total alone
   nobody could tell what a worker that died has left in it.
4. All of it fits: the call is made. A part of it fits: the answer is bounded to what that affords, and the rest is
   given back. Too little fits: all of it is given back, and the request waits while other calls may give something
   back, or is refused when there are none.
5. `settle` adds what the call cost, takes back what was kept free, and empties the holds. A small one stays for the
   tenant's next call for two seconds: calls one after the other write nothing before they are made.
6. What could not be given back, because NATS did not answer or the request broke off, is kept for `release_pending`.
7. What a dead worker kept free is given back by any other one (`orphaned_holds.py`), which repeats the steps that the
   dead one may not have come to.

Counter and holds are on disk: a restart of NATS must not give a tenant its day's budget a second time, nor keep free
for ever what nobody uses. Each step has a message id of its own, so it counts once, whoever repeats it: `<hold>+` keeps
free, `<hold>~` gives a part back, `<hold>-` the rest, `<record>:<window>` is the cost.
"""

import asyncio
import itertools
import logging
import math
import random
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import nats.errors

from contracts import subjects
from contracts.budget import UNITS_PER_USD, Hold
from contracts.errors import BudgetExceeded, DeadlineExceeded
from contracts.providers import PublishedTenant
from contracts.usage import Outcome, UsageRecord, UsageSource
from runtime.broker import Broker
from runtime.jetstream.publishing import NotStored, Publisher
from runtime.tasks import end, every
from workers import telemetry
from workers.clock import Clock
from workers.intake.waiting_room import WaitingRoom
from workers.interruption import Interruption
from workers.jetstream.counters import INCREMENT, Counters, Unanswered
from workers.jetstream.signal import Signal, wait_for
from workers.quotas.cost_bounds import Ask, BudgetedCall, affordable_tokens, units, what_it_needs
from workers.quotas.growth import FIRST_SHARE, FIRST_TOKENS, Growth, Rate
from workers.quotas.history import History
from workers.quotas.holds import Holds
from workers.quotas.rate_limits import Span, left_s
from workers.quotas.stops import Stops

log = logging.getLogger(__name__)

_ANSWER_S = 5.0
_STEPS_KNOWN = timedelta(minutes=9)
"""A bit less than the duplicate window of the counters' stream."""
_IDLE_S = 2.0
"""A hold waits so long for its tenant's next call."""
_IDLE_SHARE = 32
"""A hold that is a larger part of the day's budget does not wait."""
_SLACK_SHARE, _SLACK = 64, 8
"""A hold that is a small part of the budget gets an eighth more, so that it will do for the next call, too."""
_LAST_RELEASE_S = 2.0
"""A worker that stops waits so long for the release of its idle holds; the others find what it could not release."""
_LOOK_S = 0.5
"""Who waits for another worker's calls to be settled looks again this often."""


@dataclass(frozen=True, slots=True)
class Reservation:
    hold: Hold
    max_tokens: int | None
    """What the answer is bounded to, because less than the whole was left; None: as the request says."""
    growth: Growth | None = None
    """How more is kept free while the answer streams; None: all that the call can cost is kept free."""


@dataclass(frozen=True, slots=True)
class HeldUp:
    """Too little is left now, but calls are under way that may give something back."""


@dataclass(slots=True)
class Account:
    """What this worker knows of a tenant's budget of a day, so that it asks the counter no more often than needed."""

    window: str
    most: int
    """What the counter may reach, in units."""
    left: int = 0
    """At the last look, less what was asked for since."""
    refused: int | None = None
    """The least amount that was refused while nothing was kept free: it will not fit any more on this day."""
    line: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the one request that tries while there may not be enough; the others wait behind it, in turn.

    If all tried at once, each would find the counter raised by all others, and none might fit where one does.
    """

    def refuses(self, ask: Ask) -> bool:
        """Whether it is known without a look that the call does not fit."""
        return self.refused is not None and ask.least >= self.refused

    def try_at_once(self, ask: Ask) -> bool:
        """Whether the call will most likely fit whole, so that it need not stand in line. Counts it as taken."""
        if self.left < max(ask.whole, ask.least) or self.line.locked():
            return False
        self.left -= ask.whole
        return True

    def refuse(self, ask: Ask) -> None:
        self.refused = min(ask.least, self.refused or ask.least)


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
        self._new_slots = itertools.count()
        self._empty_slots: list[int] = []
        """Keys of holds that are used again."""
        self._outstanding: set[int] = set()
        """Numbers of holds of this worker that are not released."""
        self._released = Signal()
        self._accounts: dict[str, Account] = {}
        self._pending: list[Hold] = []
        self._history = History()
        self.stops = Stops(clock)
        self._growths: dict[int, Growth] = {}
        """By the numbers of their calls' first holds."""
        self._idle: dict[str, tuple[Hold, float]] = {}
        """By tenant: a hold that waits for the next call, and until when, by the monotonic clock."""

    async def reserve(
        self, tenant: PublishedTenant, call: BudgetedCall, *, interruption: Interruption
    ) -> Reservation | None:
        """Keeps free what the call needs. None: the tenant has no budget, or the call costs nothing that is known.

        Waits in turn when too little is left for now. Raises BudgetExceeded, DeadlineExceeded, Interrupted, NotNow,
        NotStored.
        """
        if not tenant.daily_budget_usd:
            return None
        ask = what_it_needs(call, prices=tenant.prices)
        if ask is None or ask.whole == 0:
            return None
        window, most = window_of(tenant, call.at), limit_of(tenant, call.at)
        account = self._accounts.get(tenant.slug)
        if account is None or (account.window, account.most) != (window, most):
            # All may be left, so the first calls need not wait for each other; each of them hears the truth.
            account = self._accounts[tenant.slug] = Account(window, most, left=most)
        if account.refuses(ask):
            raise self._refusal(tenant, call.at)
        ask = self._at_first(ask, call, account)
        if (hold := self._take_idle(ask, account, tenant.slug)) is not None:
            return self._reservation(hold, tenant, call, ask, account)
        if account.try_at_once(ask):
            reserved = await self._keep_free(tenant, call, ask, account)
            if isinstance(reserved, Reservation):
                return reserved
        with self._waiting.place(tenant.slug, due_s=0), telemetry.WAITING_FOR_BUDGET.track_inprogress():
            self.stops.note(tenant.slug, "waits")
            async with interruption.scope():
                await account.line.acquire()
            try:
                return await self._wait_for_enough(tenant, call, ask, account, interruption)
            finally:
                account.line.release()

    async def _wait_for_enough(
        self, tenant: PublishedTenant, call: BudgetedCall, ask: Ask, account: Account, interruption: Interruption
    ) -> Reservation:
        while True:
            if account.refuses(ask):
                raise self._refusal(tenant, call.at)
            released = self._released.next  # before the look: what is released meanwhile is not missed
            await self._release_idle(tenant.slug)
            reserved = await self._keep_free(tenant, call, ask, account)
            if isinstance(reserved, Reservation):
                return reserved
            left_s = (call.deadline - self._clock.now()).total_seconds()
            if left_s <= 0:
                self.stops.note(tenant.slug, "late")
                raise DeadlineExceeded(
                    f"what is left of the budget of tenant {tenant.slug} was kept free for other calls until the "
                    "deadline"
                )
            # Other workers' releases are not signalled here, so it looks by itself, and not all workers at once.
            async with interruption.scope():
                await wait_for(released, at_most_s=min(left_s, _LOOK_S * (0.5 + self._rng.random())))

    async def _keep_free(
        self, tenant: PublishedTenant, call: BudgetedCall, ask: Ask, account: Account
    ) -> Reservation | HeldUp:
        """One try. Raises BudgetExceeded, NotStored."""
        slack = ask.whole // _SLACK if ask.whole * _SLACK_SHARE <= account.most else 0
        hold = self._new_hold(tenant.slug, account, ask.whole + slack, at=call.at)
        try:
            total = await self._write(hold)
            account.left = account.most - total
            kept = share(ask, total=total - slack, most=account.most)
            if kept == ask.whole:
                return self._reservation(hold, tenant, call, ask, account)
            if kept:
                hold = await self._return_but(kept, hold)
                return self._reservation(hold, tenant, call, ask, account)
            await self.release(hold)
            is_spent = await self._is_spent(hold, ask, most=account.most)
        except BaseException:
            self.release_later(hold)
            raise
        if not is_spent:
            return HeldUp()
        account.refuse(ask)
        raise self._refusal(tenant, call.at)

    def _at_first(self, ask: Ask, call: BudgetedCall, account: Account) -> Ask:
        """What is asked for before the call, where the rest can be asked for while the answer streams."""
        if ask.rate is None:
            return ask
        likely = self._history.likely_tokens(call.request.tenant, call.name) or _first_tokens(ask.rate, account)
        return replace(ask, whole=min(ask.whole, ask.rate.base + ask.rate.per_token * likely))

    def _reservation(
        self, hold: Hold, tenant: PublishedTenant, call: BudgetedCall, ask: Ask, account: Account
    ) -> Reservation:
        kept = hold.units - hold.returned
        if ask.rate is None:
            bounded = affordable_tokens(kept, call, prices=tenant.prices) if kept < ask.whole else None
            return Reservation(hold, max_tokens=bounded)

        async def keep_free(amount: int, least: int) -> Hold | None:
            return await self._keep_more(tenant.slug, account, amount, least=least)

        def refusal() -> BudgetExceeded:
            return self._broken_off(tenant, call.at)

        growth = Growth(
            ask.rate,
            kept=kept,
            first_tokens=_first_tokens(ask.rate, account),
            tokens_per_estimated=self._history.tokens_per_estimated(tenant.slug, call.name),
            keep_free=keep_free,
            give_back=self._give_back,
            refusal=refusal,
        )
        self._growths[hold.number] = growth
        return Reservation(hold, max_tokens=None, growth=growth)

    async def _keep_more(self, tenant: str, account: Account, amount: int, *, least: int) -> Hold | None:
        """A step of a call's growth, or as much of it as is left; None: less than `least` is. Raises NotStored."""
        hold = self._new_hold(tenant, account, amount, at=self._clock.now())
        try:
            total = await self._write(hold)
            account.left = account.most - total
            kept = share(Ask(amount, least), total=total, most=account.most)
            if kept == amount:
                return hold
            if kept:
                return await self._return_but(kept, hold)
            await self.release(hold)
        except BaseException:
            self.release_later(hold)
            raise
        return None

    def _new_hold(self, tenant: str, account: Account, amount: int, *, at: datetime) -> Hold:
        hold = Hold(
            tenant=tenant,
            window=account.window,
            worker=self._worker,
            slot=self._empty_slots.pop() if self._empty_slots else next(self._new_slots),
            number=next(self._numbers),
            units=amount,
            at=at,
        )
        self._outstanding.add(hold.number)
        return hold

    async def _return_but(self, kept: int, hold: Hold) -> Hold:
        """Gives back all of it but `kept`. Raises NotStored."""
        # The hold first: who settles it after our death must know how much of it was given back already.
        hold = hold.model_copy(update={"returned": hold.units - kept})
        await self._holds.put(hold)
        await self._post(hold, -hold.returned, step="~")
        return hold

    async def _write(self, hold: Hold) -> int:
        """Counts the hold and writes it; the counter's total with it. Raises NotStored.

        Both are sent at once, to wait for one answer's time only. Should one of them fail, whoever releases the hold
        counts it under the same message id first, so that nothing is given back that was not taken.
        """
        putting = asyncio.create_task(self._holds.put(hold), name=f"hold {hold.name}")
        subject = subjects.budget(hold.tenant, hold.window)
        try:
            total = await self._counters.add(subject, hold.units, msg_id=f"{hold.name}+")
            if total is None:
                total = await self._counters.read(subject)
            await putting
        except BaseException as exc:
            await end(putting)  # what is put after its release would stay for ever
            if isinstance(exc, Unanswered):
                raise NotStored(str(exc)) from exc
            raise
        return total

    async def _is_spent(self, hold: Hold, ask: Ask, *, most: int) -> bool:
        """Whether the call will not fit even when everything under way has been settled.

        A call may be settled between a look at the holds and one at the counter: so it looks twice, and both must
        find the same. Raises NotStored.
        """
        totals: set[int] = set()
        for _ in range(2):
            try:
                if await self._holds.any_beside(hold):
                    return False
                totals.add(await self._counters.read(subjects.budget(hold.tenant, hold.window)))
            except (nats.errors.Error, TimeoutError, Unanswered) as exc:
                raise NotStored("the holds of budgets cannot be read") from exc
        return len(totals) == 1 and totals.pop() + ask.least > most

    async def settle(self, tenant: PublishedTenant, record: UsageRecord, reservation: Reservation | None) -> None:
        """Counts what the call cost, then gives back what was kept free for it. Raises NotStored.

        In this order, so that another call that looks in between finds too little left, and never too much.
        """
        if reservation is None and not tenant.daily_budget_usd:
            return
        window = reservation.hold.window if reservation else window_of(tenant, record.started_at)
        if reservation and reservation.growth:
            self._note_length(record, reservation.growth)
        if record.cost:
            subject = subjects.budget(tenant.slug, window)
            await self._publisher.durable(
                subject, b"", msg_id=f"{record.id}:{window}", headers={INCREMENT: f"{units(record.cost):+d}"}
            )
        if reservation:
            if not self._keep_idle(reservation):
                await self.release(reservation.hold)
            else:
                await self._release_grown(reservation.hold)
            self._released.notify_all()

    def _note_length(self, record: UsageRecord, growth: Growth) -> None:
        if record.outcome is Outcome.COMPLETED and record.usage.source is UsageSource.VENDOR:
            self._history.note(
                record.tenant,
                f"{record.provider}/{record.model}",
                tokens=record.usage.output_tokens,
                estimated=growth.estimated,
            )

    def _keep_idle(self, reservation: Reservation) -> bool:
        """Whether the hold waits for the tenant's next call."""
        hold = reservation.hold
        account = self._accounts.get(hold.tenant)
        is_small = account is not None and (hold.units - hold.returned) * _IDLE_SHARE <= account.most
        if account is None or account.window != hold.window or not is_small or account.line.locked():
            return False
        if hold.tenant in self._idle or hold.number not in self._outstanding:
            return False
        self._idle[hold.tenant] = hold, self._clock.monotonic() + _IDLE_S
        return True

    def _take_idle(self, ask: Ask, account: Account, tenant: str) -> Hold | None:
        """A hold that waits, and is large enough. Of what can grow, half of the first step is enough."""
        if tenant not in self._idle:
            return None
        hold, _ = self._idle[tenant]
        enough = ask.whole if ask.rate is None else (ask.rate.base + ask.whole) // 2 + ask.rate.per_token
        if hold.window != account.window or hold.units - hold.returned < min(enough, ask.whole):
            return None
        del self._idle[tenant]
        return hold

    async def tend(self) -> None:
        """Releases the holds that no next call came for, for ever; when it is ended, all that wait for one."""
        try:
            await every(
                _LOOK_S,
                self._release_unused,
                log=log,
                failure_event="release_failed",
                expected=(NotStored,),
                first_after_s=_LOOK_S,
                sleep=self._clock.sleep,
            )
        finally:
            with suppress(NotStored, TimeoutError):
                async with asyncio.timeout(_LAST_RELEASE_S):
                    for tenant in list(self._idle):
                        await self._release_idle(tenant)

    async def _release_unused(self) -> None:
        now = self._clock.monotonic()
        for tenant in [tenant for tenant, (_, until) in self._idle.items() if until <= now]:
            await self._release_idle(tenant)

    async def _release_idle(self, tenant: str) -> None:
        """Raises NotStored; then it is released later."""
        if (waits := self._idle.pop(tenant, None)) is not None:
            await self._release_or_later(waits[0])

    async def _release_or_later(self, hold: Hold) -> None:
        try:
            await self.release(hold)
        except BaseException:
            self.release_later(hold)
            raise
        self._released.notify_all()

    async def _give_back(self, hold: Hold) -> None:
        with suppress(NotStored):
            await self._release_or_later(hold)

    async def _release_grown(self, first: Hold) -> None:
        """Releases what the call grew by. Raises NotStored; then it is released later."""
        growth = self._growths.pop(first.number, None)
        if growth is not None and (grown := growth.end()):
            await asyncio.gather(*map(self._give_back, grown))

    async def release(self, hold: Hold) -> None:
        """Gives back what is still kept free, and empties the hold; so with all that it grew by. Raises NotStored."""
        await self._release_grown(hold)
        own = hold.worker == self._worker
        if own and hold.number not in self._outstanding:
            return
        await self._post(hold, hold.returned - hold.units, step="-")
        await self._holds.empty(hold)
        if own:
            self._outstanding.discard(hold.number)
            self._empty_slots.append(hold.slot)

    async def settle_orphan(self, hold: Hold) -> None:
        """The steps that a hold's worker may not have come to, and then its release. Raises NotStored.

        After some minutes the server does not know any more which steps it has counted, and would count them twice; by
        then all were counted.
        """
        if self._clock.now() - hold.at < _STEPS_KNOWN:
            await self._post(hold, hold.units, step="+")
            await self._post(hold, -hold.returned, step="~")
        await self.release(hold)
        self._released.notify_all()
        log.warning("hold_released", extra={"hold": hold.name, "tenant": hold.tenant})

    def release_later(self, hold: Hold) -> None:
        """For `release_pending`; that it was released already does no harm."""
        growth = self._growths.pop(hold.number, None) if hold.worker == self._worker else None
        self._pending += [hold, *(growth.end() if growth else ())]

    async def release_pending(self) -> None:
        """Releases what was left for later. Raises NotStored."""
        while self._pending:
            await self.settle_orphan(self._pending[0])
            self._pending.pop(0)

    async def _post(self, hold: Hold, amount: int, *, step: str) -> None:
        if amount:
            subject = subjects.budget(hold.tenant, hold.window)
            headers = {INCREMENT: f"{amount:+d}"}
            await self._publisher.durable(subject, b"", msg_id=f"{hold.name}{step}", headers=headers)

    def _refusal(self, tenant: PublishedTenant, at: datetime) -> BudgetExceeded:
        telemetry.REFUSALS.labels("daily_budget").inc()
        self.stops.note(tenant.slug, "refused")
        wait_s = left_s(Span.DAY, at)
        return BudgetExceeded(
            f"tenant {tenant.slug} has used its budget of {tenant.daily_budget_usd} USD of this day (UTC), or what is "
            f"left does not cover this request; the next day begins in {math.ceil(wait_s)} s",
            retry_after_s=wait_s,
        )

    def _broken_off(self, tenant: PublishedTenant, at: datetime) -> BudgetExceeded:
        self.stops.note(tenant.slug, "broken_off")
        wait_s = left_s(Span.DAY, at)
        return BudgetExceeded(
            f"the answer was broken off, because nothing was left for it of tenant {tenant.slug}'s budget of "
            f"{tenant.daily_budget_usd} USD of this day (UTC); the next day begins in {math.ceil(wait_s)} s",
            retry_after_s=wait_s,
        )


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


def share(ask: Ask, *, total: int, most: int) -> int:
    """What may be kept of what was asked, when the counter with all of it is at `total`. 0: nothing."""
    left = most - (total - ask.whole)
    return min(ask.whole, left) if left >= ask.least else 0


def _first_tokens(rate: Rate, account: Account) -> int:
    """Output tokens that are kept free while nothing is known of a model's answers, and the least step of growth."""
    return max(1, min(FIRST_TOKENS, account.most // FIRST_SHARE // rate.per_token, rate.most_tokens))
