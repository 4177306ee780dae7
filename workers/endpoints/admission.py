"""From a candidate to the right to call one of its endpoints: in service, not too busy, and with its key."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from contracts.errors import DeadlineExceeded, FleetError, KeyUnavailable, UnknownModel
from contracts.providers import Endpoint, PublishedProvider
from contracts.subjects import Provider
from workers.clock import Clock
from workers.endpoints.circuit_breaker import BreakerToken, CircuitBreaker, OutOfService
from workers.endpoints.concurrency import ConcurrencyLimit, ConcurrencySlot
from workers.endpoints.keys import HeldKey, KeyStore
from workers.endpoints.load_balancing import LoadBalancer
from workers.endpoints.names import Candidate, EndpointId
from workers.endpoints.routing import endpoints_for
from workers.intake.waiting_room import WaitingRoom
from workers.interruption import Interruption
from workers.providers.base import CredentialReplaced

_ALWAYS_IN_SERVICE = frozenset({Provider.MOCK})
"""Whose requests script their own failures, which say nothing about the next one."""


@dataclass(slots=True)
class CandidateTries:
    """The stay of a request at one candidate."""

    candidate: Candidate
    endpoints: list[Endpoint] = field(default_factory=list[Endpoint])
    """Those that can be tried, the preferred one first; empty until the first try."""
    current: Endpoint | None = None
    """The one that was called last."""
    tried: Counter[str] = field(default_factory=Counter[str])
    """How often each endpoint was called, by name."""
    patience_s: float = 0
    """How long it may wait for an endpoint to be in service; each call that it makes gives it patience anew."""
    key: HeldKey | None = None
    key_read_anew: bool = False

    @property
    def tries(self) -> int:
        """At the endpoint that was called last."""
        return 0 if self.current is None else self.tried[self.current.name]

    def go_to(self, endpoint: Endpoint) -> None:
        self.current = endpoint
        self.tried[endpoint.name] += 1
        self.patience_s = 0

    def leave(self) -> None:
        """The endpoint that was called last is not tried again."""
        self.endpoints = [endpoint for endpoint in self.endpoints if endpoint is not self.current]


class CallPermit:
    """For one call of an endpoint, which counts as in flight until it is given back. Told how the call goes."""

    def __init__(
        self,
        of: "EndpointGate",
        name: EndpointId,
        endpoint: Endpoint,
        ticket: BreakerToken | None,
        slot: ConcurrencySlot | None,
    ) -> None:
        self.endpoint = endpoint
        self.key: HeldKey | None = None
        self._of = of
        self._name = name
        self._ticket = ticket
        self._slot = slot
        self._load = ExitStack()
        self._load.enter_context(of.balance.calling(name))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.give_back()

    async def first_output(self, after_s: float) -> None:
        self._of.balance.note_latency(self._name, after_s)
        await self.completed()

    async def completed(self) -> None:
        if self._ticket is not None:
            await self._ticket.succeeded()

    async def failed(self, error: FleetError) -> None:
        """A credential that was replaced says nothing of the endpoint."""
        if self._ticket is not None and not isinstance(error, CredentialReplaced):
            await self._ticket.failed(error)

    async def give_back(self) -> None:
        self._load.close()
        if self._ticket is not None:
            await self._ticket.dropped()
        if self._slot is not None:
            slot, self._slot = self._slot, None
            await self._of.slots.release(slot)


class EndpointGate:
    def __init__(
        self,
        *,
        breaker: CircuitBreaker,
        balance: LoadBalancer,
        slots: ConcurrencyLimit,
        keys: KeyStore,
        waiting: WaitingRoom,
        clock: Clock,
    ) -> None:
        self.balance = balance
        self.slots = slots
        self._breaker = breaker
        self._keys = keys
        self._waiting = waiting
        self._clock = clock

    async def enter(
        self, visit: CandidateTries, configured: PublishedProvider, *, interruption: Interruption, time_left_s: float
    ) -> CallPermit:
        """Raises OutOfService when none may be called, KeyUnavailable, UnknownModel, NotNow."""
        if not visit.endpoints:
            offered = endpoints_for(configured.config, visit.candidate.model)
            if not offered:
                raise UnknownModel(
                    f"no endpoint of {configured.provider_type} of tenant {configured.tenant} "
                    f"has {visit.candidate.model!r}"
                )
            visit.endpoints = self.balance.order([(_name(configured, e), e) for e in offered])
        give_up = self._clock.monotonic() + visit.patience_s
        while True:
            try:
                permit = await self._enter_any(visit, configured, interruption, time_left_s=time_left_s)
            except OutOfService as exc:
                left_s = give_up - self._clock.monotonic()
                if left_s <= 0:
                    raise
                with self._waiting.seat(configured.tenant, due_s=exc.retry_after_s):
                    async with interruption:
                        await self._breaker.wait([_name(configured, e) for e in visit.endpoints], at_most_s=left_s)
                continue
            try:
                async with interruption:
                    permit.key = visit.key = await self._keys.of(configured, permit.endpoint.key)
            except BaseException:
                await permit.give_back()
                raise
            return permit

    async def key_has_changed(self, visit: CandidateTries, *, tenant: str) -> bool:
        """Reads the key anew, after the vendor refused it."""
        if visit.key is None or visit.current is None:
            return False
        try:
            held = await self._keys.read_anew(tenant=tenant, provider=visit.candidate.provider, name=visit.current.key)
        except KeyUnavailable:
            return False
        return held.key_version != visit.key.key_version

    async def _enter_any(
        self, visit: CandidateTries, configured: PublishedProvider, interruption: Interruption, *, time_left_s: float
    ) -> CallPermit:
        """The first endpoint that is in service and has a free slot; else the first that is in service, once it has.

        Raises OutOfService with the soonest time when none is in service.
        """
        most = configured.config.max_concurrency
        soonest: OutOfService | None = None
        busy: Endpoint | None = None
        for endpoint in visit.endpoints:
            name = _name(configured, endpoint)
            try:
                ticket = await self._ticket(name, configured)
            except OutOfService as exc:
                if soonest is None or exc.retry_after_s < soonest.retry_after_s:
                    soonest = exc
                continue
            slot = await self.slots.take(name, most, at_most_s=0) if most else None
            if slot or not most:
                visit.go_to(endpoint)
                return CallPermit(self, name, endpoint, ticket, slot)
            if ticket is not None:
                await ticket.dropped()
            busy = busy or endpoint
        if busy is None or most is None:
            raise soonest or AssertionError("a visit has endpoints")
        name = _name(configured, busy)
        slot = await self._free_slot(name, most, interruption, time_left_s=time_left_s)
        try:
            ticket = await self._ticket(name, configured)
        except BaseException:
            await self.slots.release(slot)
            raise
        visit.go_to(busy)
        return CallPermit(self, name, busy, ticket, slot)

    async def _ticket(self, name: EndpointId, configured: PublishedProvider) -> BreakerToken | None:
        if name.provider in _ALWAYS_IN_SERVICE:
            return None
        return await self._breaker.allow(name, revision=configured.revision)

    async def _free_slot(
        self, name: EndpointId, most: int, interruption: Interruption, *, time_left_s: float
    ) -> ConcurrencySlot:
        with self._waiting.seat(name.tenant, due_s=0):
            async with interruption:
                slot = await self.slots.take(name, most, at_most_s=time_left_s)
        if slot is None:
            raise DeadlineExceeded(
                f"the {most} calls that {name.provider} of tenant {name.tenant} may have at once were all taken "
                "until the deadline"
            )
        return slot


def _name(configured: PublishedProvider, endpoint: Endpoint) -> EndpointId:
    return EndpointId(configured.tenant, configured.provider_type, endpoint.name)
