"""/healthz, /readyz, /metrics"""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from http import HTTPStatus

import nats.errors
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from admin_api.database import DatabaseUnavailable
from admin_api.dependencies import Db, Metrics, Nats, Vault
from admin_api.http.problems import problem_responses
from contracts import streams
from contracts.wire import reason
from runtime.broker import Broker, Unreachable
from runtime.jetstream import storage

log = logging.getLogger(__name__)

router = APIRouter(tags=["probes"])

_TIMEOUT_S = 3


@router.get("/healthz", responses=problem_responses(500))
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    responses={503: {"description": "A part cannot be used; `checks` says which."}, **problem_responses(500)},
)
async def readyz(database: Db, broker: Nats, vault: Vault) -> Response:
    """Whether PostgreSQL, NATS and Vault can be used right now, each; `storage`: NATS stores what is published."""
    pings = {
        "database": database.ping(),
        "nats": _ping(broker),
        "storage": _has_storage(broker),
        "vault": vault.ping(),
    }
    answers = await asyncio.gather(*(_answers(part, ping) for part, ping in pings.items()))
    checks = dict(zip(pings, answers, strict=True))
    ready = all(answers)
    return JSONResponse(
        {"status": "ok" if ready else "unavailable", "checks": checks},
        HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE,
    )


@router.get("/metrics", response_class=Response, responses=problem_responses(500))
async def metrics(registry: Metrics) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _answers(part: str, ping: Awaitable[None]) -> bool:
    """Whether a ping came back in time; the log says why not."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await ping
    except (DatabaseUnavailable, Unreachable, TimeoutError) as exc:
        log.warning("not_ready", extra={"part": part, "error": reason(exc)})
        return False
    return True


async def _ping(broker: Broker) -> None:
    """Raises Unreachable."""
    if not broker.connected:
        raise Unreachable("NATS is disconnected")
    try:
        await broker.client.request(f"$JS.API.STREAM.INFO.{streams.CONFIG}", timeout=_TIMEOUT_S)
    except nats.errors.Error as exc:
        raise Unreachable(f"JetStream does not answer: {reason(exc)}") from exc


async def _has_storage(broker: Broker) -> None:
    """Raises Unreachable. Of a NATS that does not answer, `nats` tells it."""
    with suppress(nats.errors.Error):
        for stream in storage.GUARDED if broker.connected else ():
            if not await storage.stores(broker, stream):
                raise Unreachable(f"{stream} stores nothing: a write has failed, and NATS has to be started again")
