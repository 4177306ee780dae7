"""Resume, and the questions (rpc) that a pool answers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress

import nats.errors
from nats.aio.msg import Msg
from pydantic import ValidationError

from contracts import subjects
from contracts.control import Resume
from contracts.errors import (
    Error,
    FleetError,
    InternalError,
    InvalidRequest,
    MalformedRequest,
    NoProvider,
    ProviderUnavailable,
)
from contracts.events import parse
from contracts.providers import PublishedProvider
from contracts.rpc import CountTokens, EndpointHealth, EstimateCost, Health, HealthCheck, Models, Refusal
from contracts.subjects import RpcMethod
from contracts.wire import WireModel, errors_in_one_line
from runtime import lenient_json
from runtime.broker import Broker
from runtime.tasks import end
from workers.clock import Clock
from workers.endpoints.keys import KeyStore
from workers.endpoints.router import Router
from workers.jetstream import stored_events
from workers.providers.base import Provider, Target

log = logging.getLogger(__name__)

_RPC_TIMEOUT_S = 30.0
_AT_ONCE = 64
_YIELD_EVERY = 100


class Control:
    """Answers for one worker process. Each question runs in a task of its own, a bounded number at once."""

    def __init__(
        self,
        *,
        broker: Broker,
        router: Router,
        keys: KeyStore,
        adapters: Mapping[str, Provider],
        clock: Clock,
    ) -> None:
        self._broker = broker
        self._router = router
        self._keys = keys
        self._adapters = adapters
        self._clock = clock
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def subscribe(self) -> None:
        """One worker of the fleet, or of the pool, answers each question."""
        client = self._broker.client
        await client.subscribe(subjects.ALL_RESUMES, queue="resume", cb=self._in_task(self._resume))
        for provider in self._adapters:
            await client.subscribe(subjects.all_rpcs(provider), queue=f"rpc-{provider}", cb=self._in_task(self._answer))

    async def close(self) -> None:
        await end(*self._tasks)

    def _in_task(self, answer: Callable[[Msg], Awaitable[None]]) -> Callable[[Msg], Awaitable[None]]:
        """A subscription's callback that answers in a task; a FleetError of `answer` is sent as the refusal."""

        async def run(msg: Msg) -> None:
            try:
                await self._answer_or_refuse(msg, answer)
            except (nats.errors.Error, TimeoutError) as exc:
                log.warning("answer_failed", extra={"subject": msg.subject, "error": type(exc).__name__})
                with suppress(nats.errors.Error):
                    await self._refuse(msg, ProviderUnavailable(f"NATS did not answer: {type(exc).__name__}"))
            except Exception:
                log.exception("answer_crashed", extra={"subject": msg.subject})

        async def start(msg: Msg) -> None:
            if not msg.reply:
                return
            task = asyncio.create_task(run(msg), name=f"answer {msg.subject}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return start

    async def _answer_or_refuse(self, msg: Msg, answer: Callable[[Msg], Awaitable[None]]) -> None:
        """Waits for one of the slots first."""
        async with self._slots:
            try:
                await answer(msg)
            except FleetError as error:
                await self._refuse(msg, error)

    async def _resume(self, msg: Msg) -> None:
        """Sends the stored events that the agent has not seen, and an empty message after the last one."""
        tenant = subjects.tenant_of_control(msg.subject)
        try:
            ask = Resume.model_validate_json(msg.data)
        except ValidationError as exc:
            raise MalformedRequest(f"the question is not valid: {errors_in_one_line(exc)}") from None
        found = 0
        async with aclosing(
            stored_events.raw(self._broker, subjects.reply(tenant, ask.agent, ask.request_id))
        ) as stored:
            async for data in stored:
                found += 1
                event = parse(data)
                if (event.attempt, event.seq) > ask.after:
                    await self._broker.client.publish(msg.reply, data)
                if found % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        if not found:
            raise InvalidRequest(f"no events are stored of request {ask.request_id}; they are kept for 10 minutes")
        await self._broker.client.publish(msg.reply, b"")

    async def _answer(self, msg: Msg) -> None:
        provider = msg.subject.split(".")[3]
        method, tenant = subjects.method_and_tenant_of_rpc(msg.subject)
        try:
            async with asyncio.timeout(_RPC_TIMEOUT_S):
                answer = await self._ask_adapter(provider, method, tenant, msg.data or b"{}")
        except ValidationError as exc:
            raise MalformedRequest(f"the question is not valid: {errors_in_one_line(exc)}") from None
        except TimeoutError:
            raise InternalError(f"{provider} did not answer {method} in {_RPC_TIMEOUT_S:.0f} s") from None
        await self._broker.client.publish(msg.reply, answer.to_json())

    async def _ask_adapter(self, provider: str, method: str, tenant: str, data: bytes) -> WireModel:
        adapter = self._adapters[provider]
        settings = await self._router.tenant(tenant)
        configured = await self._router.provider(tenant, provider)
        match method:
            case RpcMethod.HEALTH:
                check, _ = lenient_json.parse(HealthCheck, data)
                if configured.revision < (check.revision or 0):
                    raise NoProvider(f"the last change of {provider} of tenant {tenant} has not arrived here yet")
                return await self._health(adapter, configured)
            case RpcMethod.MODELS:
                return Models(models=await adapter.get_supported_models(await self._target(configured)))
            case RpcMethod.COUNT_TOKENS:
                question, _ = lenient_json.parse(CountTokens, data)
                model = self._router.model(question.model, tenant=settings, configured=configured)
                return await adapter.count_tokens(question, model=model, target=await self._target(configured))
            case RpcMethod.ESTIMATE_COST:
                estimate, _ = lenient_json.parse(EstimateCost, data)
                model = self._router.model(estimate.model, tenant=settings, configured=configured)
                return await adapter.estimate_cost(
                    estimate, model=model, target=await self._target(configured), prices=settings.prices
                )
            case _:
                raise MalformedRequest(f"there is no method {method[:64]!r}; there are {', '.join(RpcMethod)}")

    async def _target(self, configured: PublishedProvider, number: int = 0) -> Target:
        endpoint = configured.config.all_endpoints()[number]
        held = await self._keys.of(configured, endpoint.key)
        return Target(endpoint, configured.config.timeouts, held.secret if held else None)

    async def _health(self, adapter: Provider, configured: PublishedProvider) -> Health:
        checked: list[EndpointHealth] = []
        for number, endpoint in enumerate(configured.config.all_endpoints()):
            started = self._clock.monotonic()
            error: Error | None = None
            try:
                await adapter.check_health(await self._target(configured, number))
            except FleetError as exc:
                error = exc.to_wire()
            latency_s = self._clock.monotonic() - started
            checked.append(
                EndpointHealth(endpoint=endpoint.name, healthy=error is None, latency_s=latency_s, error=error)
            )
        return Health(healthy=all(e.healthy for e in checked), endpoints=tuple(checked))

    async def _refuse(self, msg: Msg, error: FleetError) -> None:
        await self._broker.client.publish(msg.reply, Refusal(error=error.to_wire()).to_json())
