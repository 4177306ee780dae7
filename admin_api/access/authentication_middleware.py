"""Authentication and rate limits, before anything of a request but its head is read.

This is a middleware of ASGI, not a dependency of FastAPI, because FastAPI reads and parses a request's body before it
calls the first dependency, and looks the path up before that. So a caller that is not known costs no memory for a body,
and learns neither which routes there are nor what their bodies look like.
"""

from http import HTTPStatus
from math import ceil

from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admin_api.access import refused_changes
from admin_api.access.authenticator import Authenticator, hash_of
from admin_api.access.failed_logins import FailedLoginLimiter, source_of
from admin_api.access.principals import Principal, Role
from admin_api.access.refusal_counts import RefusalCounter
from admin_api.database import Database, DatabaseUnavailable
from admin_api.http import json_bodies
from admin_api.http.problems import Problem, answer, convert, unauthorized
from admin_api.http.rate_limiter import RateLimiter
from runtime import json_bounds

_GUARDED = "/api/"
_TENANTS_VALUES = 10_000
"""Values in a body of anybody but an admin, who alone sets prices by the thousand. What is made of them takes a
process some 10 ms, during which it does nothing else."""
_POLICY = '"token"'
"""What the limit is called in the headers of draft-ietf-httpapi-ratelimit-headers."""


class AuthenticationMiddleware:
    """The ASGI application around the routes. Below /api/ it lets nobody through who is not known or comes too often.

    It leaves the caller in the scope's state: `principal`, `actor` (its name) and `source` (its address).
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator,
        rate_limiter: RateLimiter | None,
        failed_logins: FailedLoginLimiter,
        refusal_counter: RefusalCounter,
        database: Database,
    ) -> None:
        """`rate_limiter` None: a known caller may come as often as it likes. `database`: for the audit log."""
        self._app = app
        self._authenticator = authenticator
        self._rate_limiter = rate_limiter
        self._failed_logins = failed_logins
        self._refusal_counter = refusal_counter
        self._database = database

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
                # What is refused here is counted, not recorded: a flood would fill the audit log.
                if refused is None:
                    await refused_changes.record(self._database, scope, message["status"])
            await send(message)

        try:
            caller = await self._authenticate(scope, state["source"])
            state["principal"], state["actor"] = caller, caller.name
            limits |= self._take_from_quota(caller)
        except (Problem, DatabaseUnavailable) as exc:
            refused = convert(exc)
            await answer(refused, request_id=state["request_id"])(scope, receive, send_on)
        else:
            most_values = json_bounds.MOST_VALUES if caller.role is Role.ADMIN else _TENANTS_VALUES
            await self._app(scope, json_bodies.strict(receive, most_values=most_values), send_on)

    async def _authenticate(self, scope: Scope, source: str) -> Principal:
        """Raises Problem, DatabaseUnavailable."""
        scheme, _, text = Headers(scope=scope).get("authorization", "").partition(" ")
        token = SecretStr(text.strip())
        token_hash = hash_of(token)
        try:
            if scheme.lower() != "bearer" or not token.get_secret_value():
                raise unauthorized("send Authorization: Bearer <token>")
            # Asked before the token is looked up, so that guesses cost the database nothing.
            self._failed_logins.check(source, token_hash)
            caller = await self._authenticator.authenticate(token)
        except Problem as problem:
            if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                self._refusal_counter.add(HTTPStatus(problem.status), source)
            # A request without a token is no guess, and a 403 or 429 says nothing of whether the token is known.
            if problem.status == HTTPStatus.UNAUTHORIZED and text:
                self._failed_logins.failed(source, token_hash)
            raise
        self._failed_logins.succeeded(token_hash)
        return caller

    def _take_from_quota(self, caller: Principal) -> dict[str, str]:
        """Counts the request; returns what its answer says of the limit. Raises a 429 problem."""
        limiter = self._rate_limiter
        if limiter is None:
            return {}
        quota = limiter.take(caller.name)
        headers = {
            "RateLimit-Policy": f"{_POLICY};q={limiter.limit};w={ceil(limiter.period_s)}",
            "RateLimit": f"{_POLICY};r={quota.remaining};t={ceil(quota.reset_s)}",
        }
        if not quota.allowed:
            self._refusal_counter.add(HTTPStatus.TOO_MANY_REQUESTS, caller.name)
            retry = {"Retry-After": str(ceil(quota.retry_after_s))}
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, "this token was used too often", headers=headers | retry)
        return headers
