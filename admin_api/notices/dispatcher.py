"""Delivers notices: one at a time to each target, many targets at once, again later when it did not arrive."""

import asyncio
import logging
import time
from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.database import Database, DatabaseUnavailable
from admin_api.notices import metrics, outbox
from admin_api.notices.delivery import Channel, Outgoing, Retries, Sender, Target, Undelivered
from contracts.wire import reason

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
_TIDY_EVERY_S = 30.0
_MOST_AT_ONCE = 32


class NoticeDispatcher:
    """Needs a sender for each channel that is in use."""

    def __init__(
        self,
        database: Database,
        senders: Mapping[Channel, Sender],
        *,
        emails_of_all: bool = False,
        retries: Retries | None = None,
    ) -> None:
        self._database = database
        self._senders = senders
        self._emails_of_all = emails_of_all
        self._retries = retries or Retries()
        self._busy: set[Target] = set()
        self._free = asyncio.Event()
        self._tidy_at = 0.0

    async def keep_delivering(self) -> None:
        """Runs until cancelled; what was on its way then is delivered anew after its lease."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._free.clear()
                found = await self._try_to_claim()
                for outgoing in found:
                    self._busy.add(outgoing.target)
                    tasks.create_task(self._deliver(outgoing), name=f"notice-{outgoing.channel}")
                if not found:
                    await self._wait()

    async def _wait(self) -> None:
        """For a target that is free again, or for a while: notices come from other processes."""
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._free.wait()
        except TimeoutError:
            pass

    async def _try_to_claim(self) -> list[Outgoing]:
        try:
            return await self._claim()
        except DatabaseUnavailable as exc:
            log.warning("notices_wait", extra={"error": reason(exc)})
        except Exception:  # the top of the loop: the next look finds what this one did not
            log.exception("notices_wait")
        await asyncio.sleep(LOOK_EVERY_S)
        return []

    async def _claim(self) -> list[Outgoing]:
        if len(self._busy) >= _MOST_AT_ONCE:
            return []
        async with self._database.transaction() as connection:
            if time.monotonic() >= self._tidy_at:
                await self._tidy(connection)
            await outbox.route(connection, email=Channel.EMAIL in self._senders, emails_of_all=self._emails_of_all)
            return await outbox.claim(connection, busy=self._busy)

    async def _tidy(self, connection: AsyncConnection) -> None:
        self._tidy_at = time.monotonic() + _TIDY_EVERY_S
        await outbox.forget_old(connection)
        waiting = await outbox.waiting(connection)
        for channel in Channel:
            metrics.UNDELIVERED.labels(channel).set(waiting.get(channel, 0))

    async def _deliver(self, outgoing: Outgoing) -> None:
        try:
            await self._try_to_deliver(outgoing)
        except DatabaseUnavailable as exc:
            log.warning("notice_delivery_forgotten", extra={"error": reason(exc)})
        except Exception:  # one notice must not stop the others; its lease ends
            log.exception("notice_delivery_crashed")
        finally:
            self._busy.discard(outgoing.target)
            self._free.set()

    async def _try_to_deliver(self, outgoing: Outgoing) -> None:
        try:
            await self._sender_of(outgoing.channel).send(outgoing)
        except Undelivered as exc:
            again_in = self._retries.pause(outgoing.channel, tried=outgoing.attempts) if exc.again else None
            self._note(outgoing, "dead" if again_in is None else "failed", why=str(exc))
            async with self._database.transaction() as connection:
                await outbox.undelivered(connection, outgoing, str(exc), again_in=again_in)
        else:
            self._note(outgoing, "delivered")
            async with self._database.transaction() as connection:
                await outbox.delivered(connection, outgoing)

    def _sender_of(self, channel: Channel) -> Sender:
        try:
            return self._senders[channel]
        except KeyError:
            raise Undelivered(f"this admin API has no way to {channel}") from None

    def _note(self, outgoing: Outgoing, result: str, *, why: str = "") -> None:
        metrics.DELIVERIES.labels(outgoing.channel, result).inc()
        facts = {"channel": outgoing.channel, "notice": str(outgoing.notice_id), "kind": outgoing.kind}
        if outgoing.hook:
            facts["webhook"] = str(outgoing.hook.id)
        match result:
            case "delivered":
                log.debug("notice_delivered", extra=facts)
            case "failed":
                log.warning("notice_undelivered", extra={**facts, "error": why, "attempts": outgoing.attempts})
            case _:
                log.error("notice_dead", extra={**facts, "error": why, "attempts": outgoing.attempts})
