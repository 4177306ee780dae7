"""Each tenant's share of `LLM_REPLIES`, so that no tenant's answers push out what another one may still resume from.

JetStream (nats-server 2.15) bounds a stream and each of its subjects, and every request has a subject of its own: it
knows no bound for all subjects of a tenant. So workers count what they publish. A tenant that has more than its share
loses its own oldest events, by purges that name one request each:

1. The events before the end of requests that ended. The end has the whole answer.
2. The ends of requests that ended, the oldest first.

When that is not enough, because the requests that still run fill the share, their further deltas are said to whoever
listens, and neither stored nor said again after a reconnect. An end is always stored; a large one waits for the purge.

What each worker counted is in the bucket `llm_health` for as long as the events are stored, so that workers share one
share, and what a dead worker published goes on counting. A worker may grow by one step between two announcements.
All workers together store at most `share` + (workers x step) for a tenant, and come back to `share`; a step is
`share` / workers, at least `_LEAST_STEP_BYTES`.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import NoReturn

import nats.errors

from contracts import streams, subjects
from runtime.broker import Broker
from runtime.tasks import every
from workers.clock import Clock
from workers.jetstream.signal import Signal, wait_for
from workers.jetstream.told_sizes import ToldSizes

log = logging.getLogger(__name__)

EVENT_OVERHEAD_BYTES = 300
"""Counted for each event besides its subject and payload: what nats-server 2.15 takes in memory for a
message (270, and 430 for the first one of a subject)."""
REQUEST_OVERHEAD_BYTES = 2048
"""Counted for each request of which anything is stored: what a worker and the server keep of it besides its events. So
a tenant that has many tiny replies has at most some 50,000 of them within its share."""
_SHARE_PART = 8
_LEAST_STEP_BYTES = 2 * 1024**2
_ROOM_AFTER_PURGE = 0.75
"""A purge goes on until a tenant has this part of what it may have."""
_ROOM_WITHIN_S = 5.0
_LOOK_S = 1.0
_ANNOUNCED_AGAIN_S = 60.0
_PURGES_AT_ONCE = 16
_ANSWER_S = 2.0


def share_of(max_reply_bytes: int) -> int:
    """The bytes that one tenant may have of a stream of that size, over all workers."""
    return max_reply_bytes // _SHARE_PART


class Refused(Exception):
    """JetStream has not purged."""


_EXPECTED = (nats.errors.Error, TimeoutError, Refused)


@dataclass(slots=True)
class _Stored:
    """What this worker has stored of one request."""

    size: int = 0
    last_size: int = 0
    """Of its last event, if it were the only one."""
    events: int = 0
    at: float = 0.0
    """When its last event was stored, by a monotonic clock."""
    runs: int = 0
    """How many deliveries of it are worked on."""

    def add(self, size: int, *, at: float) -> int:
        """An event is about to be stored. Returns by how many bytes it grows what is stored."""
        added = size if self.events else size + REQUEST_OVERHEAD_BYTES
        self.size += added
        self.last_size = size + REQUEST_OVERHEAD_BYTES
        self.events += 1
        self.at = at
        return added


@dataclass(slots=True)
class _Account:
    """What this worker has stored of one tenant, by reply subject, each in the order in which it came there."""

    limit: int
    size: int = 0
    running: dict[str, _Stored] = field(default_factory=dict[str, _Stored])
    whole: dict[str, _Stored] = field(default_factory=dict[str, _Stored])
    """Ended, with all events."""
    ends: dict[str, _Stored] = field(default_factory=dict[str, _Stored])
    """Ended, with the end alone."""
    elsewhere: dict[str, _Stored] = field(default_factory=dict[str, _Stored])
    """Not ended here; another delivery goes on with it, and needs what is stored."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """For one large end after the other."""
    large: str = ""
    """Whose large end was stored last although there was no room."""

    @property
    def is_over(self) -> bool:
        return self.size > self.limit

    @property
    def has_more_to_purge(self) -> bool:
        """Now, or in a moment."""
        return bool(self.whole or self.ends or self.large in self.running)

    def put(self, subject: str, stored: _Stored, *, has_ended: bool) -> None:
        """Keeps what runs no more."""
        of = self.elsewhere if not has_ended else self.whole if stored.events > 1 else self.ends
        of[subject] = stored

    def take(self, subject: str) -> _Stored | None:
        """Takes out what does not run at present."""
        return self.whole.pop(subject, None) or self.ends.pop(subject, None) or self.elsewhere.pop(subject, None)


class RunningReply:
    """What is stored of a request that is worked on, at hand for each of its deltas."""

    def __init__(
        self, account: _Account, stored: _Stored, subject_bytes: int, *, clock: Clock, is_over: asyncio.Event
    ) -> None:
        self._account = account
        self._stored = stored
        self._around_a_payload = subject_bytes + EVENT_OVERHEAD_BYTES
        self._clock = clock
        self._is_over = is_over

    def has_room(self) -> bool:
        """Whether the tenant has no more than it may."""
        return not self._account.is_over

    def note(self, payload_bytes: int) -> None:
        """A delta is about to be stored."""
        account = self._account
        account.size += self._stored.add(payload_bytes + self._around_a_payload, at=self._clock.monotonic())
        if account.is_over:
            self._is_over.set()


class ReplyShares:
    def __init__(self, broker: Broker, *, worker: str, share: int, clock: Clock) -> None:
        """`share`: the bytes that one tenant may have, over all workers."""
        self._broker = broker
        self._share = share
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._told = ToldSizes(
            broker,
            kind="replies",
            worker=worker,
            again_s=_ANNOUNCED_AGAIN_S,
            ttl_s=streams.REPLIES_KEPT_S,
            answer_within_s=_ANSWER_S,
            clock=clock,
        )
        self.bucket = self._told.bucket
        self._is_over, self._purged = asyncio.Event(), Signal()
        self._purges_fail = False

    def begin(self, subject: str) -> "RunningReply":
        """A request with this reply subject is worked on."""
        account = self._account(subject)
        if subject not in account.running:
            account.running[subject] = account.take(subject) or _Stored()
        stored = account.running[subject]
        stored.runs += 1
        return RunningReply(account, stored, len(subject), clock=self._clock, is_over=self._is_over)

    def end(self, subject: str, *, has_ended: bool) -> None:
        """It is worked on no more. `has_ended`: its last event is its end, and nobody goes on with it."""
        account = self._account(subject)
        stored = account.running[subject]
        stored.runs -= 1
        if not stored.runs:
            del account.running[subject]
            if stored.events:
                account.put(subject, stored, has_ended=has_ended)
            if account.is_over:
                self._is_over.set()

    def is_running(self, subject: str) -> bool:
        return subject in self._account(subject).running

    def has_room(self, subject: str) -> bool:
        """Whether the tenant has no more than it may."""
        return not self._account(subject).is_over

    def note(self, subject: str, payload: bytes) -> None:
        """An event is about to be stored."""
        account = self._account(subject)
        size = len(subject) + len(payload) + EVENT_OVERHEAD_BYTES
        stored, goes_on = account.running.get(subject), subject in account.elsewhere
        if stored is None:
            stored = account.take(subject) or _Stored()
        account.size += stored.add(size, at=self._clock.monotonic())
        if subject not in account.running:
            account.put(subject, stored, has_ended=not goes_on)
        if account.is_over:
            self._is_over.set()

    @asynccontextmanager
    async def turn(self, subject: str) -> AsyncGenerator[None]:
        """For a large end of a running request, whose tenant has more than it may: the block runs when there is room,
        and after a while all the same. The end has the whole answer, so the request's other events go first."""
        account = self._account(subject)
        give_up = self._clock.monotonic() + _ROOM_WITHIN_S
        async with account.turn:
            if account.is_over and (stored := account.running.get(subject)) and stored.events:
                with suppress(Refused, nats.errors.Error):
                    freed = stored.size
                    await self._purge(subject)
                    account.size -= freed
                    stored.size -= freed
                    stored.events = 0
            self._is_over.set()
            while account.is_over and account.has_more_to_purge and not self._purges_fail:
                if self._clock.monotonic() > give_up:
                    break
                await wait_for(self._purged.next, at_most_s=_LOOK_S)
            account.large = subject
            yield

    def stored(self, tenant: str) -> int:
        """The bytes that this worker counts as stored of the tenant."""
        account = self._accounts.get(tenant)
        return account.size if account else 0

    async def look(self) -> NoReturn:
        """Runs for ever: announces what is stored, and drops from the accounts what is so old that it is gone."""
        await every(_LOOK_S, self.look_once, log=log, failure_event="replies_not_announced", expected=_EXPECTED)

    async def purge(self) -> NoReturn:
        """Runs for ever: takes from tenants that have more than they may."""
        await every(_LOOK_S, self._purge_when_over, log=log, failure_event="replies_not_purged", expected=_EXPECTED)

    async def look_once(self) -> None:
        """Raises nats.errors.Error when nothing can be announced."""
        now = self._clock.monotonic()
        for tenant, account in list(self._accounts.items()):
            for of in (account.whole, account.ends, account.elsewhere):
                for subject in [s for s, stored in of.items() if now - stored.at > streams.REPLIES_KEPT_S]:
                    account.size -= of.pop(subject).size
            if not (account.size or account.running):
                del self._accounts[tenant]
        stored = {tenant: account.size for tenant, account in self._accounts.items()}
        await self._told.tell(stored, least=_LEAST_STEP_BYTES, step=_LEAST_STEP_BYTES / 2, also_none=True)
        for tenant, account in self._accounts.items():
            account.limit = self.limit(tenant)
            if account.is_over:
                self._is_over.set()

    def limit(self, tenant: str) -> int:
        """What this worker may store of the tenant until it has told the others that it stores more."""
        step = max(self._share // (1 + self._told.others), _LEAST_STEP_BYTES)
        return max(step, min(self._share - self._told.of_others(tenant), self._told.own.get(tenant, 0) + step))

    async def _purge_when_over(self) -> float:
        await self._is_over.wait()
        self._is_over.clear()
        try:
            for tenant, account in list(self._accounts.items()):
                if account.is_over:
                    await self.purge_account(tenant)
        except _EXPECTED:
            self._purges_fail = True
            self._purged.notify_all()
            raise
        self._purges_fail = False
        return 0

    async def purge_account(self, tenant: str) -> None:
        """Purges until the tenant is well below what it may have, or nothing is left that ended.

        Raises Refused and nats.errors.Error.
        """
        account = self._accounts[tenant]
        enough, before, purged = int(account.limit * _ROOM_AFTER_PURGE), account.size, 0
        while account.size > enough and (account.whole or account.ends):
            size, chosen = account.size, list[str]()
            for subject, stored in islice((account.whole or account.ends).items(), _PURGES_AT_ONCE):
                if size <= enough:
                    break
                chosen.append(subject)
                size -= stored.size - (stored.last_size if account.whole else 0)
            cut = self._cut_to_end if account.whole else self._drop_end
            for outcome in await asyncio.gather(*(cut(account, s) for s in chosen), return_exceptions=True):
                if outcome is not None:
                    raise outcome
            purged += len(chosen)
            self._purged.notify_all()
        if purged:
            facts = {"tenant": tenant, "requests": purged, "freed_bytes": before - account.size}
            log.info("replies_purged", extra=facts)

    async def _cut_to_end(self, account: _Account, subject: str) -> None:
        await self._purge(subject, keep=1)
        if stored := account.whole.pop(subject, None):
            account.size -= stored.size - stored.last_size
            stored.size, stored.events = stored.last_size, 1
            account.ends[subject] = stored

    async def _drop_end(self, account: _Account, subject: str) -> None:
        await self._purge(subject)
        if stored := account.ends.pop(subject, None):
            account.size -= stored.size

    async def _purge(self, subject: str, *, keep: int = 0) -> None:
        """Purges all events of a request but the last `keep`. Raises Refused and nats.errors.Error."""
        asked = json.dumps({"filter": subject, "keep": keep}).encode()
        purge = f"$JS.API.STREAM.PURGE.{streams.REPLIES}"
        answer = await self._broker.client.request(purge, asked, timeout=_ANSWER_S)
        if error := json.loads(answer.data).get("error"):
            raise Refused(str(error.get("description")))

    def _account(self, subject: str) -> _Account:
        tenant = subjects.tenant_of_reply(subject)
        if (account := self._accounts.get(tenant)) is None:
            account = self._accounts[tenant] = _Account(self.limit(tenant))
        return account
