"""What the control plane asks of the data plane: a health check, who is there, and how much is waiting."""

import asyncio
import itertools
import json
import logging
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue
from pydantic import BaseModel, TypeAdapter, ValidationError

from admin_api.configuration.providers import ProviderView
from admin_api.control_plane import ControlPlane
from admin_api.http.problems import conflict, unavailable
from contracts import streams, subjects
from contracts.errors import Error, ErrorCode
from contracts.providers import WorkerPresence
from contracts.rpc import EndpointHealth, Health, HealthCheck, Refusal
from contracts.subjects import AUTO, Priority, Provider, RpcMethod
from contracts.wire import optional, reason
from runtime.broker import Broker

log = logging.getLogger(__name__)

T = TypeVar("T")

_ANSWER_TIMEOUT_S = 8.0
_CONFIG_ARRIVES_WITHIN_S = 2.0
_ASK_AGAIN_AFTER_S = 0.1
_READ_TIMEOUT_S = 5

_ANSWER: TypeAdapter[Health | Refusal] = TypeAdapter(Health | Refusal)
_NOT_YET_KNOWN = (ErrorCode.UNKNOWN_TENANT, ErrorCode.NO_PROVIDER, ErrorCode.KEY_UNAVAILABLE)
"""What a worker says of a provider that was added or changed a moment ago, when it has not heard of it yet."""


class HealthResult(BaseModel):
    healthy: bool
    endpoints: list[EndpointHealth]
    error: Error | None = optional()
    """Why nothing could be checked."""


class PoolQueue(BaseModel):
    provider: str
    priority: str
    waiting: int
    """Not yet delivered to a worker."""
    delivered: int
    """At a worker, not yet acknowledged."""
    redelivered: int


class StreamSize(BaseModel):
    name: str
    messages: int
    bytes: int
    consumers: int


class FleetState(BaseModel):
    workers: list[WorkerPresence]
    queues: list[PoolQueue]
    streams: list[StreamSize]


async def check_health(plane: ControlPlane, provider: ProviderView) -> HealthResult:
    """Asks a worker for one cheap authenticated call to each endpoint, with the stored key.

    Raises a 409 problem for a deactivated provider, 503 when no worker of its pool answers.
    """
    if not provider.is_active:
        raise conflict("the provider is deactivated; activate it first")
    subject = subjects.rpc(provider.provider_type, RpcMethod.HEALTH, provider.tenant)
    give_up_at = asyncio.get_running_loop().time() + _CONFIG_ARRIVES_WITHIN_S
    while True:
        answer = await ask(plane.broker, subject, HealthCheck(revision=provider.revision).to_json(), answers=_ANSWER)
        if isinstance(answer, Health):
            return HealthResult(healthy=answer.healthy, endpoints=list(answer.endpoints))
        if answer.error.code not in _NOT_YET_KNOWN or asyncio.get_running_loop().time() > give_up_at:
            return HealthResult(healthy=False, endpoints=[], error=answer.error)
        await asyncio.sleep(_ASK_AGAIN_AFTER_S)


async def state(plane: ControlPlane) -> FleetState:
    """Raises a 503 problem when NATS does not answer."""
    _must_be_connected(plane.broker)
    try:
        workers, queues, sizes = await asyncio.gather(
            _presences(plane.broker),
            asyncio.gather(*(_queue(plane.broker, *pool) for pool in itertools.product((*Provider, AUTO), Priority))),
            asyncio.gather(*(_size(plane.broker, config["name"]) for config in streams.definitions(streams.Sizes()))),
        )
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as exc:
        raise unavailable(f"NATS does not answer: {reason(exc)}") from exc
    return FleetState(workers=workers, queues=list(queues), streams=list(sizes))


async def ask(broker: Broker, subject: str, question: bytes, *, answers: TypeAdapter[T]) -> T:
    """Asks one worker of the pool that `subject` names. Raises a 503 problem."""
    _must_be_connected(broker)
    pool = subject.split(".")[3]
    try:
        message = await broker.client.request(subject, question, timeout=_ANSWER_TIMEOUT_S)
    except nats.errors.NoRespondersError as exc:
        raise unavailable(f"no worker of the pool {pool} is running") from exc
    except (nats.errors.Error, TimeoutError) as exc:
        raise unavailable(f"no worker of the pool {pool} answered in {_ANSWER_TIMEOUT_S:g} s") from exc
    try:
        return answers.validate_json(message.data)
    except ValidationError as exc:
        raise unavailable(f"a worker of the pool {pool} answered in a form that this version does not know") from exc


def _must_be_connected(broker: Broker) -> None:
    if not broker.connected:
        raise unavailable("NATS does not answer")


async def _presences(broker: Broker) -> list[WorkerPresence]:
    jetstream = broker.client.jetstream(timeout=_READ_TIMEOUT_S)
    bucket = await jetstream.key_value(subjects.HEALTH_BUCKET)
    watcher = await bucket.watch("worker.*", ignore_deletes=True)
    found: dict[str, WorkerPresence] = {}
    try:
        async with asyncio.timeout(_READ_TIMEOUT_S):
            async for entry in watcher:
                if entry is None:
                    break
                if presence := _presence(entry):
                    found[entry.key] = presence
    finally:
        await watcher.stop()
    return [found[key] for key in sorted(found)]


def _presence(entry: KeyValue.Entry) -> WorkerPresence | None:
    try:
        return WorkerPresence.model_validate_json(entry.value or b"")
    except ValidationError:
        log.warning("worker_presence_unreadable", extra={"key": entry.key})
        return None


async def _queue(broker: Broker, provider: str, priority: Priority) -> PoolQueue:
    name = streams.pool_consumer(provider, priority)
    info = await _jetstream(broker, f"$JS.API.CONSUMER.INFO.{streams.REQUESTS}.{name}")
    return PoolQueue(
        provider=provider,
        priority=priority,
        waiting=info["num_pending"],
        delivered=info["num_ack_pending"],
        redelivered=info["num_redelivered"],
    )


async def _size(broker: Broker, name: str) -> StreamSize:
    state = (await _jetstream(broker, f"$JS.API.STREAM.INFO.{name}"))["state"]
    return StreamSize(name=name, messages=state["messages"], bytes=state["bytes"], consumers=state["consumer_count"])


async def _jetstream(broker: Broker, subject: str) -> dict[str, Any]:
    """Raises a 503 problem when JetStream refuses."""
    answer = json.loads((await broker.client.request(subject, timeout=_READ_TIMEOUT_S)).data)
    if error := answer.get("error"):
        raise unavailable(f"JetStream refuses {subject}: {error.get('description')}")
    return answer
