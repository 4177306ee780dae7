"""One pool's way of a request in memory: the worker's own parts, on a JetStream that is a list, and a driven clock.

Nothing here opens a socket. Only what would speak to a server is replaced: publishing, the configuration, the counters
behind budgets, the stored events, the clock, and the vendor.
"""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from contracts import subjects
from contracts.attempts import ENTRY, Begun, Entry, Unmade
from contracts.budget import Hold
from contracts.control import MSG_ID
from contracts.errors import Overloaded
from contracts.events import (
    Cancelled,
    Completed,
    Delta,
    Event,
    Failed,
    NextCandidate,
    Retrying,
    Started,
    Timings,
    parse,
)
from contracts.providers import Limits, ProviderConfig, PublishedProvider, PublishedTenant
from contracts.requests import DEFAULT_DEADLINE_S, AssistantMessage, CompletionRequest
from contracts.subjects import Priority, Provider
from contracts.usage import Usage, UsageRecord, UsageSource
from runtime.broker import Broker
from runtime.jetstream.publishing import Outrun, Publisher
from runtime.sealing import Keyring
from runtime.vault import VaultSession
from tests.driven_clock import NOON, DrivenClock
from workers.clock import Clock
from workers.control.cancellations import Cancellations
from workers.endpoints.admission import EndpointGate
from workers.endpoints.circuit_breaker import CircuitBreaker
from workers.endpoints.concurrency import ConcurrencyLimit
from workers.endpoints.configuration import Configuration
from workers.endpoints.keys import KeyStore
from workers.endpoints.load_balancing import LoadBalancer
from workers.endpoints.names import Candidate
from workers.endpoints.router import Router
from workers.intake.delivery import Delivery
from workers.intake.lease import Leases
from workers.intake.waiting_room import WaitingRoom
from workers.interruption import Interruption
from workers.jetstream import stored_results
from workers.jetstream.server_memory import ServerMemory
from workers.jetstream.stored_results import Look, Result
from workers.providers.base import Call, Chunk, Finish, Stated, StreamItem, Take
from workers.providers.mock.adapter import Mock
from workers.quotas.budgets import Budgets, Reservation
from workers.quotas.cost_bounds import BudgetedCall
from workers.quotas.holds import Holds
from workers.quotas.rate_limiter import RateLimiter
from workers.request.attempts import AttemptRunner
from workers.request.ending import Ending
from workers.request.events import EventStream
from workers.request.execution import Execution
from workers.request.handover import Handovers
from workers.request.job import Job
from workers.request.journal import Journal, Written
from workers.request.live_streams import LiveStreams
from workers.request.provenance import Origin, Provenance
from workers.request.results import Results
from workers.request.settlement import Settlement
from workers.request.takeover import Takeover

MESSAGES = [{"role": "user", "content": "Hi"}]
USAGE = Usage(input_tokens=10, output_tokens=5, source=UsageSource.VENDOR)
FINISH = Finish("stop", USAGE)


@dataclass(frozen=True, slots=True)
class Message:
    """What was published, or what somebody else did at that moment."""

    subject: str
    payload: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def kind(self) -> str:
        """The type of an event, else the third token of the subject: usage, request, dead."""
        kind = self.subject.split(".")[2]
        return json.loads(self.payload)["type"] if kind == "reply" else kind


class MemoryPublisher(Publisher):
    """A list of messages. `refuses` maps the kind of a message to what publishing it raises."""

    def __init__(self) -> None:
        super().__init__(Broker(Nats()))
        self.messages: list[Message] = []
        """Without those of the journal."""
        self.journal: list[Message] = []
        self.refuses: dict[str, Exception] = {}
        self.before_each: Callable[[Message], None] = lambda _: None

    def delta(self, subject: str, payload: bytes, *, soon: bool) -> None:
        self._take(Message(subject, payload))

    def pass_on(self, subject: str, payload: bytes) -> None:
        self._take(Message(subject, payload))

    async def durable(
        self,
        subject: str,
        payload: bytes,
        *,
        msg_id: str,
        headers: dict[str, str] | None = None,
        check: Callable[[], None] | None = None,
        expected_last: int | None = None,
    ) -> int:
        if check is not None:
            check()
        stored = self.results if subject.startswith("llm.v1.result.") else self.journal
        if expected_last not in (None, len(stored)):
            raise Outrun(subject)
        self._take(Message(subject, payload, {**(headers or {}), MSG_ID: msg_id}))
        return len(stored)

    @property
    def results(self) -> list[Message]:
        return [message for message in self.messages if message.kind == "result"]

    def _take(self, message: Message) -> None:
        self.before_each(message)
        if (error := self.refuses.get(message.kind)) is not None:
            raise error
        (self.journal if message.kind == "attempt" else self.messages).append(message)

    @property
    def kinds(self) -> list[str]:
        return [message.kind for message in self.messages]

    def events(self) -> list[Event]:
        return [parse(message.payload) for message in self.messages if ".reply." in message.subject]

    def entries(self) -> list[Entry]:
        """What was written into the journal."""
        return [ENTRY.validate_json(message.payload) for message in self.journal]

    def records(self) -> list[UsageRecord]:
        return [UsageRecord.model_validate_json(m.payload) for m in self.messages if ".usage." in m.subject]


class MemoryJournal(Journal):
    """A journal that is a list, of one request."""

    def __init__(self, publisher: MemoryPublisher) -> None:
        super().__init__(Broker(Nats()), publisher, worker="w1")
        self._written = publisher

    async def read(self, subject: str) -> Written:
        entries = self._written.entries()
        unmade = {entry.id for entry in entries if isinstance(entry, Unmade)}
        begun = tuple(entry for entry in entries if isinstance(entry, Begun) and entry.id not in unmade)
        return Written(begun, len(entries))


class MemoryResults(Results):
    """Results of one request: those that were stored."""

    def __init__(self, publisher: MemoryPublisher) -> None:
        super().__init__(Broker(Nats()), publisher, usual_s=3600)
        self._written = publisher

    async def look(self, subject: str, *, request_id: str, queued_at: datetime | None) -> Look | None:
        answer: asyncio.Future[Msg | None] = asyncio.get_running_loop().create_future()
        answer.set_result(self._answer())
        return Look(answer)

    async def is_overtaken(self, job: Job) -> bool:
        return len(self._written.entries()) != job.journal_seq

    async def read(self, subject: str) -> Result | None:
        return stored_results.from_answer(self._answer())

    def _answer(self) -> Msg:
        """What the server answers."""
        stored = self._written.results
        if not stored:
            return Msg(Nats(), headers={"Status": "404"})
        headers = {**stored[-1].headers, "Nats-Sequence": str(len(stored))}
        return Msg(Nats(), data=stored[-1].payload, headers=headers)


class MemoryConfiguration(Configuration):
    def __init__(self, tenant: PublishedTenant, *providers: PublishedProvider) -> None:
        super().__init__(Broker(Nats()))
        self.tenants = {tenant.slug: tenant}
        self.providers: dict[str, PublishedProvider] = {p.provider_type: p for p in providers}

    async def tenant(self, slug: str) -> PublishedTenant | None:
        return self.tenants.get(slug)

    async def provider(self, tenant: str, provider: str) -> PublishedProvider | None:
        return self.providers.get(provider)

    def providers_of(self, tenant: str) -> dict[str, PublishedProvider]:
        return self.providers


class MemoryBudgets(Budgets):
    """Gives `answer` to whoever wants to reserve, and keeps what is given back."""

    def __init__(self, publisher: Publisher, waiting: WaitingRoom, clock: Clock, rng: random.Random) -> None:
        broker = Broker(Nats())
        super().__init__(
            broker, publisher, Holds(broker, publisher), waiting=waiting, worker="w1", clock=clock, rng=rng
        )
        self.answer: Reservation | Exception | None = None
        self.settled: list[Reservation | None] = []
        self.released: list[Hold] = []
        self.owed: list[Hold] = []

    async def reserve(
        self, tenant: PublishedTenant, call: BudgetedCall, *, interruption: Interruption
    ) -> Reservation | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def settle(self, tenant: PublishedTenant, record: UsageRecord, reservation: Reservation | None) -> None:
        self.settled.append(reservation)

    async def release(self, hold: Hold) -> None:
        self.released.append(hold)

    def release_later(self, hold: Hold) -> None:
        self.owed.append(hold)


Step = StreamItem | Finish | BaseException | Callable[[], None]
"""What a vendor says, what it raises, or what happens meanwhile."""


class ScriptedAdapter(Mock):
    """Plays one list of steps for each call; the last one again when there are no more."""

    def __init__(self, *calls: Sequence[Step], name: str = "mock") -> None:
        super().__init__()
        self.name = name
        self._calls = list(calls)
        self.asked: list[Call] = []

    def play(self, *calls: Sequence[Step]) -> None:
        """From now on."""
        self._calls = list(calls)

    async def stream_completion(self, call: Call, take: Take) -> Finish:
        self.asked.append(call)
        await call.may_send()
        for step in self._calls.pop(0) if len(self._calls) > 1 else self._calls[0]:
            match step:
                case BaseException():
                    raise step
                case Finish():
                    return step
                case Chunk() | Stated():
                    if (until_taken := take(step)) is not None:
                        await until_taken
                case _:
                    step()
                    await asyncio.sleep(0)
        raise AssertionError("a call ends with a Finish, or with what it raises")


@dataclass(slots=True)
class Way:
    """A pool with one tenant, `acme`, that has the providers named."""

    adapter: ScriptedAdapter = field(default_factory=lambda: ScriptedAdapter([Chunk(text="Hello"), FINISH]))
    pool: str = "mock"
    providers: tuple[str, ...] = ("mock",)
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The configuration of each provider."""
    places: int = 2
    stored: list[Event] = field(default_factory=list[Event])
    stored_cancels: list[str] = field(default_factory=list[str])
    """The ids that the tenant has cancelled before."""
    memory: ServerMemory | None = None
    unanswered: Exception | None = None
    """What reading the past raises."""
    note_read: Callable[[str], None] = lambda _: None
    """Told how much of the past is read: `all`, or `last`."""
    reconnects: int = 0
    may_wait_bytes: int = 10 * 1024**2
    """A larger request may not be handed over."""
    clock: DrivenClock = field(default_factory=DrivenClock)
    publisher: MemoryPublisher = field(default_factory=MemoryPublisher)
    keyring: Keyring = field(default_factory=lambda: Keyring([b"k" * 32]))
    cancellations: Cancellations = field(init=False)
    configuration: MemoryConfiguration = field(init=False)
    journal: MemoryJournal = field(init=False)
    budgets: MemoryBudgets = field(init=False)
    limiter: RateLimiter = field(init=False)
    settlement: Settlement = field(init=False)
    results: MemoryResults = field(init=False)
    handovers: Handovers = field(init=False)
    ending: Ending = field(init=False)
    execution: Execution = field(init=False)
    leases: Leases = field(init=False)
    waiting: WaitingRoom = field(init=False)

    def __post_init__(self) -> None:
        broker, rng = Broker(Nats()), random.Random(1)
        self.leases = Leases(lambda: 0.0)
        self.configuration = MemoryConfiguration(
            PublishedTenant(slug="acme", limits=Limits(requests_per_minute=0, requests_per_day=0)),
            *(
                PublishedProvider(
                    provider_id=f"id-of-{name}",
                    tenant="acme",
                    provider_type=Provider(name),
                    revision=1,
                    config=ProviderConfig.model_validate(self.config),
                )
                for name in self.providers
            ),
        )
        self.waiting = WaitingRoom(places=self.places, rng=rng)
        self.cancellations = Cancellations(self.clock, read_stored=self._read_stored_cancels)
        self.journal = MemoryJournal(self.publisher)
        self.budgets = MemoryBudgets(self.publisher, self.waiting, self.clock, rng)
        self.limiter = RateLimiter(broker, defaults=Limits(), clock=self.clock)
        self.settlement = Settlement(
            budgets=self.budgets,
            limiter=self.limiter,
            config=self.configuration,
            publisher=self.publisher,
            clock=self.clock,
        )
        router = Router(self.configuration, default_models={})
        endpoints = EndpointGate(
            breaker=CircuitBreaker(broker, worker="w1", clock=self.clock),
            balance=LoadBalancer(rng),
            slots=ConcurrencyLimit(broker, worker="w1", clock=self.clock),
            keys=KeyStore(cast("VaultSession", None), self.keyring, clock=self.clock.monotonic),
            waiting=self.waiting,
            clock=self.clock,
        )
        self.handovers = Handovers(
            self.pool,
            publisher=self.publisher,
            keyring=self.keyring,
            may_wait=lambda _, size: size <= self.may_wait_bytes,
            clock=self.clock,
        )
        self.results = MemoryResults(self.publisher)
        self.ending = Ending(
            self.pool,
            settlement=self.settlement,
            results=self.results,
            handovers=self.handovers,
            publisher=self.publisher,
        )
        self.execution = Execution(
            self.pool,
            attempts=AttemptRunner(
                self.adapter,
                router=router,
                endpoints=endpoints,
                budgets=self.budgets,
                settlement=self.settlement,
                journal=self.journal,
                worker="w1",
                max_event_bytes=lambda: 1024,
                backlog=lambda: None,
                clock=self.clock,
            ),
            takeover=self.takeover(),
            ending=self.ending,
            results=self.results,
            budgets=self.budgets,
            handovers=self.handovers,
            router=router,
            endpoints=endpoints,
            limiter=self.limiter,
            waiting=self.waiting,
            cancellations=self.cancellations,
            live=LiveStreams(reconnects=lambda: self.reconnects, until_kept=self._at_once),
            publisher=self.publisher,
            clock=self.clock,
            rng=rng,
        )

    def takeover(self) -> Takeover:
        return Takeover(
            self.pool,
            read_events=self._read_events,
            read_last=self._read_last,
            read_journal=self.journal.read,
            read_memory=self._read_memory,
            settlement=self.settlement,
            clock=self.clock,
        )

    async def _read_events(self, subject: str) -> list[Event]:
        self.note_read("all")
        if self.unanswered is not None:
            raise self.unanswered
        return self.stored

    async def _read_last(self, subject: str) -> Event | None:
        self.note_read("last")
        return self.stored[-1] if self.stored else None

    async def _read_memory(self) -> ServerMemory | None:
        return self.memory

    async def _read_stored_cancels(self, tenant: str) -> AsyncGenerator[tuple[str, datetime]]:
        for request_id in self.stored_cancels:
            yield request_id, self.clock.now()

    async def _at_once(self) -> None:
        return

    def delivery(self, data: bytes | None = None, **changes: Any) -> Delivery:
        """Of `request()`, given for the first time, as its agent published it."""
        usual: dict[str, Any] = {
            "subject": subjects.request(self.pool, Priority.INTERACTIVE, "acme"),
            "data": request().to_json() if data is None else data,
            "headers": {MSG_ID: "r1"},
            "ack_subject": "",
            "deliveries": 1,
            "queued_at": NOON,
            "priority": Priority.INTERACTIVE,
            "stream_seq": 7,
            "may_be_again": False,
            "ids_known": True,
            "lease": self.leases.grant(),
        }
        return Delivery(**{**usual, **changes})

    def job(self, *, deliveries: int = 1, **fields: Any) -> Job:
        """The job of `request()`, before anything was done for it."""
        asked = fields.pop("request", None) or request()
        usual: dict[str, Any] = {
            "delivery": self.delivery(deliveries=deliveries),
            "provenance": Provenance(Origin.FIRST, deliveries, perhaps_forgotten=False),
            "address": subjects.parse_request(subjects.request(self.pool, Priority.INTERACTIVE, "acme")),
            "request": asked,
            "body": asked.to_json(),
            "journal_subject": subjects.attempt("acme", "a", "r1"),
            "result_subject": subjects.result("acme", "a", "r1"),
            "origin": NOON.isoformat(),
            "handover": None,
            "events": EventStream(
                self.publisher, subject=subjects.reply("acme", "a", "r1"), request_id="r1", attempt=1
            ),
            "queued_at": NOON,
            "deadline": asked.deadline or NOON + timedelta(seconds=DEFAULT_DEADLINE_S),
            "queued_s": 0.0,
            "tenant": self.configuration.tenants["acme"],
        }
        return Job(**{**usual, **fields})


def request(**fields: Any) -> CompletionRequest:
    """One that is not streamed, unless the fields say so."""
    usual = {"id": "r1", "tenant": "acme", "agent": "a", "model": "mock/echo", "messages": MESSAGES, "stream": False}
    return CompletionRequest.model_validate({**usual, **fields})


def a_hold() -> Reservation:
    hold = Hold(tenant="acme", window="20261123", worker="w1", slot=0, number=1, units=10, at=NOON)
    return Reservation(hold, max_tokens=None)


ECHO = Candidate("mock", "echo")


def begun(
    attempt: int,
    *,
    seq: int = 7,
    model: str = "echo",
    provider: str = "mock",
    worker: str = "w",
    at: datetime = NOON,
) -> Begun:
    """Written by a worker that was about to call a vendor, for the message at `seq`."""
    return Begun(
        id=f"call-{seq}-{attempt}",
        request_id="r1",
        attempt=attempt,
        tenant="acme",
        agent="a",
        provider=provider,
        provider_id=f"id-of-{provider}",
        endpoint="e",
        model=model,
        worker=worker,
        request_seq=seq,
        started_at=at,
        ends_by=at + timedelta(seconds=60),
        queued_s=0.0,
        input_tokens=5,
    )


def started(attempt: int, *, model: str = "echo", provider: str = "mock") -> Started:
    """Said by a worker that called a vendor."""
    return Started(
        request_id="r1", attempt=attempt, seq=0, provider=provider, endpoint="e", model=model, worker="w", at=NOON
    )


def delta(attempt: int, seq: int = 1) -> Delta:
    return Delta(request_id="r1", attempt=attempt, seq=seq, text="x")


def retrying(attempt: int, *, to: Candidate = ECHO) -> Retrying:
    error = Overloaded("full", provider="mock").to_wire()
    up = NextCandidate(provider=to.provider, model=to.model)
    return Retrying(request_id="r1", attempt=attempt, seq=9, error=error, delay_s=0, next=up)


def completed(attempt: int) -> Completed:
    return Completed(
        request_id="r1",
        attempt=attempt,
        seq=9,
        message=AssistantMessage(content="x"),
        finish_reason="stop",
        usage=Usage(),
        provider="mock",
        model="echo",
        timings=Timings(queued_s=0, duration_s=1),
    )


def failed(attempt: int) -> Failed:
    return Failed(request_id="r1", attempt=attempt, seq=9, error=Overloaded("full").to_wire())


def cancelled(attempt: int) -> Cancelled:
    return Cancelled(request_id="r1", attempt=attempt, seq=9)
