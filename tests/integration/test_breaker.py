"""Circuits that a fleet shares: two workers' breakers on one NATS server."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest
from nats.js.kv import KeyValue

from contracts import streams, subjects
from contracts.errors import (
    AuthenticationFailed,
    ErrorCode,
    FleetError,
    InvalidRequest,
    Overloaded,
    RateLimited,
)
from fleet.local.servers import NatsServer
from runtime import broker
from runtime.settings import BrokerSettings
from tests.driven_clock import DrivenClock
from tests.patience import PATIENCE_S
from workers.endpoints.circuit import COOL_DOWN_LONGEST_S, MAX_FAILURES, OPEN_FIRST_S, PROBE_S
from workers.endpoints.circuit_breaker import BreakerToken, CircuitBreaker, OutOfService
from workers.endpoints.known_circuits import MOST_OF_A_TENANT
from workers.endpoints.names import EndpointId
from workers.providers.base import NotReached

MODEL, HEALTHY = "acme/llama.3:70b*", "healthy"
DEAD = Overloaded("no answer")


class Fleet:
    """Two workers, and the endpoint that they ask for a model."""

    def __init__(
        self, one: CircuitBreaker, other: CircuitBreaker, clock: DrivenClock, endpoint: EndpointId, bucket: KeyValue
    ) -> None:
        self.one, self.other, self.clock, self.endpoint, self.bucket = one, other, clock, endpoint, bucket

    async def entries(self) -> list[str]:
        """The keys of what the tenant has in the bucket."""
        return await self.bucket.keys(filters=[f"circuit.{self.endpoint.tenant}."])

    async def allow(self, breaker: CircuitBreaker, *, model: str = MODEL, revision: int = 1) -> BreakerToken:
        return await breaker.allow(self.endpoint, model, revision=revision)

    async def fail(self, breaker: CircuitBreaker, *errors: FleetError) -> None:
        for error in errors:
            await (await self.allow(breaker)).failed(error)

    async def refusal(self, breaker: CircuitBreaker, *, model: str = MODEL) -> OutOfService:
        with pytest.raises(OutOfService) as refused:
            await self.allow(breaker, model=model)
        return refused.value

    async def is_out(self, breaker: CircuitBreaker, *, model: str = MODEL) -> bool:
        try:
            await (await self.allow(breaker, model=model)).dropped()
        except OutOfService:
            return True
        return False

    async def until_out(self, breaker: CircuitBreaker, *, model: str = MODEL) -> None:
        await self.until(breaker, model=model, out=True)

    async def until(self, breaker: CircuitBreaker, *, model: str = MODEL, out: bool) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await self.is_out(breaker, model=model) is not out:
                await asyncio.sleep(0.01)


@pytest.fixture
async def nats_server(nats: NatsServer) -> NatsServer:
    return nats


@pytest.fixture
async def fleet(nats_server: NatsServer, tenant: str) -> AsyncGenerator[Fleet]:
    clock = DrivenClock()
    settings = BrokerSettings.model_validate({"nats_url": nats_server.url})
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        breakers: list[CircuitBreaker] = []
        tasks: list[asyncio.Task[None]] = []
        for name in ("one", "other"):
            connection = await stack.enter_async_context(
                broker.connect(settings, name=name, inbox_prefix=f"_ROLE_{name}")
            )
            await broker.ensure_streams(connection, settings)
            breaker = CircuitBreaker(connection, worker=name, clock=clock)
            tasks.append(group.create_task(breaker.bucket.run()))
            await breaker.bucket.wait_until_loaded()
            breakers.append(breaker)
        one, other = breakers
        bucket = await connection.client.jetstream().key_value(subjects.HEALTH_BUCKET)
        yield Fleet(one, other, clock, EndpointId(tenant, "openai", "default"), bucket)
        for task in tasks:
            task.cancel()


async def test_what_is_dead_is_taken_out_of_service_for_every_worker(fleet: Fleet) -> None:
    await fleet.fail(fleet.one, *[DEAD] * (MAX_FAILURES - 1))
    assert not await fleet.is_out(fleet.one)

    await fleet.fail(fleet.one, DEAD)

    assert (await fleet.refusal(fleet.one)).reason is ErrorCode.OVERLOADED
    await fleet.until_out(fleet.other)
    refused = await fleet.refusal(fleet.other)
    assert 0 < refused.retry_after_s <= OPEN_FIRST_S
    assert refused.to_error().code is ErrorCode.OVERLOADED


async def test_one_success_in_between_keeps_it_in_service(fleet: Fleet) -> None:
    await fleet.fail(fleet.one, *[DEAD] * (MAX_FAILURES - 1))
    await (await fleet.allow(fleet.one)).succeeded()
    await fleet.fail(fleet.one, *[DEAD] * (MAX_FAILURES - 1))

    assert not await fleet.is_out(fleet.one)


async def test_a_refused_request_says_nothing_against_its_endpoint(fleet: Fleet) -> None:
    await fleet.fail(fleet.one, *[InvalidRequest("too long")] * (2 * MAX_FAILURES))

    assert not await fleet.is_out(fleet.one)


async def test_what_began_before_the_circuit_opened_says_nothing_any_more(fleet: Fleet) -> None:
    early, late = await fleet.allow(fleet.one), await fleet.allow(fleet.one)
    await fleet.fail(fleet.one, *[DEAD] * MAX_FAILURES)

    await early.succeeded()
    assert await fleet.is_out(fleet.one)
    left_s = (await fleet.refusal(fleet.one)).retry_after_s
    await late.failed(DEAD)
    assert (await fleet.refusal(fleet.one)).retry_after_s <= left_s


async def test_a_dead_model_is_out_for_every_worker_and_no_other_model_with_it(fleet: Fleet) -> None:
    for _ in range(MAX_FAILURES):
        await fleet.fail(fleet.one, DEAD)
        await (await fleet.allow(fleet.one, model=HEALTHY)).succeeded()

    await fleet.until_out(fleet.other)
    for breaker in (fleet.one, fleet.other):
        await (await fleet.allow(breaker, model=HEALTHY)).succeeded()
        assert await fleet.is_out(breaker)


@pytest.mark.parametrize(
    "error", [AuthenticationFailed("no such key", status=401), NotReached("no route")], ids=lambda error: error.code
)
async def test_what_concerns_all_models_takes_the_endpoint_from_every_worker(fleet: Fleet, error: FleetError) -> None:
    await fleet.fail(fleet.one, *[error] * MAX_FAILURES)

    for model in (MODEL, HEALTHY):
        await fleet.until_out(fleet.other, model=model)
    fleet.clock.pass_by(OPEN_FIRST_S + 1)
    await (await fleet.allow(fleet.other, model=HEALTHY)).succeeded()
    for breaker in (fleet.one, fleet.other):
        await fleet.until(breaker, out=False)


async def test_models_without_number_fill_neither_the_bucket_nor_a_worker(fleet: Fleet) -> None:
    slow_down = RateLimited("slow down", retry_after_s=300)
    for breaker, first in ((fleet.one, 0), (fleet.other, 1000)):
        for number in range(first, first + MOST_OF_A_TENANT + 50):
            await (await fleet.allow(breaker, model=f"model-{number}")).failed(slow_down)
        # The other worker hears of each before it opens circuits of its own.
        await fleet.until_out(fleet.other, model=f"model-{MOST_OF_A_TENANT - 1}")

    assert len(await fleet.entries()) == MOST_OF_A_TENANT
    other_tenant = Fleet(
        fleet.one, fleet.other, fleet.clock, EndpointId(f"{fleet.endpoint.tenant}-2", "openai", "default"), fleet.bucket
    )
    await other_tenant.fail(fleet.one, slow_down)
    await other_tenant.until_out(fleet.other)


async def test_a_429_cools_the_model_down_for_all_until_the_time_it_named(fleet: Fleet) -> None:
    await fleet.fail(fleet.one, RateLimited("slow down", retry_after_s=40))

    await fleet.until_out(fleet.other)
    refused = await fleet.refusal(fleet.other)
    assert refused.reason is ErrorCode.RATE_LIMITED
    assert 35 < refused.retry_after_s <= 40
    fleet.clock.pass_by(41)
    assert not await fleet.is_out(fleet.other)


@pytest.mark.parametrize("named_s", [COOL_DOWN_LONGEST_S + 1, 86_400.0])
async def test_a_429_takes_no_endpoint_away_for_longer_than_minutes(fleet: Fleet, named_s: float) -> None:
    await fleet.fail(fleet.one, RateLimited("slow down", retry_after_s=named_s))

    await fleet.until_out(fleet.other)
    assert (await fleet.refusal(fleet.other)).retry_after_s <= COOL_DOWN_LONGEST_S <= 15 * 60
    fleet.clock.pass_by(COOL_DOWN_LONGEST_S + 1)
    await (await fleet.allow(fleet.other)).succeeded()
    await fleet.until(fleet.one, out=False)


async def test_the_fleet_sends_one_probe(fleet: Fleet) -> None:
    await fleet.fail(fleet.one, *[DEAD] * MAX_FAILURES)
    await fleet.until_out(fleet.other)
    fleet.clock.pass_by(OPEN_FIRST_S + 1)

    tries = [fleet.allow(breaker) for breaker in (fleet.one, fleet.other) * 20]
    got = await asyncio.gather(*tries, return_exceptions=True)

    assert sum(isinstance(answer, BreakerToken) for answer in got) == 1
    assert all(isinstance(answer, BreakerToken | OutOfService) for answer in got)


async def test_a_probe_that_succeeds_closes_the_circuit_for_all(fleet: Fleet) -> None:
    await fleet.fail(fleet.one, *[DEAD] * MAX_FAILURES)
    await fleet.until_out(fleet.other)
    waiting = asyncio.create_task(fleet.other.wait([fleet.endpoint], MODEL, at_most_s=60))
    await asyncio.sleep(0)
    fleet.clock.pass_by(OPEN_FIRST_S + 1)
    probe = await fleet.allow(fleet.one)

    await probe.succeeded()

    await asyncio.wait_for(waiting, PATIENCE_S)
    for breaker in (fleet.one, fleet.other):
        await fleet.until(breaker, out=False)


async def test_a_probe_that_fails_opens_it_for_longer(fleet: Fleet) -> None:
    await fleet.fail(fleet.one, *[DEAD] * MAX_FAILURES)
    await fleet.until_out(fleet.other)
    fleet.clock.pass_by(OPEN_FIRST_S + 1)

    await fleet.fail(fleet.other, DEAD)

    assert OPEN_FIRST_S < (await fleet.refusal(fleet.other)).retry_after_s <= 2 * OPEN_FIRST_S


async def test_a_probe_whose_request_was_stopped_leaves_its_place_at_once(fleet: Fleet) -> None:
    await fleet.fail(fleet.one, *[DEAD] * MAX_FAILURES)
    await fleet.until_out(fleet.other)
    fleet.clock.pass_by(OPEN_FIRST_S + 1)
    probe = await fleet.allow(fleet.one)
    assert await fleet.is_out(fleet.one)

    await probe.dropped()

    await (await fleet.allow(fleet.one)).succeeded()


async def test_a_probe_whose_worker_died_is_replaced(fleet: Fleet) -> None:
    await fleet.fail(fleet.one, *[DEAD] * MAX_FAILURES)
    await fleet.until_out(fleet.other)
    fleet.clock.pass_by(OPEN_FIRST_S + 1)
    lost = await fleet.allow(fleet.one)
    await fleet.until_out(fleet.other)

    fleet.clock.pass_by(PROBE_S + 1)
    await fleet.allow(fleet.other)

    await lost.succeeded()  # it was only slow: as good an answer as the other's
    assert not await fleet.is_out(fleet.one)


async def test_a_changed_configuration_puts_the_endpoint_back_into_service(fleet: Fleet) -> None:
    await fleet.fail(fleet.one, *[AuthenticationFailed("no such key")] * MAX_FAILURES)
    await fleet.until_out(fleet.other)

    await (await fleet.allow(fleet.other, revision=2)).succeeded()

    assert not await fleet.is_out(fleet.other)


async def test_circuits_are_shared_again_after_nats_was_restarted(fleet: Fleet, nats_server: NatsServer) -> None:
    await fleet.fail(fleet.one, *[DEAD] * MAX_FAILURES)
    await fleet.until_out(fleet.other)

    await nats_server.kill()
    await nats_server.start()
    settings = BrokerSettings.model_validate({"nats_url": nats_server.url})
    async with broker.connect(settings, name="admin", inbox_prefix="_ROLE_admin") as connection:
        await streams.ensure(connection.request, settings.sizes())
    for breaker in (fleet.one, fleet.other):
        await fleet.until(breaker, out=False)

    await fleet.fail(fleet.one, *[DEAD] * MAX_FAILURES)

    await fleet.until_out(fleet.other)
