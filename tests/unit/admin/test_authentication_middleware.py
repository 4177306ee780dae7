"""What is decided about a request before its body is read."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.types import Message, Receive, Scope, Send

from admin_api.access.authentication_middleware import AuthenticationMiddleware
from admin_api.access.failed_logins import FailedLoginLimiter
from admin_api.access.principals import Principal, Role
from admin_api.access.refusal_counts import RefusalCounter
from admin_api.database import DatabaseUnavailable
from admin_api.http.problems import forbidden, unauthorized, unavailable
from admin_api.http.rate_limiter import RateLimiter

KNOWN = Principal("token:1", Role.VIEWER)
FAILURES = 2
ANSWERS: dict[str, Principal | Exception] = {
    "known": KNOWN,
    "unknown": unauthorized("the bearer token is not known"),
    "without a role": forbidden("the token names no role"),
    "of an issuer that is away": unavailable("it does not answer"),
    "while the database is away": DatabaseUnavailable("PostgreSQL does not answer"),
}


class Tokens:
    """Authenticates by the table above."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def authenticate(self, token: SecretStr) -> Principal:
        text = token.get_secret_value()
        self.asked.append(text)
        match ANSWERS.get(text, ANSWERS["unknown"]):
            case Principal() as caller:
                return caller
            case problem:
                raise problem


class NoDatabase:
    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        raise DatabaseUnavailable("PostgreSQL does not answer")
        yield


@dataclass
class Api:
    """The middleware around an application that answers 200."""

    limit: int | None = None
    tokens: Tokens = field(default_factory=Tokens)
    bodies_read: int = 0
    callers: list[Principal] = field(default_factory=list[Principal])

    def __post_init__(self) -> None:
        database: Any = NoDatabase()
        self.counter = RefusalCounter(database)
        self.middleware = AuthenticationMiddleware(
            self._application,
            authenticator=cast("Any", self.tokens),
            rate_limiter=RateLimiter(limit=self.limit, clock=lambda: 0) if self.limit else None,
            failed_logins=FailedLoginLimiter(RateLimiter(limit=FAILURES, clock=lambda: 0)),
            refusal_counter=self.counter,
            database=database,
        )

    async def _application(self, scope: Scope, receive: Receive, send: Send) -> None:
        if principal := scope["state"].get("principal"):
            self.callers.append(principal)
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(self, authorization: str | None, path: str = "/api/v1/tenants") -> tuple[int, dict[str, str]]:
        """Status and headers of the answer."""
        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "client": ("198.51.100.7", 1),
            "headers": [(b"authorization", authorization.encode())] if authorization is not None else [],
            "state": {"request_id": "r"},
        }
        answers: list[Message] = []

        async def receive() -> Message:
            self.bodies_read += 1
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Message) -> None:
            answers.append(message)

        await self.middleware(scope, receive, send)
        return answers[0]["status"], {name.decode(): value.decode() for name, value in answers[0]["headers"]}


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer ", 401),
        ("Basic known", 401),
        ("Bearer unknown", 401),
        ("Bearer without a role", 403),
        ("Bearer of an issuer that is away", 503),
        ("Bearer while the database is away", 503),
    ],
)
async def test_nobody_has_a_body_read_before_it_is_known(authorization: str | None, status: int) -> None:
    api = Api()

    assert (await api.ask(authorization))[0] == status

    assert (api.bodies_read, api.callers) == (0, [])


async def test_a_known_caller_comes_in_and_is_named() -> None:
    api = Api()

    assert (await api.ask("bearer  known"))[0] == 200

    assert (api.bodies_read, api.callers) == (1, [KNOWN])


async def test_what_is_not_below_api_is_nobodys_business() -> None:
    api = Api()

    assert (await api.ask(None, path="/healthz"))[0] == 200
    assert api.tokens.asked == []


async def test_the_limit_is_told_and_holds_before_the_body_is_read() -> None:
    api = Api(limit=2)

    answers = [await api.ask("Bearer known") for _ in range(3)]

    assert [status for status, _ in answers] == [200, 200, 429]
    assert [headers["ratelimit"] for _, headers in answers] == [
        '"token";r=1;t=30',
        '"token";r=0;t=60',
        '"token";r=0;t=60',
    ]
    assert answers[-1][1]["retry-after"] == "30"
    assert api.bodies_read == 2


async def test_after_too_many_failures_no_token_is_looked_up_but_a_known_one() -> None:
    api = Api()
    await api.ask("Bearer known")
    for number in range(FAILURES):
        assert (await api.ask(f"Bearer guess-{number}"))[0] == 401

    assert (await api.ask("Bearer another"))[0] == 429
    assert (await api.ask("Bearer known"))[0] == 200
    assert api.tokens.asked == ["known", "guess-0", "guess-1", "known"]


@pytest.mark.parametrize("authorization", [None, "Bearer without a role", "Bearer of an issuer that is away"])
async def test_what_is_no_guess_counts_as_no_failed_login(authorization: str | None) -> None:
    api = Api()
    for _ in range(FAILURES + 1):
        await api.ask(authorization)

    assert (await api.ask("Bearer unknown"))[0] == 401


async def test_refusals_are_counted_by_status_and_address_or_name(caplog: pytest.LogCaptureFixture) -> None:
    api = Api(limit=1)
    for authorization in (None, "Bearer without a role", "Bearer of an issuer that is away", *["Bearer known"] * 3):
        await api.ask(authorization)

    await api.counter.record()

    (record,) = caplog.records
    assert record.message == "refusals_not_recorded"
    assert record.__dict__["counts"] == {
        "401": {"198.51.100.7": 1},
        "403": {"198.51.100.7": 1},
        "429": {"token:1": 2},
    }
    await api.counter.record()
    assert len(caplog.records) == 1
