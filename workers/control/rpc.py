"""The questions (rpc) that a pool answers: health, models, token counts and costs."""

import asyncio
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from contracts.errors import Error, FleetError, InternalError, MalformedRequest, NoProvider
from contracts.providers import PublishedProvider
from contracts.rpc import CountTokens, EndpointHealth, EstimateCost, Health, HealthCheck, Models
from contracts.subjects import RpcMethod
from contracts.wire import WireModel, errors_in_one_line
from runtime import lenient_json
from workers.clock import Clock
from workers.endpoints.keys import KeyStore
from workers.endpoints.router import Router
from workers.providers.base import Provider, Target

TIMEOUT_S = 30.0
"""From the question to its answer."""

_SHORT_BYTES = 64 * 1024
_STRINGS, _STRUCTURE_BYTES = 20_000, 100_000

M = TypeVar("M", bound=BaseModel)


class Rpc:
    def __init__(self, *, router: Router, keys: KeyStore, adapters: Mapping[str, Provider], clock: Clock) -> None:
        self._router = router
        self._keys = keys
        self._adapters = adapters
        self._clock = clock

    async def answer(self, provider: str, method: str, tenant: str, data: bytes, *, time_left_s: float) -> WireModel:
        """Asks the adapter. `data` is the question as JSON. Raises FleetError."""
        try:
            async with asyncio.timeout(time_left_s):
                return await self._ask_adapter(provider, method, tenant, data)
        except ValidationError as exc:
            raise MalformedRequest(f"the question is not valid: {errors_in_one_line(exc)}") from None
        except TimeoutError:
            raise InternalError(f"{provider} did not answer {method} in {TIMEOUT_S:.0f} s") from None

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
                question = await parse_question(CountTokens, data)
                model = self._router.model(question.model, tenant=settings, configured=configured)
                return await adapter.count_tokens(question, model=model, target=await self._target(configured))
            case RpcMethod.ESTIMATE_COST:
                estimate = await parse_question(EstimateCost, data)
                model = self._router.model(estimate.model, tenant=settings, configured=configured)
                return await adapter.estimate_cost(
                    estimate, model=model, target=await self._target(configured), prices=settings.prices
                )
            case _:
                raise MalformedRequest(f"there is no method {method[:64]!r}; there are {', '.join(RpcMethod)}")

    async def _target(self, configured: PublishedProvider, number: int = 0) -> Target:
        endpoint = configured.config.all_endpoints()[number]
        held = await self._keys.of(configured, endpoint.key)
        return Target(endpoint, configured.config.timeouts, held.secret if held else None, tenant=configured.tenant)

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


async def parse_question(model: type[M], data: bytes) -> M:
    """Raises ValidationError and MalformedRequest."""
    if len(data) <= _SHORT_BYTES:
        return lenient_json.parse(model, data)[0]
    return await asyncio.to_thread(_parse_long, model, data)


def _parse_long(model: type[M], data: bytes) -> M:
    """For a thread. In a thread as well the parser keeps the interpreter to itself until it is done, and what takes its
    time is not text but structure: 7 MB of it took 0.6 s. So that is bounded first; and nothing is mended, which takes
    several times as long."""
    unescaped = data.replace(rb"\\", b"").replace(rb"\"", b"")
    if unescaped.count(b'"') > 2 * _STRINGS or (
        len(b"".join(unescaped.split(b'"')[::2]).translate(None, b" \t\r\n")) > _STRUCTURE_BYTES
    ):
        raise MalformedRequest(f"a question of more than {_SHORT_BYTES} bytes may have up to {_STRINGS} strings in it")
    return model.model_validate_json(data, strict=True)
