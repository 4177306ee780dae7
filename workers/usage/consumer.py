"""Batches from LLM_USAGE into the ledger: acked after the commit, given back when PostgreSQL is away.

A message that can never be booked is copied to LLM_DEAD and ended, so that it holds up no other. FastStream pulls the
batches, on the connection that the role has and bound to the consumer that exists; it acks nothing by itself.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import nats.errors
from faststream.middlewares import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from contracts import streams, subjects
from contracts.control import DEAD_AT, DEAD_CODE, DEAD_REASON, DEAD_SUBJECT, MSG_ID
from contracts.usage import UsageRecord
from contracts.wire import utc_now
from migrations.outages import is_outage, one_line
from runtime.role import first_of
from runtime.tasks import end
from workers.usage import metrics
from workers.usage.database import DatabaseHealth
from workers.usage.ledger import Ledger, Unbookable
from workers.usage.pull import Pull, PullingJetStream
from workers.usage.records import Malformed, parse

log = logging.getLogger(__name__)
_faststream_log = logging.getLogger("usage.faststream")
"""Beside its own logger, which has a format of its own; from WARNING on, as for every library."""

BATCH_SIZE = 1000
COLLECT_S = 0.25
"""How long a batch waits for more records; the longest that a lone record waits."""
_READ_AT_ONCE = 20
RETRY_S = 2.0
DRAIN_S = 10.0
MALFORMED_RECORD = "malformed_record"
_PUBACK_TIMEOUT_S = 5
_NOBODY = "unknown"

Item = tuple[Msg, UsageRecord]


@dataclass(frozen=True, slots=True)
class Batch:
    """Messages, and what they are: records, or no records with the reason why."""

    messages: list[Msg]
    items: list[Item]
    malformed: list[tuple[Msg, str]]

    @classmethod
    async def read(cls, messages: list[Msg]) -> "Batch":
        """A little at a time: so that it fills the pauses in which the batch before waits for PostgreSQL."""
        batch = cls(messages, [], [])
        for number, message in enumerate(messages, start=1):
            try:
                batch.items.append((message, parse(message.subject, message.data)))
            except Malformed as exc:
                batch.malformed.append((message, str(exc)))
            if number % _READ_AT_ONCE == 0:
                await asyncio.sleep(0)
        return batch


class SharedConnection(NatsBroker):
    """FastStream on a connection that somebody else opened, reconnects and closes."""

    def __init__(self, client: Nats, pull: Pull) -> None:
        super().__init__(logger=_faststream_log, log_level=logging.DEBUG, apply_types=False)
        self._client = client
        self._pull = pull

    async def _connect(self) -> Nats:
        self.config.connect(self._client)
        self.config.connection_state.connect(self._client, PullingJetStream(self._client, self._pull))
        return self._client


class UsageConsumer:
    """Pulls, books, acks. One batch is booked at a time, and one more is held."""

    def __init__(self, client: Nats, ledger: Ledger, database: DatabaseHealth) -> None:
        self._ledger = ledger
        self._database = database
        self._jetstream = client.jetstream()
        self._stopping = asyncio.Event()
        self._settling: asyncio.Task[None] | None = None
        self._pull = Pull(
            client,
            stream=streams.USAGE,
            consumer=streams.USAGE_CONSUMER,
            inbox=client.new_inbox(),
            batch_size=BATCH_SIZE,
        )
        self._faststream = SharedConnection(client, self._pull)
        self._subscriber = self._faststream.subscriber(
            subjects.USAGE,
            stream=JStream(streams.USAGE, declare=False),
            durable=streams.USAGE_CONSUMER,
            pull_sub=PullSub(batch_size=BATCH_SIZE, timeout=COLLECT_S, batch=True),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
            decoder=_undecoded,
        )
        self._subscriber(self._take)

    async def start(self) -> None:
        await self._faststream.start()

    async def stop(self) -> None:
        """Books what was pulled and pulls no more."""
        self._stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._pull.drain()
                await self._settled()
        await self._subscriber.stop()
        if self._settling is not None:
            await end(self._settling)

    async def _take(self, messages: list[Msg]) -> None:
        """Reads a batch while PostgreSQL works on the one before, which has to be settled first."""
        started = time.perf_counter()
        batch = await Batch.read(messages)
        await self._settled()
        self._settling = asyncio.create_task(self._settle(batch, started=started), name="usage-batch")

    async def _settled(self) -> None:
        """Until no batch is being booked."""
        if self._settling is not None:
            await asyncio.wait({self._settling})

    async def _settle(self, batch: Batch, *, started: float) -> None:
        try:
            for message, why in batch.malformed:
                await self._bury(message, why)
            if batch.items:
                await self._book(batch.items)
        except Exception as exc:  # the top of the loop: whatever failed, the records are given back
            metrics.BATCHES.labels("given_back").inc()
            facts = {"records": len(batch.messages), "error": one_line(exc)}
            if is_outage(exc) or isinstance(exc, nats.errors.Error):
                log.warning("usage_batch_given_back", extra=facts)
            else:
                log.exception("usage_batch_given_back", extra=facts)
            await self._give_back(batch.messages)
            await first_of(self._recover(), self._stopping.wait())
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
        """Copies the message to LLM_DEAD, and ends it when the copy is safe."""
        headers = {
            MSG_ID: f"{streams.USAGE}:{message.metadata.sequence.stream}",
            DEAD_CODE: MALFORMED_RECORD,
            DEAD_REASON: _header_value(why),
            DEAD_SUBJECT: _header_value(message.subject),
            DEAD_AT: utc_now().isoformat(),
        }
        await self._jetstream.publish(
            _dead_subject(message.subject), message.data, headers=headers, timeout=_PUBACK_TIMEOUT_S
        )
        await message.term()
        metrics.RECORDS.labels("dead").inc()
        log.error("usage_record_dead", extra={"subject": message.subject, "reason": why})

    async def _give_back(self, messages: list[Msg]) -> None:
        for message in messages:
            if not message.is_acked:
                await message.nak(delay=RETRY_S)

    async def _recover(self) -> None:
        """Takes nothing while it could not be booked anyway."""
        await asyncio.sleep(RETRY_S / 2)
        await self._database.wait_until_usable()


async def _undecoded(batch: Any) -> list[Msg]:
    return batch.raw_message


def _dead_subject(subject: str) -> str:
    match subject.split("."):
        case [_, _, _, provider, tenant]:
            try:
                return subjects.dead(provider, tenant)
            except ValueError:
                pass
        case _:
            pass
    return subjects.dead(_NOBODY, _NOBODY)


def _header_value(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:500]
