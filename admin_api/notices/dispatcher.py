"""Delivers notices: one at a time to each target, many targets at once, and again later what did not arrive."""

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from admin_api.database import Database, DatabaseUnavailable
from admin_api.notices import metrics, outbox
from admin_api.notices.delivery import Channel, Outgoing, Retries, Sender, Target, Undelivered
from contracts.wire import reason
from runtime.tasks import every

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
_TIDY_EVERY_S = 30.0
_MOST_AT_ONCE = 32


class NoticeDispatcher:
    """Takes due deliveries from the outbox and gives each to the sender of its channel.

    Several admin APIs may each have one; the outbox gives a delivery to one of them at a time.
    """

    def __init__(
        self,
        database: Database,
        senders: Mapping[Channel, Sender],
        *,
        emails_of_all: bool = False,
        retries: Retries | None = None,
    ) -> None:
        """`senders`: one for each channel that is in use. `emails_of_all`: somebody gets the alerts of all tenants."""
        self._database = database
        self._senders = senders
        self._emails_of_all = emails_of_all
        self._retries = retries or Retries()
        self._busy: set[Target] = set()
        self._free = asyncio.Event()
        self._tidy_at = 0.0

    async def keep_delivering(self) -> None:
        """Delivers until it is cancelled; what is on its way then is delivered anew once its lease is over."""
        async with asyncio.TaskGroup() as tasks:

            async def deliver_what_is_due() -> float:
                # Cleared before the look, so that a target which becomes free during it is not missed.
                self._free.clear()
                claimed = await self._claim()
                for outgoing in claimed:
                    self._busy.add(outgoing.target)
                    tasks.create_task(self._deliver(outgoing), name=f"notice-{outgoing.channel}")
                return 0.0 if claimed else LOOK_EVERY_S

            async def until_a_target_is_free(seconds: float) -> None:
                # Notices come from other processes, so the outbox is looked at from time to time, too.
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._free.wait()

            await every(
                LOOK_EVERY_S,
                deliver_what_is_due,
                log=log,
                failure_event="notices_wait",
                expected=(DatabaseUnavailable,),
                sleep=until_a_target_is_free,
            )

    async def _claim(self) -> list[Outgoing]:
        if len(self._busy) >= _MOST_AT_ONCE:
            return []
        async with self._database.transaction() as connection:
            if time.monotonic() >= self._tidy_at:
                self._tidy_at = time.monotonic() + _TIDY_EVERY_S
                await outbox.forget_old(connection)
                waiting = await outbox.waiting(connection)
                for channel in Channel:
                    metrics.UNDELIVERED.labels(channel).set(waiting.get(channel, 0))
            await outbox.route(connection, email=Channel.EMAIL in self._senders, emails_of_all=self._emails_of_all)
            return await outbox.claim(connection, busy=self._busy)

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
            sender = self._senders.get(outgoing.channel)
            if sender is None:
                raise Undelivered(f"this admin API has no way to {outgoing.channel}")
            await sender.send(outgoing)
        except Undelivered as exc:
            again_in = self._retries.pause(outgoing.channel, tried=outgoing.attempts) if exc.again else None
            self._note(outgoing, "dead" if again_in is None else "failed", why=str(exc))
            async with self._database.transaction() as connection:
                await outbox.undelivered(connection, outgoing, str(exc), again_in=again_in)
        else:
            self._note(outgoing, "delivered")
            async with self._database.transaction() as connection:
                await outbox.delivered(connection, outgoing)

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
