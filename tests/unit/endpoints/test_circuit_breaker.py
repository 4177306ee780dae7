"""The two circuits of a call, that of its endpoint and that of its model, in one worker."""

import json
import re

import pytest

from contracts.errors import (
    AuthenticationFailed,
    ContextLengthExceeded,
    DeadlineExceeded,
    ErrorCode,
    FleetError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    StreamInterrupted,
)
from contracts.health import key_of_circuit
from contracts.wire import TOKEN_PATTERN
from tests.bucket import Bucket
from tests.driven_clock import DrivenClock
from workers.endpoints import known_circuits
from workers.endpoints.circuit import MAX_FAILURES, OPEN_FIRST_S
from workers.endpoints.circuit_breaker import BreakerToken, CircuitBreaker, OutOfService
from workers.endpoints.names import EndpointId
from workers.providers.base import NotReached

ENDPOINT = EndpointId("acme", "openai", "default")
DEAD, ALIVE, THIRD = "dead", "alive", "third"

OF_THE_MODEL = (
    Overloaded("full", status=529),
    ProviderUnavailable("it fails", status=500),
    ProviderUnavailable("it fails inside a stream"),
    ProviderTimeout("silence"),
    StreamInterrupted("cut"),
    ModelNotFound("no such model", status=404),
)
OF_THE_ENDPOINT = (
    AuthenticationFailed("refused", status=401),
    AuthenticationFailed("refused", status=403),
    QuotaExhausted("no credit", status=402),
    NotReached("no connection"),
    NotReached("no token", status=503),
)


class Worker:
    def __init__(self) -> None:
        self.bucket, self.clock = Bucket(), DrivenClock()
        self.breaker = CircuitBreaker(self.bucket.broker, worker="one", clock=self.clock)

    async def allow(self, model: str = DEAD, *, endpoint: EndpointId = ENDPOINT) -> BreakerToken:
        return await self.breaker.allow(endpoint, model, revision=1)

    async def fail(self, error: FleetError, model: str = DEAD, *, times: int = 1) -> None:
        for _ in range(times):
            await (await self.allow(model)).failed(error)

    async def succeed(self, model: str = ALIVE) -> None:
        await (await self.allow(model)).succeeded()

    async def is_out(self, model: str = DEAD) -> bool:
        try:
            await (await self.allow(model)).dropped()
        except OutOfService:
            return True
        return False

    def tell(self, key: str, sequence: int) -> None:
        """The watch says that the entry of this key is gone."""
        self.breaker._take(key, None, sequence)  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.mark.parametrize("error", OF_THE_MODEL, ids=str)
async def test_a_dead_model_leaves_service_although_its_fallback_at_the_same_endpoint_works(
    worker: Worker, error: FleetError
) -> None:
    calls = 0
    for _ in range(100):
        try:
            token = await worker.allow(DEAD)
        except OutOfService:
            pass
        else:
            calls += 1
            await token.failed(error)
        await worker.succeed(ALIVE)

    assert calls == MAX_FAILURES


@pytest.mark.parametrize("error", OF_THE_ENDPOINT, ids=str)
async def test_what_all_models_have_in_common_takes_the_endpoint_out_of_service(
    worker: Worker, error: FleetError
) -> None:
    for number in range(MAX_FAILURES):
        await worker.fail(error, f"model-{number}")

    for model in (ALIVE, "model-0"):
        with pytest.raises(OutOfService) as refused:
            await worker.allow(model)
        assert refused.value.reason is error.code
        assert str(refused.value.circuit) == "the endpoint default of openai"
    assert list(worker.bucket.last) == ["$KV.llm_health.circuit.acme.openai.default"]


@pytest.mark.parametrize("error", OF_THE_ENDPOINT, ids=str)
async def test_a_success_of_any_model_clears_the_endpoint_and_not_the_model_that_fails(
    worker: Worker, error: FleetError
) -> None:
    """A key that is refused for one model, or connections that are cut for one."""
    for _ in range(MAX_FAILURES):
        await worker.fail(error, DEAD)
        await worker.succeed(ALIVE)

    assert await worker.is_out(DEAD)
    assert not await worker.is_out(ALIVE)


async def test_a_model_for_which_the_key_is_refused_keeps_no_other_model_out_of_service_for_long(
    worker: Worker,
) -> None:
    refused = AuthenticationFailed("not for this model", status=403)
    await worker.fail(refused, times=MAX_FAILURES)
    assert await worker.is_out(ALIVE), "so far nobody knows that it is about one model"
    worker.clock.pass_by(OPEN_FIRST_S)
    await worker.succeed(ALIVE)

    for _ in range(2 * MAX_FAILURES):
        if not await worker.is_out(DEAD):
            await worker.fail(refused)
        assert not await worker.is_out(ALIVE)

    assert await worker.is_out(DEAD)


async def test_a_429_is_about_one_model(worker: Worker) -> None:
    await worker.fail(RateLimited("slow down", retry_after_s=20, status=429), DEAD)

    with pytest.raises(OutOfService) as refused:
        await worker.allow(DEAD)
    assert (refused.value.reason, refused.value.retry_after_s) == (ErrorCode.RATE_LIMITED, 20)
    assert refused.value.to_error().message == (
        "the model dead at the endpoint default of openai is not called for another 20 s, "
        "because of rate_limited before"
    )
    await worker.succeed(ALIVE)


@pytest.mark.parametrize("error", OF_THE_MODEL, ids=str)
async def test_trouble_of_a_model_shows_that_the_endpoint_is_reached(worker: Worker, error: FleetError) -> None:
    refused = AuthenticationFailed("refused", status=401)
    for number in range(MAX_FAILURES - 1):
        await worker.fail(refused, f"model-{number}")
    await worker.fail(error, DEAD)
    for number in range(MAX_FAILURES - 1):
        await worker.fail(refused, f"model-{number}")

    assert not await worker.is_out(ALIVE)


@pytest.mark.parametrize(
    "error", [InvalidRequest("cannot be written"), ContextLengthExceeded("too long"), DeadlineExceeded("too late")]
)
async def test_what_may_never_have_left_the_worker_says_nothing(worker: Worker, error: FleetError) -> None:
    await worker.fail(Overloaded("full", status=503), times=MAX_FAILURES - 1)
    await worker.fail(error)
    await worker.fail(Overloaded("full", status=503))

    assert await worker.is_out()


async def test_a_refusal_of_the_request_shows_that_its_model_works(worker: Worker) -> None:
    await worker.fail(Overloaded("full", status=503), times=MAX_FAILURES - 1)
    await worker.fail(InvalidRequest("wrong", status=400))
    await worker.fail(Overloaded("full", status=503))

    assert not await worker.is_out()


async def test_one_call_probes_the_endpoint_and_the_model(worker: Worker) -> None:
    await worker.fail(Overloaded("full", status=503), times=MAX_FAILURES)
    for number in range(MAX_FAILURES):
        await worker.fail(NotReached("no route"), f"model-{number}")
    worker.clock.pass_by(OPEN_FIRST_S)

    probe = await worker.allow(DEAD)
    assert await worker.is_out(DEAD)
    assert await worker.is_out(ALIVE), "the probe of the endpoint is taken, too"
    await probe.succeeded()

    assert not await worker.is_out(DEAD)
    assert not await worker.is_out(ALIVE)


async def test_no_probe_of_the_endpoint_is_taken_for_a_model_that_is_out_of_service(worker: Worker) -> None:
    await worker.fail(RateLimited("slow down", retry_after_s=200), DEAD)
    for number in range(MAX_FAILURES):
        await worker.fail(NotReached("no route"), f"model-{number}")
    worker.clock.pass_by(OPEN_FIRST_S)

    assert await worker.is_out(DEAD)

    await worker.succeed(ALIVE)
    assert await worker.is_out(DEAD)


async def test_the_probe_of_an_endpoint_is_given_back_when_that_of_the_model_is_lost(worker: Worker) -> None:
    await worker.fail(Overloaded("full", status=503), times=MAX_FAILURES)
    for number in range(MAX_FAILURES):
        await worker.fail(NotReached("no route"), f"model-{number}")
    worker.clock.pass_by(OPEN_FIRST_S)
    of_model = f"$KV.llm_health.{key_of_circuit('acme', 'openai', 'default', DEAD)}"
    worker.bucket.last[of_model] = (99, b"of another worker")

    assert await worker.is_out(DEAD)

    await worker.succeed(ALIVE)


@pytest.mark.parametrize("model", ["a" * 256, "org/llama.3:70b", "*.>", "模型", "model-0", "$KV"])
def test_any_name_of_a_model_makes_a_key_of_one_more_token(model: str) -> None:
    key = key_of_circuit("acme", "openai", "default", model)

    *place, token = key.split(".")
    assert place == ["circuit", "acme", "openai"]
    assert re.fullmatch(TOKEN_PATTERN, token)
    assert key != key_of_circuit("acme", "openai", "other", model)


async def test_an_entry_says_by_name_what_its_key_hides(worker: Worker) -> None:
    await worker.fail(RateLimited("slow down", retry_after_s=20), "org/llama.3:70b")

    entry = json.loads(worker.bucket.value(key_of_circuit("acme", "openai", "default", "org/llama.3:70b")))
    assert (entry["endpoint"], entry["model"]) == ("default", "org/llama.3:70b")


async def test_a_tenant_that_names_models_without_number_opens_a_bounded_number_of_circuits(worker: Worker) -> None:
    most = known_circuits.MOST_OF_A_TENANT
    for number in range(3 * most):
        await worker.fail(RateLimited("slow down", retry_after_s=300), f"model-{number}")

    assert len(worker.bucket.last) == most
    assert len(list(worker.breaker._known)) == most + 1  # pyright: ignore[reportPrivateUsage]
    other = EndpointId("globex", "openai", "default")
    await (await worker.allow(DEAD, endpoint=other)).failed(RateLimited("slow down", retry_after_s=300))
    with pytest.raises(OutOfService):
        await worker.allow(DEAD, endpoint=other)


async def test_an_endpoint_has_a_circuit_however_many_models_are_out_of_service(worker: Worker) -> None:
    for number in range(2 * known_circuits.MOST_OF_A_TENANT):
        await worker.fail(RateLimited("slow down", retry_after_s=300), f"model-{number}")

    await worker.fail(AuthenticationFailed("refused", status=401), times=MAX_FAILURES)

    assert await worker.is_out(ALIVE)


async def test_models_that_are_asked_for_once_make_room_for_others(worker: Worker) -> None:
    for number in range(3 * known_circuits.MOST_OF_A_TENANT):
        await worker.fail(ModelNotFound("no such model", status=404), f"model-{number}")

    await worker.fail(Overloaded("full", status=503), times=MAX_FAILURES)

    assert await worker.is_out(DEAD)


async def test_nothing_is_kept_of_an_entry_that_is_gone(worker: Worker) -> None:
    for number in range(100):
        await worker.fail(RateLimited("slow down", retry_after_s=300), f"model-{number}")
        key = key_of_circuit("acme", "openai", "default", f"model-{number}")
        worker.bucket.expire(key)
        worker.tell(key, worker.bucket.sequence)

    assert not await worker.is_out("model-0")
    assert worker.breaker._register._sequences == {}  # pyright: ignore[reportPrivateUsage]
