"""The state of the fleet: which workers are there, how much waits, and whether a provider works."""

import asyncio
import itertools
import json
import logging
import uuid
from typing import Any

import nats.errors
import nats.js.errors
from pydantic import BaseModel, TypeAdapter, ValidationError

from admin_api.access.principals import Principal
from admin_api.configuration import providers
from admin_api.database import Database
from admin_api.http.problems import conflict, unavailable
from admin_api.operations.worker_rpc import WorkerRpc
from contracts import streams, subjects
from contracts.errors import Error, ErrorCode
from contracts.providers import WorkerPresence
from contracts.rpc import EndpointHealth, Health, HealthCheck, Refusal
from contracts.subjects import AUTO, Priority, Provider, RpcMethod
from contracts.wire import optional, reason
from runtime.broker import Broker

log = logging.getLogger(__name__)

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


async def check_health(
    database: Database, provider_id: uuid.UUID, *, workers: WorkerRpc, caller: Principal
) -> HealthResult:
    """Asks a worker for one cheap authenticated call to each endpoint of a provider, with the stored key.

    Raises 403, 404, 409 for a deactivated provider, 503 when no worker of its pool answers.
    """
    provider = await providers.one(database, provider_id, caller=caller)
    caller.must_change(provider.tenant)
    if not provider.is_active:
        raise conflict("the provider is deactivated; activate it first")
    subject = subjects.rpc(provider.provider_type, RpcMethod.HEALTH, provider.tenant)
    question = HealthCheck(revision=provider.revision).to_json()
    give_up_at = asyncio.get_running_loop().time() + _CONFIG_ARRIVES_WITHIN_S
    while True:
        answer = await workers.ask(subject, question, answers=_ANSWER)
        if isinstance(answer, Health):
            return HealthResult(healthy=answer.healthy, endpoints=list(answer.endpoints))
        # A provider that was just added or changed is on its way to the workers; a moment later they know it.
        if answer.error.code not in _NOT_YET_KNOWN or asyncio.get_running_loop().time() > give_up_at:
            return HealthResult(healthy=False, endpoints=[], error=answer.error)
        await asyncio.sleep(_ASK_AGAIN_AFTER_S)


async def state(broker: Broker, *, caller: Principal) -> FleetState:
    """The workers that are there, the queues of the pools, and the sizes of the streams.

    It concerns all tenants, so it is for callers who see all of them. Raises 403, 503 when NATS does not answer.
    """
    caller.must_see(None)
    if not broker.connected:
        raise unavailable("NATS does not answer")
    try:
        workers, queues, sizes = await asyncio.gather(
            _presences(broker),
            asyncio.gather(*(_queue(broker, *pool) for pool in itertools.product((*Provider, AUTO), Priority))),
            asyncio.gather(*(_size(broker, config["name"]) for config in streams.definitions(streams.Sizes()))),
        )
    except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as exc:
        raise unavailable(f"NATS does not answer: {reason(exc)}") from exc
    return FleetState(workers=workers, queues=list(queues), streams=list(sizes))


async def _presences(broker: Broker) -> list[WorkerPresence]:
    jetstream = broker.client.jetstream(timeout=_READ_TIMEOUT_S)
    bucket = await jetstream.key_value(subjects.HEALTH_BUCKET)
    watcher = await bucket.watch("worker.*", ignore_deletes=True)
    found: dict[str, WorkerPresence] = {}
    try:
        async with asyncio.timeout(_READ_TIMEOUT_S):
            async for entry in watcher:
                # nats-py's watcher gives None once it has shown all that was there when it began.
                if entry is None:
                    break
                try:
                    found[entry.key] = WorkerPresence.model_validate_json(entry.value or b"")
                except ValidationError:
                    log.warning("worker_presence_unreadable", extra={"key": entry.key})
    finally:
        await watcher.stop()
    return [found[key] for key in sorted(found)]


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
    """What JetStream's API answers at `subject`. Raises a 503 problem when it refuses."""
    answer = json.loads((await broker.client.request(subject, timeout=_READ_TIMEOUT_S)).data)
    if error := answer.get("error"):
        raise unavailable(f"JetStream refuses {subject}: {error.get('description')}")
    return answer
