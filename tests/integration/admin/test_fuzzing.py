"""Requests that the OpenAPI document allows, and some that it does not, at a running admin API.

FUZZ_EXAMPLES sets how many of each kind an operation gets; FUZZ_SEED another beginning.
"""

import asyncio
import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, strategies
from hypothesis import settings as bounded
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

from admin_api.openapi import document
from admin_api.settings import AdminSettings
from tests.integration.admin.conftest import ADMIN_TOKEN
from tests.integration.admin.test_role import environment, line_of, running

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
SEED = int(os.environ.get("FUZZ_SEED", "20261123"))
ANSWER_WITHIN_S = 60
CHECKS: list[Any] = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
Operation = APIOperation[Any, Any, Any, Any]
Request = Case[Any]
AS_ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


@dataclass(frozen=True, slots=True)
class Target:
    """A running admin API, and names of what is there."""

    url: str
    names: dict[str, Any]

    def faults_of(self, case: Request) -> Iterator[str]:
        """What is wrong with the answer to a request."""
        answer = case.call(base_url=self.url, headers=AS_ADMIN, timeout=ANSWER_WITHIN_S)
        asks_a_worker = case.operation.path.endswith("/test")
        if answer.status_code >= 500 and not (answer.status_code == 503 and asks_a_worker):
            yield f"{answer.status_code}: {case.as_curl_command()}"
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as group:
            yield from (f"{failure}: {case.as_curl_command()}" for failure in group.exceptions)

    def named(self, case: Request) -> Request:
        """The request, about what is there."""
        known = {name: value for name, value in self.names.items() if name in case.path_parameters}
        case.path_parameters |= known
        if isinstance(case.body, dict) and "tenant" in case.body:
            case.body["tenant"] = self.names["slug"]
        return case


def fuzz(target: Target) -> list[str]:
    """Every operation, with requests that fit the document and with such that do not."""
    faults: list[str] = []
    for found in schemathesis.openapi.from_dict(document()).get_all_operations():
        operation: Operation = cast("Any", found).ok()
        for mode in GenerationMode:
            attempt = _attempt(target, operation, mode, faults)
            try:
                attempt()
            except Unsatisfiable:
                assert not operation.definition.raw.get("parameters"), "there is something to get wrong"
    return faults


def _attempt(target: Target, operation: Operation, mode: GenerationMode, faults: list[str]) -> Callable[[], None]:
    @seed(SEED)
    @bounded(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(case=operation.as_strategy(generation_mode=mode), of_what_is_there=strategies.booleans())
    def attempt(case: Request, of_what_is_there: bool) -> None:
        faults.extend(target.faults_of(target.named(case) if of_what_is_there else case))

    return attempt


async def objects(client: httpx.AsyncClient) -> dict[str, Any]:
    """One of each kind, by the name of its path parameter."""
    await client.post("/api/v1/tenants", json={"slug": "fuzz"})
    provider = await client.post("/api/v1/llm-providers", json={"tenant": "fuzz", "provider_type": "mock"})
    token = await client.post("/api/v1/tokens", json={"name": "n", "role": "viewer"})
    return {"slug": "fuzz", "provider_id": provider.json()["id"], "token_id": token.json()["id"]}


@pytest.fixture
def env(settings: AdminSettings) -> dict[str, str]:
    return environment(settings, LLM_ADMIN_RATE_LIMIT_PER_MINUTE="0")


@pytest.mark.slow
async def test_no_request_is_answered_with_a_fault_or_not_at_all(env: dict[str, str]) -> None:
    async with running(env) as process:
        port = (await line_of(process, "admin_listening"))["port"]
        url = f"http://127.0.0.1:{port}"
        log = asyncio.create_task(process.communicate())
        async with httpx.AsyncClient(base_url=url, headers=AS_ADMIN) as client:
            faults = await asyncio.to_thread(fuzz, Target(url, await objects(client)))
            ready = await client.get("/readyz")
        process.terminate()
        _, err = await log

    assert not faults, "\n\n".join(faults)
    assert ready.status_code == 200
    assert b"Traceback" not in err
    assert ADMIN_TOKEN.encode() not in err


async def test_bytes_that_are_no_http_end_their_connection_and_nothing_else(env: dict[str, str]) -> None:
    chance = random.Random(SEED)
    async with running(env) as process:
        port = (await line_of(process, "admin_listening"))["port"]
        for _ in range(200):
            beginning = chance.choice([b"", b"GET ", b"POST /api/v1/tenants HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nA: "])
            await asyncio.to_thread(_say, port, beginning + chance.randbytes(chance.randrange(1, 3000)))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.get("/healthz")).status_code == 200


def _say(port: int, data: bytes) -> None:
    """Sends it all, and reads until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_WITHIN_S) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except ConnectionResetError:
            pass
