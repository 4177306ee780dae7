"""Authentication and rate limits: a request under /api/ has a caller before its body is read, and no caller comes too
often.
"""

from http import HTTPStatus
from math import ceil

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin_api.access import refused_changes
from admin_api.access.authenticator import hash_of
from admin_api.access.failed_logins import source_of
from admin_api.access.principals import Principal
from admin_api.control_plane import ControlPlane
from admin_api.database import DatabaseUnavailable
from admin_api.http import json_bodies
from admin_api.http.problems import Problem, answer, convert, unauthorized

_GUARDED = "/api/"
_POLICY = '"token"'


class AuthenticationMiddleware:
    """The ASGI application around the routes."""

    def __init__(self, app: ASGIApp, *, plane: ControlPlane) -> None:
        self._app = app
        self._plane = plane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(_GUARDED):
            await self._app(scope, receive, send)
            return
        state = scope["state"]
        state["source"] = source_of(scope["client"][0] if scope.get("client") else None)
        limits: dict[str, str] = {}
        refused: Problem | None = None

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(limits)
                if refused is None:
                    await refused_changes.record(self._plane.database, scope, message["status"])
            await send(message)

        try:
            caller = await self._authenticate(scope, state["source"])
            state["principal"], state["actor"] = caller, caller.name
            limits |= self._take_from_quota(caller)
        except (Problem, DatabaseUnavailable) as exc:
            refused = convert(exc)
            await answer(refused, request_id=state["request_id"])(scope, receive, send_on)
        else:
            await self._app(scope, json_bodies.strict(receive), send_on)

    async def _authenticate(self, scope: Scope, source: str) -> Principal:
        """Raises Problem, DatabaseUnavailable."""
        failed_logins, refusals = self._plane.failed_logins, self._plane.refusal_counter
        scheme, _, text = Headers(scope=scope).get("authorization", "").partition(" ")
        token = SecretStr(text.strip())
        presented = hash_of(token)
        try:
            if scheme.lower() != "bearer" or not token.get_secret_value():
                raise unauthorized("send Authorization: Bearer <token>")
            failed_logins.check(source, presented)
            caller = await self._plane.authenticator.authenticate(token)
        except Problem as problem:
            if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                refusals.add(HTTPStatus(problem.status), source)
            if problem.status == HTTPStatus.UNAUTHORIZED and text:
                failed_logins.failed(source, presented)
            raise
        failed_logins.succeeded(presented)
        return caller

    def _take_from_quota(self, caller: Principal) -> dict[str, str]:
        """What an answer says of the limit. Raises a 429 problem."""
        limiter = self._plane.rate_limiter
        if limiter is None:
            return {}
        quota = limiter.take(caller.name)
        headers = {
            "RateLimit-Policy": f"{_POLICY};q={limiter.limit};w={ceil(limiter.period_s)}",
            "RateLimit": f"{_POLICY};r={quota.remaining};t={ceil(quota.reset_s)}",
        }
        if not quota.allowed:
            self._plane.refusal_counter.add(HTTPStatus.TOO_MANY_REQUESTS, caller.name)
            retry = {"Retry-After": str(ceil(quota.retry_after_s))}
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "this token was used too often", headers=headers | retry)
        return headers
