"""Credit → pull → slot → run → settle: how requests get from JetStream into a worker, and never twice or not at all.

FastStream's pull subscriber lets messages wait behind a busy handler until `ack_wait` passes and they run twice, so
this is a puller of our own. It says every three seconds that it still has what it has, and always asks for more than
it has room for: what lies deeper in the stream may be of somebody who has nothing here yet. What there is no room for
goes back, to come again later, unless its tenant has too much waiting already. The protocol is in
runtime/jetstream/pull.py, how much is asked for in capacity.py, what one tenant and one agent may have in shares.py,
whose turn it is in fair_queue.py, how many are made ready at once in preparation.py, when something comes again in
timetable.py, how much may wait in backlog.py, what a restarted server forgets in known_server.py.
"""

import asyncio
import contextvars
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import assert_never

import nats.errors
from nats.aio.msg import Msg

from contracts import streams
from contracts.subjects import Priority
from runtime.broker import Broker, message_bytes
from runtime.jetstream.pull import IDLE_HEARTBEAT_S, LARGEST_MESSAGE, Pull, PullEnd, delivered, nanoseconds
from runtime.tasks import end
from workers import telemetry
from workers.clock import Clock
from workers.intake import preparation
from workers.intake.asker import Asker, who_asks
from workers.intake.backlog import Backlog
from workers.intake.capacity import Capacity
from workers.intake.delivery import Ack, Acked, Delivery, GaveBack, NotAcked, Terminated
from workers.intake.fair_queue import FairQueue
from workers.intake.known_server import KnownServer
from workers.intake.lease import Leases
from workers.intake.shares import Shares
from workers.intake.timetable import Timetable
from workers.jetstream.server_memory import ids_known_from

log = logging.getLogger(__name__)

_INTERNAL_NAK_S = 5.0
_INFO_TIMEOUT_S = 2.0
_GIVE_BACK_S = 5.0
"""For booking what was interrupted, after the grace period."""
_PULL_BYTES = 3 * LARGEST_MESSAGE
"""What may be on its way from one queue. It counts for nobody yet."""
_SMALL = 4 * 1024
"""A smaller request is parsed in less than a millisecond, whatever stands in it."""
_PARSED_AT_ONCE = 64 * 1024
"""Bytes of requests that are parsed before others get the event loop: some milliseconds of it, unless one request alone
is larger. (8 MB that are made of small parts take 0.7 s.)"""
_OF_FREE_BYTES, _OF_FREE_BYTES_OF_TENANT = 1 / 3, 7
"""One tenant alone may have a quarter of the bytes: what is done with a large request takes several times its size."""


Run = Callable[[Delivery], Awaitable[Ack]]
"""Works on one request, and says what becomes of its message."""
Refuse = Callable[[Delivery], Awaitable[Ack | None]]
"""Tells the agent of a request that too much of its tenant waits. None: it may not be refused, and goes on to wait."""


def shares_of_bytes(total: int) -> Shares:
    """The bytes of requests that a worker may hold, parked or running, of all its pools."""
    return Shares(total, of_tenant=_OF_FREE_BYTES, of_agent=_OF_FREE_BYTES_OF_TENANT)


@dataclass(frozen=True, slots=True, eq=False)
class _Request:
    """A delivery, and whose share it takes."""

    delivery: Delivery
    asker: Asker
    size: int
    """Bytes of its body and headers."""

    @property
    def place(self) -> int:
        return self.delivery.stream_seq


@dataclass(slots=True)
class _Source:
    """One durable consumer, and the requests that came from it."""

    consumer: str
    priority: Priority
    pull: Pull
    leases: Leases
    timetable: Timetable
    look: int
    """How many requests are asked for whatever there is room for."""
    has_put_off: bool = False
    """There was no room for some of what came since requests were asked for."""
    parked: FairQueue[_Request] = field(default_factory=FairQueue[_Request])
    """They wait for a slot."""
    running: int = 0
    preparing: int = 0
    """Of those that run: how many have not asked their vendors."""
    held: dict[int, _Request] = field(default_factory=dict[int, _Request])
    """Parked or running, by their place in the stream."""


class Intake:
    """Pulls from a provider's two consumers and runs what it gets, `slots` at a time."""

    def __init__(
        self,
        broker: Broker,
        *,
        provider: str,
        slots: int,
        held_bytes: Shares,
        backlog: Backlog,
        run: Run,
        refuse: Refuse,
        interrupt: Callable[[], None],
        clock: Clock,
    ) -> None:
        """`held_bytes` is what this intake and others of the worker may hold together, `backlog` what they have given
        back; `interrupt` asks everything that still runs to give its request back."""
        self._broker = broker
        self._provider = provider
        self._capacity = Capacity(slots)
        self._slots = self._capacity.shares()
        self._preparing = preparation.shares()
        self._overdue = preparation.Overdue()
        self._bytes = held_bytes
        self._backlog = backlog
        self._run = run
        self._refuse = refuse
        self._interrupt = interrupt
        self._clock = clock
        self._server = KnownServer(clock)
        self._sources: dict[Priority, _Source] = {}
        for priority in Priority:
            consumer = streams.pool_consumer(provider, priority)
            pull = Pull(
                broker.client,
                stream=streams.REQUESTS,
                consumer=consumer,
                on_message=partial(self._receive, priority),
                on_end=partial(self._pull_ended, priority),
                monotonic=clock.monotonic,
                max_bytes=_PULL_BYTES,
            )
            leases = Leases(clock.monotonic)
            timetable, look = Timetable(clock), self._capacity.prefetch
            self._sources[priority] = _Source(consumer, priority, pull, leases, timetable, look)
        self._to_parse = 0
        """Bytes of requests that were started and have not had their first step."""
        self._parsing_since = 0.0
        self._parsing_is_due = True
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = contextvars.copy_context()
        """Of each request's task: one is often started by another one's step, whose context is not its own."""
        self._draining = False

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    @property
    def parked(self) -> int:
        return sum(len(source.parked) for source in self._sources.values())

    async def serve(self, stop: asyncio.Event, *, grace_s: float) -> None:
        """Works until `stop`, then drains: parked messages go back at once, running ones get `grace_s` to finish."""
        self._broker.on_reconnect.append(self._start_over)
        self._server.has_ids_from(await ids_known_from(self._broker, clock=self._clock))
        for source in self._sources.values():
            await source.pull.open()
            await self._ask(source)
        async with asyncio.TaskGroup() as group:
            heartbeats = [
                group.create_task(self._heartbeat(source), name=f"heartbeats {source.consumer}")
                for source in self._sources.values()
            ]
            watchdog = group.create_task(self._watch_pulls(), name=f"watchdog {self._provider}")
            await stop.wait()
            await end(watchdog)
            await self._drain(grace_s)
            await end(*heartbeats)

    async def _ask(self, source: _Source) -> None:
        """Asks for what there is room for, unless what comes might not be ours.

        What comes in answer to a pull that was sent after a confirmation of the leases is certainly ours. So nothing is
        asked while they are in doubt, and nothing of a server that has just been started anew.
        """
        if self._draining or not self._broker.connected or source.leases.in_doubt or source.pull.asked:
            return
        if not self._server.is_met(self._broker.server_id):
            forgot = self._server.meet(self._broker.server_id, in_cluster=self._broker.in_cluster)
            if forgot:  # it may have given to others what we hold: nothing more is begun with any of it
                for each in self._sources.values():
                    each.leases.lose()
        if self._server.is_settling:
            return
        source.look = self._capacity.next_look(source.look, put_off=source.has_put_off)
        source.has_put_off = False
        room = {"running": len(self._tasks), "parked": len(source.parked)}
        await source.pull.ask(self._capacity.to_ask(**room, look=source.look))

    async def _receive(self, priority: Priority, msg: Msg) -> None:
        source = self._sources[priority]
        told = delivered(msg.reply)
        delivery = Delivery(
            subject=msg.subject,
            data=msg.data,
            headers=msg.headers or {},
            ack_subject=msg.reply,
            deliveries=told.deliveries,
            queued_at=told.stored_at,
            priority=priority,
            stream_seq=told.stream_seq,
            may_be_again=self._server.may_have_given(told.stored_at),
            ids_known=self._server.knew_ids(told.stored_at),
            lease=source.leases.grant(),
        )
        # What we hold may be given to us again, by a server that was killed or that heard our signs of life too late.
        # One run of it is enough: it is acked when done or, if its lease was lost, left to be delivered once more.
        if not delivery.lease.holds or delivery.stream_seq in source.held:
            return
        if self._draining:
            await self._give_back(delivery)
            return
        who = who_asks(delivery.data, delivery.headers, tenant=delivery.tenant)
        size = message_bytes(delivery.data, delivery.headers)
        request = _Request(delivery, Asker(delivery.tenant, who[0] if who else ""), size)
        if self._bytes.may_take(request.asker, size):
            self._bytes.take(request.asker, size)
            source.held[request.place] = request
            source.parked.put(request.asker, request, place=request.place)
            self._start_what_fits()
        else:
            await self._put_off(source, request)
        while len(source.parked) > self._capacity.to_park(running=len(self._tasks)):
            longest = source.parked.take_from_longest()
            self._let_go(source, longest)
            await self._put_off(source, longest)
        await self._ask(source)

    async def _put_off(self, source: _Source, request: _Request) -> None:
        """Gives back what there is no room for, to come again when others had their turn.

        What comes for the first time is refused when its tenant has as much waiting as it may.
        """
        source.has_put_off = True
        tenant, size = request.asker.tenant, request.size
        may_wait = not request.delivery.is_new or self._backlog.has_room(tenant, size)
        if not may_wait and (ack := await self._refuse(request.delivery)) is not None:
            await self._settle(request.delivery, ack)
            return
        delay_s = source.timetable.delay_s(tenant, size=size)
        telemetry.PUT_OFF.labels(self._provider).inc()
        if request.delivery.lease.holds:
            self._backlog.add(tenant, self._provider, size, delay_s=delay_s)
        await self._give_back(request.delivery, delay_s=delay_s)

    def _let_go(self, source: _Source, request: _Request) -> None:
        del source.held[request.place]
        self._bytes.give_back(request.asker, request.size)

    async def _pull_ended(self, priority: Priority, pull_end: PullEnd) -> None:
        source = self._sources[priority]
        if pull_end.unserved is None:  # the consumer is gone or refuses: the watchdog asks again, and not at once
            log.debug("pull_ended", extra={"consumer": source.consumer, "reason": pull_end.description})
        else:
            await self._ask(source)

    async def _start_over(self) -> None:
        """After a reconnect what was asked before counts for nothing."""
        for source in self._sources.values():
            source.pull.forget()
            await self._ask(source)

    async def _watch_pulls(self) -> None:
        """The server beats every second while it holds a pull; silence means that it lost ours."""
        while True:
            await self._clock.sleep(IDLE_HEARTBEAT_S)
            for source in self._sources.values():
                if source.pull.forget_if_lost() and self._broker.connected:
                    log.warning("pull_lost", extra={"consumer": source.consumer})
                await self._ask(source)

    def _start_what_fits(self) -> None:
        while len(self._tasks) < self._capacity.slots:
            background = self._sources[Priority.BACKGROUND]
            for priority in self._capacity.order(running=background.running, preparing=background.preparing):
                source = self._sources[priority]
                if (request := source.parked.take(self._may_start, tenant_may=self._may_start_any)) is not None:
                    self._start(source, request)
                    break
            else:
                return

    def _may_start_any(self, tenant: str) -> bool:
        return self._slots.tenant_may_take(tenant) and self._preparing.tenant_may_take(tenant)

    def _may_start(self, request: _Request) -> bool:
        there_is_room = self._slots.may_take(request.asker) and self._preparing.may_take(request.asker)
        return there_is_room and (self._parsing_is_due or request.size < _SMALL)

    def _start(self, source: _Source, request: _Request) -> None:
        source.running += 1
        self._slots.take(request.asker)
        source.preparing += 1
        self._preparing.take(request.asker)
        request.delivery.preparation.begin(partial(self._prepared, source, request))
        self._overdue.end_in_time(request.delivery.preparation)
        name = f"request {request.delivery.ack_subject}"
        task = asyncio.create_task(self._work(source, request), name=name, context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if request.size >= _SMALL:
            self._parsing_since = self._parsing_since if self._to_parse else self._clock.monotonic()
            self._to_parse += request.size
            self._parsing_is_due = self._to_parse < _PARSED_AT_ONCE
            asyncio.get_running_loop().call_soon(self._parsed, request.size)

    def _prepared(self, source: _Source, request: _Request) -> None:
        source.preparing -= 1
        self._preparing.give_back(request.asker)
        if not self._draining:
            self._start_what_fits()

    def _parsed(self, size: int) -> None:
        """Runs after the first step of a request's task, in which the request is parsed.

        When enough was parsed, it leaves the event loop to others for as long as that took.
        """
        self._to_parse -= size
        if not self._to_parse and not self._parsing_is_due:
            took_s = self._clock.monotonic() - self._parsing_since
            asyncio.get_running_loop().call_later(took_s, self._go_on_parsing)

    def _go_on_parsing(self) -> None:
        self._parsing_is_due = True
        if not self._draining:
            self._start_what_fits()

    async def _work(self, source: _Source, request: _Request) -> None:
        delivery = request.delivery
        try:
            await self._settle(delivery, await self._run(delivery) if delivery.lease.holds else NotAcked())
        except asyncio.CancelledError:
            await self._give_back(delivery)
            raise
        except Exception:
            log.exception("request_crashed", extra={"subject": delivery.subject})
            await self._give_back(delivery, delay_s=_INTERNAL_NAK_S)
        finally:
            self._let_go(source, request)
            self._slots.give_back(request.asker)
            source.running -= 1
            if task := asyncio.current_task():
                self._tasks.discard(task)
            delivery.preparation.end()
            self._start_what_fits()
        await self._ask(source)

    async def _settle(self, delivery: Delivery, ack: Ack) -> None:
        # To ack what is another worker's by now would leave its work to nobody, should that one die.
        answer = ack if delivery.lease.holds else NotAcked()
        match answer:
            case Acked():
                await self._say(delivery, b"+ACK")
            case GaveBack(delay_s):
                await self._give_back(delivery, delay_s=delay_s)
            case Terminated():
                await self._say(delivery, b"+TERM")
            case NotAcked():
                log.warning("request_left", extra={"subject": delivery.subject, "stream_seq": delivery.stream_seq})
            case _:
                assert_never(answer)

    async def _give_back(self, delivery: Delivery, *, delay_s: float = 0) -> None:
        """Unless it is another worker's by now: then JetStream would give it out a second time beside that one."""
        if delivery.lease.holds:
            await self._say(delivery, f'-NAK {{"delay": {nanoseconds(delay_s)}}}'.encode() if delay_s else b"-NAK")

    async def _say(self, delivery: Delivery, word: bytes) -> None:
        """Lost words do no harm: what is not acked comes again, and is found to be done."""
        if not self._broker.client.is_closed:
            await self._broker.client.publish(delivery.ack_subject, word)

    async def _heartbeat(self, source: _Source) -> None:
        """Says of all that is held that it is still worked on, and asks whether the server has heard it.

        What the consumer answers after the signs of life has it after them. (A flush would ask the connection only, and
        nats-py stops reading when the answer comes after its timeout.)
        """
        info = f"$JS.API.CONSUMER.INFO.{streams.REQUESTS}.{source.consumer}"
        sent_at = self._clock.monotonic()
        while True:
            await self._clock.sleep(sent_at + streams.HEARTBEAT_S - self._clock.monotonic())
            sent_at = self._clock.monotonic()
            if not self._broker.connected:
                continue
            for request in list(source.held.values()):
                await self._say(request.delivery, b"+WPI")
            try:
                answer = await self._broker.client.request(info, timeout=_INFO_TIMEOUT_S)
            except nats.errors.Error:
                continue
            if "error" in json.loads(answer.data):
                continue
            was_in_doubt = source.leases.in_doubt
            source.leases.confirmed(sent_at=sent_at)
            if was_in_doubt:  # only a pull that is sent from now on brings what is certainly ours
                source.pull.forget()
                await self._ask(source)

    async def _drain(self, grace_s: float) -> None:
        self._draining = True
        for source in self._sources.values():
            for request in source.parked.drain():
                self._let_go(source, request)
                await self._give_back(request.delivery)
        log.info("draining", extra={"provider": self._provider, "in_flight": self.in_flight})
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        left = list(self._tasks)
        if left:
            self._interrupt()
            await asyncio.wait(left, timeout=_GIVE_BACK_S)
        await end(*left)
        for source in self._sources.values():
            await source.pull.close()
        telemetry.HANDED_OVER_ON_DRAIN.inc(len(left))
