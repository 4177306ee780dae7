"""The context of every request: its id, the limit on its body, security headers, metrics, one log line, and the answer
when something unforeseen is raised.
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
"""Sent behind TLS only (RFC 6797, 7.2), and without includeSubDomains: those are the operator's to decide."""
_TOO_LARGE = f"a request body may have at most {MAX_BODY_BYTES} bytes"
_CRASHED = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "something unforeseen went wrong; the log has it by request_id")


class RequestMetrics:
    """The metrics of requests, by the route's template, so that no id becomes a label."""

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


class RequestContextMiddleware:
    """The ASGI application around all others but the one that knows trusted proxies.

    It leaves the request's id in the scope's state as `request_id`, and logs `actor` where an application within has
    left that there.
    """

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(scope=message)
                answered["X-Request-Id"] = request_id
                for name, value in _SECURITY.items():
                    answered.setdefault(name, value)
                if scope["scheme"] == "https":
                    answered.setdefault("Strict-Transport-Security", _HSTS)
            await send(message)

        try:
            # A body that says its length is refused before any of it is read; one that does not, while it grows.
            length = headers.get("content-length", "")
            if length.isdecimal() and int(length) > MAX_BODY_BYTES:
                too_large = Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
                await answer(too_large, request_id=request_id)(scope, receive, send_with_headers)
            else:
                await self._app(scope, _limited(receive), send_with_headers)
        except Exception:
            log.exception("request_crashed", extra={"request_id": request_id, "route": _route(scope)})
            if status:
                # The answer has begun and cannot be another one; the server closes the connection.
                raise
            await answer(_CRASHED, request_id=request_id)(scope, receive, send_with_headers)
        finally:
            self._report(scope, request_id, status, time.perf_counter() - started)

    def _report(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        # A caller may send any word as the method, and each would become a series of its own.
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


def _limited(receive: Receive) -> Receive:
    """Wraps `receive` so that it raises a 413 HTTPException for a body that grows beyond the limit."""
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
    """The template of the route that matched, as `/api/v1/tenants/{slug}`; else `unmatched`."""
    return getattr(scope.get("route"), "path", None) or "unmatched"
