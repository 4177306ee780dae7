"""Every error is a problem, and none repeats what was sent."""

from typing import Annotated, Any, Literal

import httpx2
import pytest
from fastapi import FastAPI, HTTPException
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, Field
from starlette.middleware import Middleware

from admin_api.database import DatabaseUnavailable
from admin_api.http import problems
from admin_api.http.middleware import MAX_BODY_BYTES, RequestContextMiddleware, RequestMetrics
from contracts.wire import Token
from runtime.vault import VaultDenied, VaultUnavailable

SECRET = "sk-0123456789abcdef0123456789"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]


class Body(BaseModel, extra="forbid"):
    name: Token
    count: int = 0
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    by_key: dict[str, int] = {}


RAISED: dict[str, tuple[Exception, int]] = {
    "conflict": (problems.conflict("it is there"), 409),
    "database": (DatabaseUnavailable("PostgreSQL does not answer"), 503),
    "vault": (VaultUnavailable("ConnectionError"), 503),
    "denied": (VaultDenied("Vault refused this role"), 503),
    "http": (HTTPException(418, "a teapot"), 418),
    "bug": (RuntimeError(f"holding {SECRET}"), 500),
}


def make_app() -> FastAPI:
    metrics = RequestMetrics(CollectorRegistry())
    app = FastAPI(middleware=[Middleware(RequestContextMiddleware, metrics=metrics)], redirect_slashes=False)
    problems.install(app)

    @app.post("/things/{number}")
    async def post(number: int, body: Body) -> Body:
        return body

    @app.get("/raise/{what}")
    async def fail(what: str) -> None:
        raise RAISED[what][0]

    return app


async def ask(method: str, path: str, **options: Any) -> httpx2.Response:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(make_app()), base_url="http://admin") as client:
        return await client.request(method, path, **options)


@pytest.mark.parametrize("what", RAISED)
async def test_what_is_raised_becomes_a_problem(what: str) -> None:
    answer = await ask("GET", f"/raise/{what}", headers={"X-Request-Id": "req-1"})

    status = RAISED[what][1]
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    problem = answer.json()
    assert (problem["type"], problem["status"], problem["request_id"]) == ("about:blank", status, "req-1")
    assert problem["title"]
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/things/1", 405), ("POST", "/things/1/", 404)],
)
async def test_what_the_router_refuses_is_a_problem(method: str, path: str, status: int) -> None:
    answer = await ask(method, path)

    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    if status == 405:
        assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": f"{SECRET}."}, "name"),
        ({"name": {"x": SECRET}}, "name"),
        ({"name": "n", "count": SECRET}, "count"),
        ({"name": "n", SECRET: 1}, "…"),
        ({"name": "n", "extra": SECRET}, "extra"),
        ({"name": "n", "pet": {"kind": SECRET}}, "pet"),
        ({"name": "n", "by_key": {SECRET: "x"}}, "by_key.…"),
        (SECRET, "body"),
        ([SECRET], "body"),
        (None, "body"),
    ],
)
async def test_validation_names_the_field_and_repeats_no_input(body: Any, field: str) -> None:
    answer = await ask("POST", "/things/1", json=body)

    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (f'{{"name": "{SECRET}"', "application/json", 422),
        (f'"{SECRET}"', "application/json", 422),
        (SECRET, "application/json", 422),
        (b'{"name": "\xff"}', "application/json", 400),
        ("[" * 100_000, "application/json", 400),
        (f"name={SECRET}", "application/x-www-form-urlencoded", 422),
        ("", "application/json", 422),
    ],
)
async def test_bodies_that_are_no_json_are_problems(content: Any, kind: str, status: int) -> None:
    answer = await ask("POST", "/things/1", content=content, headers={"Content-Type": kind})

    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert SECRET not in answer.text


async def test_a_body_above_the_limit_is_refused_whether_it_says_so_or_not() -> None:
    async def chunks() -> Any:
        for _ in range(20):
            yield b"x" * (MAX_BODY_BYTES // 16)

    said = await ask("POST", "/things/1", content=b"x" * (MAX_BODY_BYTES + 1))
    unsaid = await ask("POST", "/things/1", content=chunks(), headers={"Content-Type": "application/json"})

    for answer in (said, unsaid):
        assert (answer.status_code, answer.json()["status"]) == (413, 413)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_every_answer_has_a_request_id_of_the_callers_or_ours() -> None:
    given = await ask("GET", "/nothing", headers={"X-Request-Id": "abc_123"})
    broken = await ask("GET", "/nothing", headers={"X-Request-Id": "a b\\n"})

    assert given.headers["x-request-id"] == "abc_123"
    assert len(broken.headers["x-request-id"]) == 32
