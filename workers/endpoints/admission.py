"""From a candidate to the right to call one of its endpoints: in service, not too busy, and with its key."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from contracts.errors import DeadlineExceeded, ErrorCode, FleetError, KeyUnavailable, UnknownModel
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
"""Providers without a circuit: their requests script their own failures, which say nothing about the next one."""


@dataclass(slots=True)
class CandidateTries:
    """What a request has tried at one candidate, and what is left to be tried there."""

    candidate: Candidate
    endpoints: list[Endpoint] = field(default_factory=list[Endpoint])
    """Those that can be tried, the preferred one first; empty until the first try."""
    current: Endpoint | None = None
    """The one that was called last."""
    tried: Counter[str] = field(default_factory=Counter[str])
    """How often each endpoint was called, by name."""
    patience_s: float = 0
    """How long it may wait for an endpoint to be in service. Each call that is made ends it."""
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
        name: EndpointId,
        endpoint: Endpoint,
        *,
        token: BreakerToken | None,
        slot: ConcurrencySlot | None,
        load_balancer: LoadBalancer,
        slots: ConcurrencyLimit,
    ) -> None:
        """`token`: None where the endpoint has no circuit; `slot`: None where calls at the same time have no bound."""
        self.endpoint = endpoint
        self.key: HeldKey | None = None
        self._name = name
        self._token = token
        self._slot = slot
        self._slots = slots
        self._load_balancer = load_balancer
        self._telling: asyncio.Task[None] | None = None
        self._is_in_flight = True
        load_balancer.begin(name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.give_back()

    def first_output(self, after_s: float) -> None:
        """Tells the circuits in a task of its own, because nothing of the answer is to wait for it."""
        self._load_balancer.observe_latency(self._name, after_s)
        if self._token is not None:
            self._telling = asyncio.create_task(self.completed(), name="tell circuits")

    async def completed(self) -> None:
        if self._token is not None:
            await self._token.succeeded()

    async def failed(self, error: FleetError) -> None:
        """Tells the circuits; not of a credential that was replaced, which says nothing about the endpoint."""
        if self._token is not None and not isinstance(error, CredentialReplaced):
            await self._token.failed(error)

    async def give_back(self) -> None:
        if self._is_in_flight:
            self._is_in_flight = False
            self._load_balancer.end(self._name)
        if self._telling is not None:
            await self._telling
        if self._token is not None:
            await self._token.dropped()
        if self._slot is not None:
            slot, self._slot = self._slot, None
            await self._slots.release(slot)


@dataclass(frozen=True, slots=True)
class Busy:
    """An endpoint is in service, for this model too, and as many calls as it may have are under way."""

    endpoint: Endpoint


def worth_waiting_for(looked_at: Sequence[Busy | OutOfService]) -> Busy | OutOfService:
    """What a request waits for when no endpoint could be called at once. `looked_at` are the refusals, in order.

    The first endpoint that is only busy, because a slot there may be free any moment; when none is in service, the
    one that is back soonest, of those that have the model.
    """
    busy = next((refusal for refusal in looked_at if isinstance(refusal, Busy)), None)
    if busy is not None:
        return busy
    out_of_service = (refusal for refusal in looked_at if isinstance(refusal, OutOfService))
    return min(out_of_service, key=lambda out: (out.reason is ErrorCode.MODEL_NOT_FOUND, out.retry_after_s))


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
        self._breaker = breaker
        self._load_balancer = balance
        self._slots = slots
        self._keys = keys
        self._waiting = waiting
        self._clock = clock

    async def enter(
        self, tries: CandidateTries, configured: PublishedProvider, *, interruption: Interruption, time_left_s: float
    ) -> CallPermit:
        """The right to one call, waited for as long as `tries` may.

        Raises OutOfService when no endpoint may be called, DeadlineExceeded, KeyUnavailable, UnknownModel, NotNow.
        """
        if not tries.endpoints:
            model = tries.candidate.model
            offered = [(_name(configured, endpoint), endpoint) for endpoint in endpoints_for(configured.config, model)]
            if not offered:
                raise UnknownModel(
                    f"no endpoint of {configured.provider_type} of tenant {configured.tenant} has {model!r}"
                )
            tries.endpoints = self._load_balancer.order(offered)
        give_up = self._clock.monotonic() + tries.patience_s
        while True:
            found = await self._first_free(tries.endpoints, tries.candidate.model, configured)
            if isinstance(found, Busy):
                found = await self._when_free(found.endpoint, tries, configured, interruption, time_left_s=time_left_s)
            if isinstance(found, CallPermit):
                break
            left_s = give_up - self._clock.monotonic()
            if left_s <= 0:
                raise found
            with self._waiting.place(configured.tenant, due_s=found.retry_after_s):
                async with interruption.scope():
                    endpoints = [_name(configured, endpoint) for endpoint in tries.endpoints]
                    await self._breaker.wait(endpoints, tries.candidate.model, at_most_s=left_s)
        tries.go_to(found.endpoint)
        try:
            async with interruption.scope():
                found.key = tries.key = await self._keys.of(configured, found.endpoint.key)
        except BaseException:
            await found.give_back()
            raise
        return found

    async def key_has_changed(self, tries: CandidateTries, *, tenant: str) -> bool:
        """Reads the key anew after the vendor refused it, and says whether it is another one than was used."""
        if tries.key is None or tries.current is None:
            return False
        try:
            held = await self._keys.read_anew(tenant=tenant, provider=tries.candidate.provider, name=tries.current.key)
        except KeyUnavailable:
            return False
        return held.key_version != tries.key.key_version

    async def _first_free(
        self, endpoints: Sequence[Endpoint], model: str, configured: PublishedProvider
    ) -> CallPermit | Busy | OutOfService:
        """The first endpoint that is in service and has a free slot; without one, what to wait for."""
        most = configured.config.max_concurrency
        refusals: list[Busy | OutOfService] = []
        for endpoint in endpoints:
            name = _name(configured, endpoint)
            try:
                token = await self._token(name, model, configured)
            except OutOfService as exc:
                refusals.append(exc)
                continue
            slot = await self._slots.take(name, most, at_most_s=0) if most else None
            if slot or not most:
                return self._permit(name, endpoint, token, slot)
            if token is not None:  # it may be the fleet's only probe
                await token.dropped()
            refusals.append(Busy(endpoint))
        return worth_waiting_for(refusals)

    async def _when_free(
        self,
        endpoint: Endpoint,
        tries: CandidateTries,
        configured: PublishedProvider,
        interruption: Interruption,
        *,
        time_left_s: float,
    ) -> CallPermit | OutOfService:
        """Waits for a slot; by then the endpoint may be out of service. Raises DeadlineExceeded, NotNow."""
        name, most = _name(configured, endpoint), configured.config.max_concurrency or 0
        slot: ConcurrencySlot | None = None
        try:
            with self._waiting.place(name.tenant, due_s=0):
                async with interruption.scope():
                    slot = await self._slots.take(name, most, at_most_s=time_left_s)
            if slot is None:
                raise DeadlineExceeded(
                    f"the {most} calls that {name.provider} of tenant {name.tenant} may have at once were all taken "
                    "until the deadline"
                )
            token = await self._token(name, tries.candidate.model, configured)
        except BaseException as exc:
            # Also of an interruption that met the answer of NATS: Python 3.11's wait_for returns the answer then.
            if slot is not None:
                await self._slots.release(slot)
            if isinstance(exc, OutOfService):
                return exc
            raise
        return self._permit(name, endpoint, token, slot)

    def _permit(
        self, name: EndpointId, endpoint: Endpoint, token: BreakerToken | None, slot: ConcurrencySlot | None
    ) -> CallPermit:
        return CallPermit(name, endpoint, token=token, slot=slot, load_balancer=self._load_balancer, slots=self._slots)

    async def _token(self, name: EndpointId, model: str, configured: PublishedProvider) -> BreakerToken | None:
        """The circuits' leave to ask the endpoint for the model; None where there are none. Raises OutOfService."""
        if name.provider in _ALWAYS_IN_SERVICE:
            return None
        return await self._breaker.allow(name, model, revision=configured.revision)


def _name(configured: PublishedProvider, endpoint: Endpoint) -> EndpointId:
    return EndpointId(configured.tenant, configured.provider_type, endpoint.name)
