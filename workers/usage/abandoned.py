"""Books the vendor calls that nobody ended: their workers died, and no other worker went on with their requests.

Each call is in the journal (`LLM_ATTEMPTS`) before it is made, and in the ledger when it has ended. What is in the
journal, has had time to end and is not in the ledger is booked as `abandoned`, with what is known. Should its worker
live after all, its record is better and replaces that one.
"""

import logging
from collections.abc import Sequence
from contextlib import aclosing, suppress
from datetime import timedelta

import nats.errors
from nats.aio.msg import Msg

from contracts import streams
from contracts.attempts import Begun, Unmade
from contracts.usage import Outcome, Usage, UsageRecord, UsageSource
from migrations.outages import is_outage, one_line
from runtime.broker import Broker
from runtime.prices.pricing import price
from workers.clock import Clock
from workers.endpoints.configuration import Configuration
from workers.jetstream import stored_attempts
from workers.usage import metrics
from workers.usage.batches import Batches
from workers.usage.database import DatabaseHealth
from workers.usage.ledger import Ledger

log = logging.getLogger(__name__)

BATCH_SIZE = 1000
COLLECT_S = 1.0
RETRY_S = 5.0
LONGEST = timedelta(hours=6)
"""However long a call may take by its own limits, its record is missed after so long."""
_SIGN_OF_LIFE_S = streams.ATTEMPTS_ACK_WAIT_S / 3

Item = tuple[Msg, Begun]


class AbandonedCalls:
    """Follows the journal, `grace_s` behind it."""

    def __init__(
        self,
        broker: Broker,
        ledger: Ledger,
        config: Configuration,
        health: DatabaseHealth,
        *,
        grace_s: float,
        clock: Clock,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._config = config
        self._health = health
        self._grace = timedelta(seconds=grace_s)
        self._clock = clock
        self._batches = Batches(
            broker.client,
            stream=streams.ATTEMPTS,
            consumer=streams.ATTEMPTS_CONSUMER,
            size=BATCH_SIZE,
            collect_s=COLLECT_S,
            clock=clock,
        )

    async def run(self) -> None:
        """Runs for ever. What it holds when it is cancelled comes again."""
        await self._batches.open()
        try:
            async with aclosing(self._batches.pulled()) as batches:
                async for messages in batches:
                    await self._look_after(messages)
        finally:
            await self._batches.close()

    async def _look_after(self, messages: Sequence[Msg]) -> None:
        """Waits until the batch has had its time, and settles it; when that is not possible it comes again."""
        try:
            # The newest one last: all before it have waited longer.
            due = messages[-1].metadata.timestamp + self._grace
            while (left_s := (due - self._clock.now()).total_seconds()) > 0:
                for message in messages:
                    await message.in_progress()
                await self._clock.sleep(min(left_s, _SIGN_OF_LIFE_S))
            await self._settle(messages)
        except Exception as exc:  # the top of a batch: whatever failed, its messages come again
            facts = {"messages": len(messages), "error": one_line(exc)}
            if is_outage(exc) or isinstance(exc, nats.errors.Error | TimeoutError):
                log.warning("attempts_given_back", extra=facts)
            else:
                log.exception("attempts_given_back", extra=facts)
            for message in messages:
                if not message.is_acked:
                    with suppress(nats.errors.Error):
                        await message.nak(delay=RETRY_S)
            await self._clock.sleep(RETRY_S)
            await self._health.wait_until_usable()

    async def _settle(self, messages: Sequence[Msg]) -> None:
        await self._until_booked()
        begun: list[Item] = []
        unmade: set[str] = set()
        for message in messages:
            entry = stored_attempts.parse(message.subject, message.data)
            if isinstance(entry, Begun):
                begun.append((message, entry))
                continue
            if entry is not None:
                unmade.add(entry.id)
            await message.ack()
        booked = await self._ledger.known({entry.id: entry.started_at.date() for _, entry in begun})
        for message, entry in begun:
            if entry.id in booked or entry.id in unmade or await self._is_unmade(message.subject, entry):
                await message.ack()
            else:
                await self._miss(message, entry)

    async def _until_booked(self) -> None:
        """Returns when every record that is in `LLM_USAGE` now is in the ledger, as after an outage of PostgreSQL."""
        jetstream = self._broker.client.jetstream()
        last_seq = (await jetstream.stream_info(streams.USAGE)).state.last_seq
        while True:
            consumer = await jetstream.consumer_info(streams.USAGE, streams.USAGE_CONSUMER)
            delivered = consumer.ack_floor.stream_seq if consumer.ack_floor else 0
            if delivered >= last_seq or not (consumer.num_pending or consumer.num_ack_pending):
                return
            await self._clock.sleep(COLLECT_S)

    async def _miss(self, message: Msg, entry: Begun) -> None:
        """A call without a record: it may still be under way."""
        due = min(entry.ends_by, entry.started_at + LONGEST) + self._grace
        left_s = (due - self._clock.now()).total_seconds()
        if left_s > 0:
            await message.nak(delay=left_s)
            return
        await self._ledger.book([await self._record(entry)])
        metrics.RECORDS.labels("abandoned").inc()
        facts = {"record": entry.id, "request_id": entry.request_id, "tenant": entry.tenant, "worker": entry.worker}
        log.warning("attempt_abandoned", extra=facts)
        await message.ack()

    async def _is_unmade(self, subject: str, entry: Begun) -> bool:
        """Raises TimeoutError and nats.errors.Error."""
        unmade = Unmade(id=entry.id)
        async with aclosing(stored_attempts.entries(self._broker, subject)) as found:
            async for _, written in found:
                if written == unmade:
                    return True
        return False

    async def _record(self, entry: Begun) -> UsageRecord:
        """What is known: that the request was sent, about how long it was, and that no end was seen.

        Its source is `unknown`, so that whatever a worker knows of the call is better.
        """
        usage = Usage(input_tokens=entry.input_tokens, source=UsageSource.UNKNOWN)
        tenant = await self._config.tenant(entry.tenant)
        priced = price(
            usage,
            provider=entry.provider,
            model=entry.model,
            at=entry.started_at,
            overrides=tenant.prices if tenant else {},
        )
        return UsageRecord(
            id=entry.id,
            request_id=entry.request_id,
            attempt=entry.attempt,
            tenant=entry.tenant,
            agent=entry.agent,
            provider=entry.provider,
            provider_id=entry.provider_id,
            endpoint=entry.endpoint,
            model=entry.model,
            outcome=Outcome.ABANDONED,
            started_at=entry.started_at,
            finished_at=entry.started_at,
            duration_s=0.0,
            queued_s=entry.queued_s,
            usage=usage,
            cost=priced.amount,
            price_source=priced.source,
            price=priced.used,
        )
