"""Headers with which a publisher asks something of JetStream, as an agent may send them."""

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from nats.aio.client import Client

from contracts import streams
from fleet.deploy import nats_users
from fleet.local.servers import NatsServer
from tests.integration.test_nats_reload import accounts, connected
from tests.ports import free_port

OWN, OTHERS = "llm.v1.request.mock.interactive.acme", "llm.v1.request.mock.interactive.globex"
EXPECTED = "Nats-Expected-Last"
SCHEDULE = {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": OTHERS}


@dataclass(frozen=True)
class Queue:
    """The requests of acme and globex, of whom globex has three that wait; the last one has the message id `its-id`."""

    acme: Client
    operator: Client

    async def published(self, headers: dict[str, str], payload: bytes = b"{}") -> dict[str, Any]:
        """What acme's agent is answered."""
        return json.loads((await self.acme.request(OWN, payload, headers=headers, timeout=30)).data)

    async def waiting(self) -> dict[str, int]:
        subject = f"$JS.API.STREAM.INFO.{streams.REQUESTS}"
        answer = await self.operator.request(subject, b'{"subjects_filter": ">"}', timeout=30)
        return json.loads(answer.data)["state"].get("subjects") or {}


@pytest_asyncio.fixture
async def queue(tmp_path: Path) -> AsyncGenerator[Queue]:
    server = NatsServer(tmp_path / "nats", port=free_port(), accounts=accounts("acme", "globex"))
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.kill)
        users = (nats_users.operator(), nats_users.agent("acme"), nats_users.agent("globex"))
        operator, acme, globex = [await stack.enter_async_context(connected(server.url, user)) for user in users]

        async def ask(subject: str, payload: bytes) -> bytes:
            return (await operator.request(subject, payload, timeout=30)).data

        await streams.ensure(ask, streams.Sizes())
        for message_id in ("first", "second", "its-id"):
            await globex.request(OTHERS, b"{}", headers={"Nats-Msg-Id": message_id}, timeout=30)
        yield Queue(acme, operator)


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Rollup": "sub"},
        {"Nats-Rollup": "all"},
        SCHEDULE,
        {**SCHEDULE, "Nats-Schedule-TTL": "1s"},
        {**SCHEDULE, "Nats-Schedule": "@at 2030-01-01T00:00:00Z"},
        {"Nats-Scheduler": OTHERS, "Nats-Schedule-Next": "purge"},
        {"Nats-Incr": "5"},
        {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"},
        {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
        {"Nats-Stream-Source": "LLM_REQUESTS 1 > > llm.v1.request.mock.interactive.globex"},
        {"Nats-Expected-Stream": "LLM_USAGE"},
        {"Nats-TTL": "-5"},
        {"Nats-Msg-Id": "x" * 70_000},
        {"X": "x" * 1_000_000},
    ],
    ids=lambda headers: next(iter(headers)),
)
async def test_what_acts_on_more_than_ones_own_message_is_refused(queue: Queue, headers: dict[str, str]) -> None:
    before = await queue.waiting()

    answer = await queue.published(headers, b"" if "Nats-Incr" in headers else b"{}")

    assert answer["error"]["code"] in (400, 500)
    assert await queue.waiting() == before == {OTHERS: 3}


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Schedule-Target": OTHERS},
        {"Nats-Marker-Reason": "Purge"},
        {"KV-Operation": "PURGE"},
        {"Nats-Required-Api-Level": "99"},
        {"Nats-Subject": OTHERS, "Nats-Sequence": "1", "Nats-Stream": "LLM_USAGE", "Nats-Num-Pending": "0"},
        {"Nats-TTL": "never"},
        {"Status": "503"},
    ],
    ids=lambda headers: next(iter(headers)),
)
async def test_what_only_others_write_is_a_header_like_any_other(queue: Queue, headers: dict[str, str]) -> None:
    assert "error" not in await queue.published(headers)
    assert await queue.waiting() == {OTHERS: 3, OWN: 1}


@pytest.mark.parametrize(
    ("headers", "learnt"),
    [
        ({f"{EXPECTED}-Sequence": "999"}, "wrong last sequence: 3"),
        ({f"{EXPECTED}-Subject-Sequence": "999"}, "wrong last sequence: 0"),
        (
            {f"{EXPECTED}-Subject-Sequence": "999", f"{EXPECTED}-Subject-Sequence-Subject": OTHERS},
            "wrong last sequence: 3",
        ),
        ({f"{EXPECTED}-Subject-Sequence": "9", f"{EXPECTED}-Subject-Sequence-Subject": ">"}, "wrong last sequence: 3"),
        ({f"{EXPECTED}-Msg-Id": "x"}, "wrong last msg ID: its-id"),
    ],
)
async def test_the_server_tells_these_things_of_others_and_no_more(
    queue: Queue, headers: dict[str, str], learnt: str
) -> None:
    """nats-server 2.15 has no setting against it; security.md tells it among what is not defended."""
    answer = await queue.published(headers)

    assert answer == {"error": {"code": 400, "err_code": 10071 - ("ID" in learnt), "description": learnt}} | {
        "stream": streams.REQUESTS,
        "seq": 0,
    }
    assert await queue.waiting() == {OTHERS: 3}
