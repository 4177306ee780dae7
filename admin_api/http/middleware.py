"""What surrounds every request: its id, the limit on its body, security headers, metrics, one log line, and the
last resort when something unforeseen is raised.
"""

import logging
import re
import time
import uuid
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin_api.http.problems import Problem, answer

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"})
_PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
_SECURITY = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_HSTS = "max-age=31536000"
"""Only behind TLS; sub-domains are the operator's to decide."""
_TOO_LARGE = f"a request body may have at most {MAX_BODY_BYTES} bytes"


class RequestMetrics:
    """Counted by route template, so that no id becomes a label."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._count = Counter(
            "fleet_admin_requests_total", "Requests of the admin API", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "fleet_admin_request_seconds", "Time to answer", ["method", "route"], registry=registry
        )

    def observe(self, *, method: str, route: str, status: int, seconds: float) -> None:
        self._count.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


class Edge:
    """The outermost ASGI application."""

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", _HSTS)
            await send(message)

        try:
            await self._answer(scope, _limited(scope, receive), send_with_headers)
        except Exception:
            log.exception("request_crashed", extra={"request_id": request_id, "route": _route(scope)})
            if status:
                raise
            await answer(_crashed(), request_id=request_id)(scope, receive, send_with_headers)
        finally:
            self._report(scope, request_id, status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            problem = Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
            await answer(problem, request_id=scope["state"]["request_id"])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _report(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        route = _route(scope)
        self._metrics.observe(method=method, route=route, status=status, seconds=seconds)
        level = logging.DEBUG if route in _PROBES else logging.INFO
        facts: dict[str, Any] = {
            "request_id": request_id,
            "method": method,
            "route": route,
            "status": status,
            "duration_s": round(seconds, 6),
            "actor": scope["state"].get("actor"),
        }
        log.log(level, "request", extra=facts)


def _limited(scope: Scope, receive: Receive) -> Receive:
    """Refuses a body that grows beyond the limit without having said so."""
    size = 0

    async def receive_some() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
        return message

    return receive_some


def _route(scope: Scope) -> str:
    """The template of the route that matched, as `/api/v1/tenants/{slug}`."""
    return getattr(scope.get("route"), "path", None) or "unmatched"


def _crashed() -> Problem:
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "something unforeseen went wrong; the log has it by request_id")
