"""Credit → pull → slot → run → settle: how requests get from JetStream into a worker, and never twice or not at all.

FastStream's pull subscriber lets messages wait behind a busy handler until `ack_wait` passes and they run twice, so
this is a puller of our own: it asks only for what it has room for, says every three seconds that it still has what it
has, and gives back at once what it will not start.

Source of the pull protocol: nats-server's JetStream API, `$JS.API.CONSUMER.MSG.NEXT`.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import assert_never

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from contracts import streams
from contracts.subjects import Priority
from runtime.broker import Broker
from runtime.jetstream.publishing import NotStored
from runtime.tasks import end
from workers import telemetry
from workers.intake.delivery import Ack, Acked, Delivery, GaveBack, NotAcked, NotNow, Terminated
from workers.intake.fair_queue import FairQueue
from workers.intake.lease import Leases, Lost
from workers.jetstream.server_memory import REQUEST_IDS_KNOWN, ids_known_from

log = logging.getLogger(__name__)

IDLE_HEARTBEAT_S = 1.0
_WATCHDOG_S = 2 * IDLE_HEARTBEAT_S
_PULL_EXPIRES_S = 30.0
_PULL_BYTES = 64 * 1024 * 1024
"""Of one pull, so that a queue of the largest requests cannot fill the memory."""
_PREFETCH_PART = 4
_BACKGROUND_PART = 10
_NS = 1_000_000_000
_INTERNAL_NAK_S = 5.0
_INFO_TIMEOUT_S = 2.0
_MET_S = 3.0
"""Within it workers have reconnected to a server that was started anew, and said their events again."""
_CLOCKS = timedelta(seconds=2)
"""By which the server's clock may be behind ours."""
_GIVE_BACK_S = 5.0
"""For booking what was interrupted, after the grace period."""


Run = Callable[[Delivery], Awaitable[Ack]]
"""Works on one request, and says what becomes of its message."""


@dataclass(slots=True)
class _Source:
    """One durable consumer, with what was asked of it and not yet given."""

    consumer: str
    priority: Priority
    inbox: str = ""
    subscription: Subscription | None = None
    asked: int = 0
    last_sign: float = 0.0
    parked: FairQueue[Delivery] = field(default_factory=FairQueue[Delivery])
    running: int = 0
    held: dict[int, Delivery] = field(default_factory=dict[int, Delivery])
    """Parked or running, by their place in the stream."""
    leases: Leases = field(default_factory=lambda: Leases(time.monotonic))


class Intake:
    """Pulls from a provider's two consumers and runs what it gets, `slots` at a time."""

    def __init__(self, broker: Broker, *, provider: str, slots: int, run: Run, interrupt: Callable[[], None]) -> None:
        """`interrupt` asks everything that still runs to give its request back."""
        self._broker = broker
        self._slots = slots
        self._prefetch = max(2, math.ceil(slots / _PREFETCH_PART))
        self._background_share = max(1, slots // _BACKGROUND_PART)
        self._run = run
        self._interrupt = interrupt
        self._sources = [_Source(streams.pool_consumer(provider, p), p) for p in Priority]
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._provider = provider
        self._server_id = ""
        self._met_at = datetime.now(UTC)
        self._asks_from = 0.0
        self._ids_known_from = datetime.now(UTC)

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    @property
    def parked(self) -> int:
        return sum(len(source.parked) for source in self._sources)

    async def serve(self, stop: asyncio.Event, *, grace_s: float) -> None:
        """Works until `stop`, then drains: parked messages go back at once, running ones get `grace_s` to finish."""
        self._broker.on_reconnect.append(self._ask_anew)
        self._ids_known_from = await ids_known_from(self._broker)
        for source in self._sources:
            source.inbox = self._broker.client.new_inbox()
            source.subscription = await self._broker.client.subscribe(source.inbox, cb=self._receiver(source))
            await self._ask(source)
        async with asyncio.TaskGroup() as group:
            beats = [group.create_task(self._heartbeats(source), name="heartbeats") for source in self._sources]
            watchdog = group.create_task(self._watchdog(), name="watchdog")
            await stop.wait()
            await end(watchdog)
            await self._drain(grace_s)
            await end(*beats)

    def _receiver(self, source: _Source) -> Callable[[Msg], Awaitable[None]]:
        async def receive(msg: Msg) -> None:
            source.last_sign = asyncio.get_running_loop().time()
            if msg.reply:  # only what is to be acked has one; a header Status may be its agent's
                await self._receive(source, msg)
            elif (msg.headers or {}).get("Status") != "100":
                await self._asked_in_vain(source, msg)

        return receive

    async def _receive(self, source: _Source, msg: Msg) -> None:
        delivery = self._delivery(msg, source)
        source.asked = max(0, source.asked - 1)
        if not delivery.lease.holds or delivery.stream_seq in source.held:  # a killed server gives again what we have
            return
        if self._draining:
            await self._give_back(delivery)
            return
        source.held[delivery.stream_seq] = delivery
        source.parked.put(delivery.tenant, delivery)
        self._start_what_fits()
        await self._ask(source)

    def _delivery(self, msg: Msg, source: _Source) -> Delivery:
        meta = msg.metadata
        return Delivery(
            subject=msg.subject,
            data=msg.data,
            headers=msg.headers or {},
            ack_subject=msg.reply,
            deliveries=meta.num_delivered,
            queued_at=meta.timestamp,
            priority=source.priority,
            stream_seq=meta.sequence.stream,
            may_be_again=meta.timestamp < self._met_at + _CLOCKS,
            ids_known=meta.timestamp >= self._ids_known_from,
            lease=source.leases.grant(),
        )

    async def _asked_in_vain(self, source: _Source, msg: Msg) -> None:
        """408 and 409 end a pull; they say how much of it was not served."""
        headers = msg.headers or {}
        left = headers.get("Nats-Pending-Messages")
        source.asked = max(0, source.asked - int(left)) if left is not None else 0
        if left is None:
            log.debug("pull_ended", extra={"consumer": source.consumer, "reason": headers.get("Description")})
            return
        await self._ask(source)

    async def _ask(self, source: _Source) -> None:
        """Asks for as many as there is room for, unless that is too few to be worth a message.

        Not in doubt of the leases: what comes in answer to a pull that was sent after a confirmation is certainly ours.
        """
        if self._draining or not self._broker.connected or source.leases.in_doubt:
            return
        self._look_who_is_there()
        if time.monotonic() < self._asks_from:
            return
        room = max(0, self._slots - self.in_flight) + self._prefetch - len(source.parked) - source.asked
        if room <= 0 or (source.asked and room < self._prefetch):
            return
        source.asked += room
        if source.last_sign == 0.0:
            source.last_sign = asyncio.get_running_loop().time()
        pull = {
            "batch": room,
            "max_bytes": _PULL_BYTES,
            "expires": int(_PULL_EXPIRES_S * _NS),
            "idle_heartbeat": int(IDLE_HEARTBEAT_S * _NS),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{streams.REQUESTS}.{source.consumer}"
        await self._broker.client.publish(subject, json.dumps(pull).encode(), reply=source.inbox)

    def _look_who_is_there(self) -> None:
        """A server that was killed forgets whom it gave what a moment ago, and gives it to another worker at once.

        So nobody begins anything with what it was given before, nor takes anything before all have said again what
        they had said.
        """
        server_id = self._broker.server_id
        if server_id == self._server_id:
            return
        if self._server_id and not self._broker.in_cluster:
            self._asks_from = time.monotonic() + _MET_S
            for source in self._sources:
                source.leases.lose()
            self._ids_known_from = datetime.now(UTC) + REQUEST_IDS_KNOWN
        self._server_id = server_id
        self._met_at = datetime.now(UTC)

    async def _ask_anew(self) -> None:
        """After a reconnect, or when the server fell silent: what was asked before counts for nothing."""
        for source in self._sources:
            source.asked = 0
            source.last_sign = 0.0
            await self._ask(source)

    async def _watchdog(self) -> None:
        """The server beats every second while it holds a pull; silence means that it lost ours."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(IDLE_HEARTBEAT_S)
            for source in self._sources:
                if source.asked and loop.time() - source.last_sign > _WATCHDOG_S:
                    if self._broker.connected:
                        log.warning("pull_lost", extra={"consumer": source.consumer})
                    source.asked = 0
                    source.last_sign = 0.0
                await self._ask(source)

    def _start_what_fits(self) -> None:
        while self.in_flight < self._slots and (source := self._next_source()):
            delivery = source.parked.get()
            source.running += 1
            task = asyncio.create_task(self._work(source, delivery), name=f"request {delivery.ack_subject}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next_source(self) -> _Source | None:
        """Interactive before background, which keeps a tenth of the slots."""
        interactive, background = self._sources
        if background.parked and (not interactive.parked or background.running < self._background_share):
            return background
        return interactive if interactive.parked else None

    async def _work(self, source: _Source, delivery: Delivery) -> None:
        try:
            delivery.lease.check()
            await self._settle(delivery, await self._run(delivery))
        except Lost:
            log.warning("request_left", extra={"subject": delivery.subject, "stream_seq": delivery.stream_seq})
        except asyncio.CancelledError:
            await self._give_back(delivery)
            raise
        except NotNow as exc:
            await self._give_back(delivery, delay_s=exc.delay_s)
        except NotStored as exc:
            log.warning("request_given_back", extra={"subject": delivery.subject, "error": str(exc)})
            await self._give_back(delivery, delay_s=_INTERNAL_NAK_S)
        except Exception:
            log.exception("request_crashed", extra={"subject": delivery.subject})
            await self._give_back(delivery, delay_s=_INTERNAL_NAK_S)
        finally:
            source.held.pop(delivery.stream_seq, None)
            source.running -= 1
            if task := asyncio.current_task():
                self._tasks.discard(task)
            self._start_what_fits()
        await self._ask(source)

    async def _heartbeats(self, source: _Source) -> None:
        """What the consumer answers after the signs of life has it after them.

        (A flush would ask the connection only, and nats-py stops reading when the answer comes after its timeout.)
        """
        sent_at = time.monotonic()
        while True:
            await asyncio.sleep(sent_at + streams.HEARTBEAT_S - time.monotonic())
            sent_at = time.monotonic()
            if self._broker.connected:
                for delivery in list(source.held.values()):
                    await self._say(delivery, b"+WPI")
                await self._confirm(source, sent_at)

    async def _confirm(self, source: _Source, sent_at: float) -> None:
        subject = f"$JS.API.CONSUMER.INFO.{streams.REQUESTS}.{source.consumer}"
        try:
            answer = await self._broker.client.request(subject, timeout=_INFO_TIMEOUT_S)
        except nats.errors.Error:
            return
        if "error" in json.loads(answer.data):
            return
        was_in_doubt = source.leases.in_doubt
        source.leases.confirmed(sent_at=sent_at)
        if was_in_doubt:
            source.asked = 0
            await self._ask(source)

    async def _settle(self, delivery: Delivery, ack: Ack) -> None:
        """Not when it is another worker's by now: what that one is doing would be nobody's, should it die."""
        match ack:
            case Acked():
                delivery.lease.check()
                await self._say(delivery, b"+ACK")
            case GaveBack(delay_s):
                await self._give_back(delivery, delay_s=delay_s)
            case Terminated():
                delivery.lease.check()
                await self._say(delivery, b"+TERM")
            case NotAcked():
                log.warning("request_left", extra={"subject": delivery.subject, "stream_seq": delivery.stream_seq})
            case _:
                assert_never(ack)

    async def _give_back(self, delivery: Delivery, *, delay_s: float = 0) -> None:
        """Not when it is another worker's by now: that one would get it a second time."""
        if delivery.lease.holds:
            await self._say(delivery, f'-NAK {{"delay": {int(delay_s * _NS)}}}'.encode() if delay_s else b"-NAK")

    async def _say(self, delivery: Delivery, word: bytes) -> None:
        """Lost words do no harm: what is not acked comes again, and is found to be done."""
        if not self._broker.client.is_closed:
            await self._broker.client.publish(delivery.ack_subject, word)

    async def _drain(self, grace_s: float) -> None:
        self._draining = True
        for source in self._sources:
            for delivery in source.parked.drain():
                source.held.pop(delivery.stream_seq, None)
                await self._give_back(delivery)
        log.info("draining", extra={"provider": self._provider, "in_flight": self.in_flight})
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        left = list(self._tasks)
        if left:
            self._interrupt()
            await asyncio.wait(left, timeout=_GIVE_BACK_S)
        await end(*left)
        for source in self._sources:
            if source.subscription:
                await source.subscription.unsubscribe()
        telemetry.HANDED_OVER_ON_DRAIN.inc(len(left))
