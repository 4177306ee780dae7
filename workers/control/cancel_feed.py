"""Hearing cancels: from the stream `LLM_CANCELS` only, whose bounds hold for what a worker gets, and at a bounded pace.

A worker pulls from a consumer of its own, which begins with the next cancel; what is older, Cancellations reads tenant
by tenant. So whatever is lost is mended in one way, by a new consumer and by reading anew of those tenants whose
requests run here: the connection, the consumer, the stream, or the place in a flood of several tenants.
"""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import NoReturn

import nats.errors
from nats.aio.msg import Msg
from pydantic import ValidationError

from contracts import streams, subjects
from contracts.control import Cancel
from contracts.streams import CANCELS_KEPT_PER_TENANT, JetStreamError
from runtime.broker import Broker
from runtime.jetstream import direct_get
from runtime.jetstream.pull import Pull, PullEnd, nanoseconds
from runtime.tasks import every
from workers.clock import Clock
from workers.control.cancellations import Cancellations

log = logging.getLogger(__name__)

_BATCH, _PAUSE_S = 500, 0.02
"""So a flood takes about half of a worker's time. While one batch comes the next one is asked for."""
_BEHIND, _BEHIND_S = 2000, 0.25
"""With so many cancels waiting, most of them of a tenant that floods, another tenant's are heard sooner by beginning
anew: then those of each tenant are read for themselves. The pause keeps that from being all that a worker does."""
_AGAIN_S = 1.0
_LOOK_S = 1.0
_FIRST_S = 5.0
_UNUSED_S = 10.0
"""The server ends a consumer that nobody pulled from for so long."""
_YIELD_EVERY = 100
_EXPIRED = "408"


async def stored_cancels(broker: Broker, tenant: str) -> AsyncGenerator[tuple[str, datetime]]:
    """The ids in a tenant's stored cancels, oldest first, and when each was stored.

    Ends after as many as the stream keeps; those that come meanwhile are heard. Raises TimeoutError and
    nats.errors.Error.
    """
    seen = 0
    async with aclosing(
        direct_get.messages(broker, stream=streams.CANCELS, subject=subjects.cancel(tenant))
    ) as messages:
        async for message in messages:
            seen += 1
            if (request_id := _request_id(message.data)) is not None:
                yield request_id, message.stored_at
            if seen >= CANCELS_KEPT_PER_TENANT:
                return
            if seen % _YIELD_EVERY == 0:
                await asyncio.sleep(0)


class CancelFeed:
    """Tells Cancellations of every cancel, from `run` on."""

    def __init__(self, broker: Broker, cancellations: Cancellations, *, clock: Clock) -> None:
        self._broker = broker
        self._cancellations = cancellations
        self._clock = clock
        self._hears = asyncio.Event()
        self._wake = asyncio.Event()
        """Set when there is something to do: to ask for more, or to begin anew."""
        self._is_over = self._is_behind = False

    async def run(self) -> NoReturn:
        self._broker.on_reconnect.append(self._begin_anew)
        await every(
            _AGAIN_S,
            self._follow,
            log=log,
            failure_event="cancels_not_heard",
            expected=(nats.errors.Error, JetStreamError, TimeoutError),
        )

    async def wait_until_heard(self) -> None:
        """Returns when cancels are heard, or after some seconds without: requests read the stream until they are."""
        try:
            async with asyncio.timeout(_FIRST_S):
                await self._hears.wait()
        except TimeoutError:
            log.warning("cancels_not_heard", extra={"error": "no consumer yet"})

    async def _begin_anew(self) -> None:
        self._is_over = True
        self._wake.set()

    async def _follow(self) -> float:
        """Hears cancels for as long as the consumer lasts; returns the seconds until the next one."""
        self._is_over = self._is_behind = False
        name = secrets.token_hex(8)
        await self._make_consumer(name)
        pull = Pull(
            self._broker.client,
            stream=streams.CANCELS,
            consumer=name,
            on_message=self._take,
            on_end=self._end,
            monotonic=self._clock.monotonic,
        )
        await pull.open()
        try:
            async with asyncio.TaskGroup() as tasks:
                missed = tasks.create_task(self._cancellations.hear(), name="missed cancels")
                self._hears.set()
                await self._pull(pull)
                missed.cancel()
        finally:
            self._hears.clear()
            self._cancellations.hear_no_more()
            await pull.close()
        return _BEHIND_S if self._is_behind else _AGAIN_S

    async def _pull(self, pull: Pull) -> None:
        while not self._is_over and not pull.forget_if_lost():
            self._wake.clear()
            if pull.asked <= _BATCH:
                await pull.ask(_BATCH)
            try:
                async with asyncio.timeout(_LOOK_S):
                    while pull.asked > _BATCH and not self._is_over:
                        await self._wake.wait()
                        self._wake.clear()
            except TimeoutError:
                continue
            await self._clock.sleep(_PAUSE_S)

    async def _make_consumer(self, name: str) -> None:
        config = {
            "name": name,
            "deliver_policy": "new",
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": nanoseconds(_UNUSED_S),
        }
        ask = json.dumps({"stream_name": streams.CANCELS, "config": config}).encode()
        subject = f"$JS.API.CONSUMER.CREATE.{streams.CANCELS}.{name}"
        if error := json.loads(await self._broker.request(subject, ask)).get("error"):
            raise JetStreamError(subject, error)

    async def _take(self, msg: Msg) -> None:
        if (request_id := _request_id(msg.data)) is not None:
            self._cancellations.cancel(subjects.tenant_of_control(msg.subject), request_id)
        self._wake.set()
        waiting = int(msg.reply.rpartition(".")[2])  # $JS.ACK.….<how many wait>
        if waiting > _BEHIND and not self._is_over:
            log.debug("cancels_fell_behind", extra={"waiting": waiting})
            self._is_behind = True
            await self._begin_anew()

    async def _end(self, ended: PullEnd) -> None:
        self._is_over = self._is_over or ended.status != _EXPIRED
        self._wake.set()


def _request_id(data: bytes) -> str | None:
    """None: it is no cancel. Only a debug line says so, because agents may send any number of them."""
    try:
        return Cancel.model_validate_json(data).request_id
    except ValidationError:
        log.debug("cancel_malformed")
        return None
