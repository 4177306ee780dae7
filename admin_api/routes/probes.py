"""/healthz, /readyz, /metrics"""

import asyncio
import logging
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Annotated

import nats.errors
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from admin_api.control_plane import ControlPlane, Plane
from admin_api.database import DatabaseUnavailable
from contracts import streams
from contracts.wire import reason
from runtime.broker import Unreachable

log = logging.getLogger(__name__)

router = APIRouter(tags=["probes"])

_TIMEOUT_S = 3


def _registry(request: Request) -> CollectorRegistry:
    return request.app.state.registry


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    responses={HTTPStatus.SERVICE_UNAVAILABLE: {"description": "A part cannot be used; `checks` says which."}},
)
async def readyz(plane: Plane) -> Response:
    """Whether PostgreSQL, NATS and Vault can be used right now, each."""
    names = ("database", "nats", "vault")
    checks = dict(zip(names, await asyncio.gather(*(_works(name, plane) for name in names)), strict=True))
    ready = all(checks.values())
    return JSONResponse(
        {"status": "ok" if ready else "unavailable", "checks": checks},
        HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE,
    )


@router.get("/metrics", response_class=Response)
async def metrics(registry: Annotated[CollectorRegistry, Depends(_registry)]) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _works(name: str, plane: ControlPlane) -> bool:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await _ping(name, plane)
    except (DatabaseUnavailable, Unreachable, TimeoutError) as exc:
        log.warning("not_ready", extra={"part": name, "error": reason(exc)})
        return False
    return True


def _ping(name: str, plane: ControlPlane) -> Awaitable[None]:
    match name:
        case "database":
            return plane.database.ping()
        case "vault":
            return plane.vault.ping()
        case _:
            return _ping_nats(plane)


async def _ping_nats(plane: ControlPlane) -> None:
    if not plane.broker.connected:
        raise Unreachable("NATS is disconnected")
    try:
        await plane.broker.client.request(f"$JS.API.STREAM.INFO.{streams.CONFIG}", timeout=_TIMEOUT_S)
    except nats.errors.Error as exc:
        raise Unreachable(f"JetStream does not answer: {reason(exc)}") from exc
