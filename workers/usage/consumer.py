"""Batches from LLM_USAGE into the ledger: acked after the commit, given back when PostgreSQL is away.

A message that can never be booked is copied to LLM_DEAD and ended, so that it holds up no other.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import nats.errors
from nats.aio.msg import Msg

from contracts import streams, subjects
from contracts.usage import UsageRecord
from migrations.outages import is_outage, one_line
from runtime.broker import Broker
from runtime.jetstream.dead_letters import bury
from runtime.jetstream.publishing import NotStored, Publisher
from runtime.role import first_of
from runtime.tasks import end
from workers.clock import Clock
from workers.usage import metrics
from workers.usage.batches import Batches
from workers.usage.database import DatabaseHealth
from workers.usage.ledger import Ledger, Unbookable
from workers.usage.records import Malformed, parse

log = logging.getLogger(__name__)

BATCH_SIZE = 1000
COLLECT_S = 0.25
"""How long a batch waits for more records; the longest that a lone record waits."""
RETRY_S = 2.0
DRAIN_S = 10.0
_BURY_S = 5.0
MALFORMED_RECORD = "malformed_record"
_READ_AT_ONCE = 20
_NOBODY = "unknown"

Item = tuple[Msg, UsageRecord]


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of a batch with their messages, and the messages that are no records with the reason why."""

    items: list[Item]
    malformed: list[tuple[Msg, str]]

    @classmethod
    async def read(cls, messages: list[Msg]) -> "Batch":
        """Reads a few at a time, so that it fills the pauses in which the batch before waits for PostgreSQL."""
        batch = cls([], [])
        for number, message in enumerate(messages, start=1):
            try:
                batch.items.append((message, parse(message.subject, message.data)))
            except Malformed as exc:
                batch.malformed.append((message, str(exc)))
            if number % _READ_AT_ONCE == 0:
                await asyncio.sleep(0)
        return batch


class UsageConsumer:
    """Pulls, books, acks. One batch is booked at a time, and the next one is read meanwhile."""

    def __init__(self, broker: Broker, ledger: Ledger, health: DatabaseHealth, *, clock: Clock) -> None:
        self._ledger = ledger
        self._health = health
        self._publisher = Publisher(broker)
        self._batches = Batches(
            broker.client,
            stream=streams.USAGE,
            consumer=streams.USAGE_CONSUMER,
            size=BATCH_SIZE,
            collect_s=COLLECT_S,
            clock=clock,
        )
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Listens for batches; `run` asks for them."""
        await self._batches.open()

    def stop(self) -> None:
        """Pulls no more. `run` returns when everything that was pulled is booked, or after `DRAIN_S`."""
        self._stopping.set()
        self._batches.stop()

    async def run(self) -> None:
        """Books until it is told to stop, and then what was pulled."""
        booking = asyncio.create_task(self._book_all(), name="usage-batches")
        try:
            await first_of(self._stopping.wait(), asyncio.wait({booking}))
            await asyncio.wait({booking}, timeout=DRAIN_S)
            if booking.done():
                booking.result()  # a bug, if it raises
        finally:
            await end(booking)
            await self._batches.close()

    async def _book_all(self) -> None:
        """Settles each batch in a task of its own, which books it when the one before is settled."""
        before: asyncio.Task[None] | None = None
        unsettled: set[asyncio.Task[None]] = set()
        try:
            async for messages in self._batches.pulled():
                settling = asyncio.create_task(self._settle(messages, after=before), name="usage-batch")
                unsettled.add(settling)
                settling.add_done_callback(unsettled.discard)
                if before is not None:
                    await asyncio.wait({before})
                before = settling
            if before is not None:
                await asyncio.wait({before})
        finally:
            await end(*unsettled)

    async def _settle(self, messages: list[Msg], *, after: asyncio.Task[None] | None) -> None:
        """Books and acks a batch, or gives it back and waits until PostgreSQL can be used again."""
        started = time.perf_counter()
        try:
            batch = await Batch.read(messages)
            if after is not None:
                await asyncio.wait({after})
            for message, why in batch.malformed:
                await self._bury(message, why)
            if batch.items:
                await self._book(batch.items)
        except Exception as exc:  # the top of a batch: whatever failed, its records are given back
            metrics.BATCHES.labels("given_back").inc()
            facts = {"records": len(messages), "error": one_line(exc)}
            if is_outage(exc) or isinstance(exc, nats.errors.Error | NotStored):
                log.warning("usage_batch_given_back", extra=facts)
            else:
                log.exception("usage_batch_given_back", extra=facts)
            for message in messages:
                if not message.is_acked:
                    with suppress(nats.errors.Error):  # `ack_wait` gives it back as well
                        await message.nak(delay=RETRY_S)
            await first_of(self._until_worth_trying(), self._stopping.wait())
        else:
            metrics.BATCHES.labels("booked").inc()
            metrics.BATCH_SECONDS.observe(time.perf_counter() - started)

    async def _book(self, items: Sequence[Item]) -> None:
        """Books and acks. A record that PostgreSQL refuses is found by halving."""
        try:
            outcome = await self._ledger.book([record for _, record in items])
        except Unbookable as exc:
            if len(items) == 1:
                await self._bury(items[0][0], str(exc))
                return
            middle = len(items) // 2
            await self._book(items[:middle])
            await self._book(items[middle:])
            return
        metrics.RECORDS.labels("booked").inc(outcome.booked)
        metrics.RECORDS.labels("replaced").inc(outcome.replaced)
        metrics.RECORDS.labels("duplicate").inc(outcome.duplicates)
        for message, _ in items:
            await message.ack()
        log.debug("usage_booked", extra={"booked": outcome.booked, "duplicates": outcome.duplicates})

    async def _bury(self, message: Msg, why: str) -> None:
        """Copies the message to LLM_DEAD, and ends it when the copy is safe.

        Raises TimeoutError when it is not in `_BURY_S`: the records beside it must not wait for it any longer.
        """
        async with asyncio.timeout(_BURY_S):
            await bury(
                self._publisher,
                message.data,
                came_on=message.subject,
                to=dead_subject(message.subject),
                code=MALFORMED_RECORD,
                reason=why,
                msg_id=f"{streams.USAGE}:{message.metadata.sequence.stream}",
            )
        await message.term()
        metrics.RECORDS.labels("dead").inc()
        log.error("usage_record_dead", extra={"subject": message.subject, "reason": why})

    async def _until_worth_trying(self) -> None:
        """Takes nothing while it could not be booked anyway."""
        await asyncio.sleep(RETRY_S / 2)
        await self._health.wait_until_usable()


def dead_subject(subject: str) -> str:
    """Where a copy of a message on `llm.v1.usage.<provider>.<tenant>` goes; a subject of another form names nobody."""
    match subject.split("."):
        case [_, _, _, provider, tenant]:
            with suppress(ValueError):
                return subjects.dead(provider, tenant)
        case _:
            pass
    return subjects.dead(_NOBODY, _NOBODY)
