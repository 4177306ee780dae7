"""Subscribing to questions, so that the server sends no more of them than a worker can read.

Usually there is one subscription for all tenants. In a flood another tenant's question would wait in the server behind
what it has to send, or be lost with the connection when the server cuts it off. Then there is a subscription for each
tenant that is known, and the server ends it by itself after some messages (`UNSUB` with a maximum). It is made anew at
a rate that a worker bears. What is more stays in the server, which answers at once that nobody responds.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import NoReturn

import nats.errors
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from runtime.tasks import every
from workers.clock import Clock

log = logging.getLogger(__name__)

_LOOK_S = 0.1
_FLOOD_QUESTIONS, _FLOOD_BYTES = 200, 4 * 1024**2
"""So much between two looks is a flood. Many times more may wait in the server by then, so it is noticed at once; and
the server cuts a connection off that is 64 MiB behind."""
_CREDIT, _LARGE_CREDIT = 64, 1
"""Questions that a tenant may ask until the next look; the smaller credit is for one that asks large ones."""
_LARGE_BYTES = 4 * 1024**2
"""What a tenant asks between two looks without asking large questions."""
_BYTES_PER_S = 8 * 1024**2
_LARGE_FOR_S = 60.0
_QUIET_S = 5.0
_PENDING_BYTES = 64 * 1024**2


class QuestionFeed:
    """The questions of one kind. `subject` is that of all tenants; its token number `tenant_at`, a wildcard, is the
    tenant."""

    def __init__(
        self,
        client: Nats,
        subject: str,
        *,
        tenant_at: int,
        tenants: Callable[[], Iterable[str]],
        queue: str,
        take: Callable[[Msg], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._client = client
        self._subject = subject
        self._tenant_at = tenant_at
        self._tenants = tenants
        self._queue = queue
        self._take = take
        self._clock = clock
        self._wide: Subscription | None = None
        self._narrow: dict[str, _TenantFeed] = {}
        self._asked: Counter[str] = Counter()
        """Bytes by tenant since the last look."""
        self._questions = 0
        """Since the last look."""
        self._look_now = asyncio.Event()
        self._flooded_at = 0.0

    @property
    def flooded(self) -> bool:
        """Whether each tenant has a subscription of its own."""
        return self._wide is None

    async def open(self) -> None:
        self._wide = await self._subscribe(self._subject)

    async def run(self) -> NoReturn:
        """Looks ten times a second whether there is a flood, and at once when much has come."""
        errors = (nats.errors.Error, TimeoutError)
        await every(
            _LOOK_S, self.look, log=log, failure_event="questions_not_subscribed", expected=errors, sleep=self._pause
        )

    async def look(self) -> None:
        """Begins or ends to hold each tenant to a rate, and gives the tenants their next questions."""
        self._look_now.clear()
        asked, questions = self._asked, self._questions
        self._asked, self._questions = Counter(), 0
        flood = questions >= _FLOOD_QUESTIONS or asked.total() >= _FLOOD_BYTES
        now = self._clock.monotonic()
        if flood or any(feed.used_up for feed in self._narrow.values()):
            self._flooded_at = now
        if self._wide is not None:
            if flood:
                log.info("questions_flooded", extra={"subject": self._subject})
                await self._narrow_down(asked, now=now)
        elif now - self._flooded_at > _QUIET_S:
            await self._widen()
        else:
            await self._renew(asked, now=now)

    async def _pause(self, delay_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._look_now.wait()

    async def _narrow_down(self, asked: Counter[str], *, now: float) -> None:
        wide, self._wide = self._wide, None
        try:
            await self._renew(asked, now=now)
        finally:
            if wide is not None:
                await _drain(self._client, wide)

    async def _widen(self) -> None:
        await self.open()
        narrow, self._narrow = self._narrow, {}
        for feed in narrow.values():
            await feed.close(self._client)

    async def _renew(self, asked: Counter[str], *, now: float) -> None:
        for tenant in {*self._tenants(), *self._narrow, *asked}:
            feed = self._narrow.get(tenant)
            if feed is None:
                feed = self._narrow[tenant] = _TenantFeed()
            feed.note(asked[tenant], now=now)
            if credit := feed.due(now=now):
                tokens = self._subject.split(".")
                tokens[self._tenant_at] = tenant
                feed.add(await self._subscribe(".".join(tokens), limit=credit), credit)

    async def _subscribe(self, subject: str, *, limit: int = 0) -> Subscription:
        subscription = await self._client.subscribe(
            subject, queue=self._queue, cb=self._receive, pending_bytes_limit=_PENDING_BYTES
        )
        if limit:
            await subscription.unsubscribe(limit)
        return subscription

    async def _receive(self, msg: Msg) -> None:
        self._questions += 1
        self._asked[msg.subject.split(".")[self._tenant_at]] += len(msg.data)
        if self._wide is not None and (self._questions >= _FLOOD_QUESTIONS or self._asked.total() >= _FLOOD_BYTES):
            self._look_now.set()
        await self._take(msg)


class _TenantFeed:
    """The subscriptions of one tenant, and how much it may ask."""

    def __init__(self) -> None:
        self._open: list[tuple[Subscription, int]] = []
        """Each with its credit."""
        self._debt_until = float("-inf")
        self._large_until = float("-inf")

    @property
    def left(self) -> int:
        """How many questions the server may still send."""
        return sum(max(0, credit - subscription.delivered) for subscription, credit in self._open)

    @property
    def used_up(self) -> bool:
        return not self.left

    def note(self, asked_bytes: int, *, now: float) -> None:
        """What the tenant has asked since the last look."""
        self._debt_until = max(self._debt_until, now) + asked_bytes / _BYTES_PER_S
        if asked_bytes > _LARGE_BYTES:
            self._large_until = now + _LARGE_FOR_S

    def due(self, *, now: float) -> int:
        """The credit of the next subscription; 0: none is due."""
        credit = _LARGE_CREDIT if now < self._large_until else _CREDIT
        return 0 if self.left > credit // 2 or self._debt_until > now + _LOOK_S else credit

    def add(self, subscription: Subscription, credit: int) -> None:
        self._open = [(opened, of) for opened, of in self._open if opened.delivered < of]
        self._open.append((subscription, credit))

    async def close(self, client: Nats) -> None:
        """What the server has sent already is still taken."""
        for subscription, credit in self._open:
            if subscription.delivered < credit:
                with suppress(nats.errors.Error, TimeoutError):
                    await _drain(client, subscription)


async def _drain(client: Nats, subscription: Subscription) -> None:
    """Ends a subscription after what the server has sent already. Raises nats.errors.Error and TimeoutError.

    nats-py (2.16) keeps one whose drain has failed, refuses to end it otherwise, and makes it anew at the next
    reconnect.
    """
    try:
        await subscription.drain()
    finally:
        subscription._stop_processing()  # pyright: ignore[reportPrivateUsage]
        client._remove_sub(subscription._id)  # pyright: ignore[reportPrivateUsage]
