"""Dead letters on a real stream: listed, opened, replayed and deleted with the rights of the admin API's user."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from nats.aio.client import Client as Nats
from pydantic import SecretStr
from sqlalchemy import select, text

from admin_api.database import Database
from admin_api.dependencies import provide
from admin_api.operations.dead_letter_stream import DeadLetterStream, Windows
from contracts.control import DEAD_AT, DEAD_CODE, DEAD_REASON, DEAD_SUBJECT
from contracts.requests import MAX_REQUEST_BYTES
from contracts.wire import utc_now
from migrations.schema import audit_log
from runtime.broker import Broker
from runtime.sealing import Keyring
from tests import usage
from tests.integration.admin.conftest import NatsWithUsers, client_of, until
from tests.kit import worker, worker_settings
from tests.patience import PATIENCE_S
from tests.servers import Vault
from workers.usage import app as usage_app
from workers.usage.settings import UsageSettings

LETTERS = "/api/v1/dead-letters"
AT = "2026-11-23T12:00:00+00:00"


@pytest_asyncio.fixture
async def pool(nats_users: NatsWithUsers) -> AsyncGenerator[Nats]:
    """A connection with the rights of the pool openai."""
    async with nats_users.connect_as("worker-openai") as client:
        yield client


async def bury(
    client: Nats, tenant: str, payload: bytes = b"{}", *, provider: str = "openai", at: str = AT, **headers: str
) -> int:
    """As a worker does; returns the letter's number."""
    told = {
        DEAD_CODE: "malformed_request",
        DEAD_REASON: "the request is not valid",
        DEAD_SUBJECT: f"llm.v1.request.{provider}.interactive.{tenant}",
        DEAD_AT: at,
    }
    told |= {f"Fleet-Dead-{name.capitalize()}": value for name, value in headers.items()}
    ack = await client.jetstream().publish(f"llm.v1.dead.{provider}.{tenant}", payload, headers=told)
    return ack.seq


async def seqs(api: httpx.AsyncClient, **params: Any) -> list[int]:
    """Of all pages."""
    found: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await api.get(LETTERS, params={**params, **cursor})
        assert answer.status_code == 200, answer.text
        found += [item["seq"] for item in answer.json()["items"]]
        if answer.json()["next"] is None:
            return found
        cursor = {"cursor": answer.json()["next"]}


async def actions(database: Database, tenant: str) -> list[tuple[str, str]]:
    query = select(audit_log.c.action, audit_log.c.object_id).where(audit_log.c.object_type == "dead_letter")
    async with database.transaction() as connection:
        rows = await connection.execute(query.where(audit_log.c.tenant == tenant).order_by(audit_log.c.seq))
        return [(row.action, row.object_id) for row in rows]


async def pulled(client: Nats) -> tuple[str, bytes, dict[str, str]]:
    """What the pool openai gets next."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    ask = json.dumps({"batch": 1, "expires": 5_000_000_000}).encode()
    await client.publish("$JS.API.CONSUMER.MSG.NEXT.LLM_REQUESTS.openai_interactive", ask, reply=inbox)
    message = await subscription.next_msg(timeout=PATIENCE_S)
    await subscription.unsubscribe()
    return message.subject, message.data, dict(message.headers or {})


async def test_an_empty_list(api: httpx.AsyncClient) -> None:
    assert (await api.get(LETTERS)).json() == {"items": [], "next": None}


async def test_shows_what_is_known_of_a_letter(api: httpx.AsyncClient, pool: Nats, acme: str) -> None:
    payload = b'{"id": "r1", "agent": "planner-1", "messages": "SECRET"}'
    seq = await bury(pool, acme, payload)

    listed = await api.get(LETTERS)

    assert listed.json()["items"] == [
        {
            "seq": seq,
            "tenant": acme,
            "provider": "openai",
            "subject": f"llm.v1.request.openai.interactive.{acme}",
            "code": "malformed_request",
            "reason": "the request is not valid",
            "at": "2026-11-23T12:00:00Z",
            "size": len(payload),
            "truncated": False,
            "agent": "planner-1",
            "request_id": "r1",
        }
    ]
    assert "SECRET" not in listed.text


@pytest.mark.parametrize(
    ("payload", "whose"),
    [
        (b"", (None, None)),
        (b"[1]", (None, None)),
        (b"\xff", (None, None)),
        (b'{"id": 7, "agent": "a b"}', (None, None)),
        (b'{"id": "r1:1", "request_id": "r1", "agent": "a"}', ("a", "r1")),
        (b'{"id": "r1", "agent": "a", "pad": "%s"}' % (b"x" * 70_000), (None, None)),
        (b'{"id": "r1", "agent": "a",}', ("a", "r1")),
        (b'{"id": "r1", "agent": "a", "messages": [{"content": "cut', ("a", "r1")),
        (b'{"id": "r1", "agent": "a", "messages": [{"content": "\\ud83d"}]}', ("a", "r1")),
        (b'\xef\xbb\xbf{"id": "r1", "agent": "a", "modell": "x"}', ("a", "r1")),
        (b'{"id": "r1:1", "request_id": "r1", "agent": "a", "cost": NaN, }', ("a", "r1")),
    ],
)
async def test_says_whose_it_was_where_that_can_be_read(
    api: httpx.AsyncClient, pool: Nats, acme: str, payload: bytes, whose: tuple[str | None, str | None]
) -> None:
    await bury(pool, acme, payload)

    (item,) = (await api.get(LETTERS)).json()["items"]

    assert (item["agent"], item["request_id"], item["size"]) == (*whose, len(payload))


async def test_lists_the_newest_first_page_by_page(api: httpx.AsyncClient, pool: Nats, acme: str) -> None:
    buried = [await bury(pool, acme) for _ in range(7)]
    for seq in (buried[6], buried[3]):
        assert (await api.delete(f"{LETTERS}/{seq}")).status_code == 204

    first = (await api.get(LETTERS, params={"limit": 2})).json()
    await bury(pool, acme)
    second = (await api.get(LETTERS, params={"limit": 3, "cursor": first["next"]})).json()

    assert [item["seq"] for item in first["items"] + second["items"]] == [buried[n] for n in (5, 4, 2, 1, 0)]
    assert second["next"] is None


async def test_filters_by_tenant_provider_and_code(
    api: httpx.AsyncClient, pool: Nats, acme: str, nats_users: NatsWithUsers
) -> None:
    plain = await bury(pool, acme)
    async with nats_users.connect_as("worker-mock") as other_pool:
        mock = await bury(other_pool, acme, provider="mock")
    theirs = await bury(pool, f"{acme}-other")
    internal = await bury(pool, acme, code="internal")

    assert await seqs(api) == [internal, theirs, mock, plain]
    assert await seqs(api, tenant=acme) == [internal, mock, plain]
    assert await seqs(api, provider="mock") == [mock]
    assert await seqs(api, code="internal") == [internal]
    assert await seqs(api, tenant=f"{acme}-other", code="internal") == []
    assert await seqs(api, tenant="nobody") == []


async def test_finds_few_letters_among_many(
    app: FastAPI, broker: Broker, api: httpx.AsyncClient, pool: Nats, acme: str
) -> None:
    provide(
        app,
        DeadLetterStream(broker, Keyring([b"k" * 32]), windows=Windows(first=4, largest_read=32, fetch=8, at_most=60)),
    )
    mine: list[int] = []
    rare: list[int] = []
    for number in range(400):
        if number in (3, 4, 150, 390):
            mine.append(await bury(pool, acme))
        else:
            seq = await bury(pool, f"{acme}-other", code="rare" if number % 131 == 0 else "usual")
            rare += [seq] * (number % 131 == 0)

    assert await seqs(api, tenant=acme) == mine[::-1]
    assert await seqs(api, tenant=acme, limit=1) == mine[::-1]
    assert await seqs(api, code="rare") == rare[::-1]
    assert await seqs(api, code="rare", limit=2) == rare[::-1]
    assert await seqs(api, limit=150) == list(range(400, 0, -1))


async def test_leaves_no_consumer_behind(broker: Broker, api: httpx.AsyncClient, pool: Nats, acme: str) -> None:
    await bury(pool, acme)
    for _ in range(3):
        await seqs(api)

    assert (await broker.client.jetstream().stream_info("LLM_DEAD")).state.consumer_count == 0


async def test_only_an_admin_sees_the_payload(app: FastAPI, api: httpx.AsyncClient, pool: Nats, acme: str) -> None:
    seq = await bury(pool, acme, '{"id": "r1", "é": 1}'.encode())
    token = (await api.post("/api/v1/tokens", json={"name": "n", "role": "tenant_admin", "tenant": acme})).json()

    opened = (await api.get(f"{LETTERS}/{seq}")).json()
    async with client_of(app, token["token"]) as client:
        closed = (await client.get(f"{LETTERS}/{seq}")).json()

    assert (opened["payload"], opened["encoding"], opened["request_id"]) == ('{"id": "r1", "é": 1}', "utf-8", "r1")
    assert closed == opened | {"payload": None, "encoding": None}


async def test_a_payload_that_is_no_text_is_shown_in_base64(api: httpx.AsyncClient, pool: Nats, acme: str) -> None:
    seq = await bury(pool, acme, b"\xff\x00")

    opened = (await api.get(f"{LETTERS}/{seq}")).json()

    assert (base64.b64decode(opened["payload"]), opened["encoding"]) == (b"\xff\x00", "base64")


async def test_replays_the_original_bytes_and_deletes_the_letter(
    database: Database, api: httpx.AsyncClient, pool: Nats, nats_users: NatsWithUsers, acme: str
) -> None:
    payload = b"\xff{" * 1000
    subject = f"llm.v1.request.openai.interactive.{acme}"
    first = await pool.jetstream().publish(subject, payload, headers={"Nats-Msg-Id": "r1"})
    await pulled(pool)
    seq = await bury(pool, acme, payload)

    answer = await api.post(f"{LETTERS}/{seq}/replay")

    assert answer.status_code == 200, answer.text
    assert answer.json() == {"subject": subject, "stream": "LLM_REQUESTS", "stream_seq": first.seq + 1}
    assert (await pulled(pool))[:2] == (subject, payload)
    assert (await api.get(f"{LETTERS}/{seq}")).status_code == 404
    assert (await api.post(f"{LETTERS}/{seq}/replay")).status_code == 404
    assert await actions(database, acme) == [("dead_letter.replay", str(seq))]


async def test_the_largest_letter_can_be_opened_and_replayed(api: httpx.AsyncClient, pool: Nats, acme: str) -> None:
    payload = b"x" * (MAX_REQUEST_BYTES - 2048)
    seq = await bury(pool, acme, payload)

    assert (await api.get(LETTERS)).json()["items"][0]["size"] == len(payload)
    assert len((await api.get(f"{LETTERS}/{seq}")).json()["payload"]) == len(payload)
    assert (await api.post(f"{LETTERS}/{seq}/replay")).status_code == 200
    assert (await pulled(pool))[1] == payload


async def test_replays_at_the_same_time_queue_it_once(
    database: Database, broker: Broker, api: httpx.AsyncClient, pool: Nats, acme: str
) -> None:
    seq = await bury(pool, acme)

    answers = await asyncio.gather(*(api.post(f"{LETTERS}/{seq}/replay") for _ in range(6)))

    assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404, 404, 404]
    assert (await broker.client.jetstream().stream_info("LLM_REQUESTS")).state.messages == 1
    assert await actions(database, acme) == [("dead_letter.replay", str(seq))]


async def test_a_truncated_letter_is_not_replayed(
    database: Database, api: httpx.AsyncClient, pool: Nats, acme: str
) -> None:
    seq = await bury(pool, acme, truncated="true")

    answer = await api.post(f"{LETTERS}/{seq}/replay")

    assert (answer.status_code, (await api.get(LETTERS)).json()["items"][0]["truncated"]) == (409, True)
    assert await actions(database, acme) == []


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "llm.v1.request.openai.interactive.globex",
        "llm.v1.usage.openai.globex",
        "llm.v1.request.nobody.interactive.{own}",
        "llm.v1.request.*.interactive.{own}",
        "llm.v1.usage.>.{own}",
        "llm.v1.reply.{own}.a.r1",
        "$KV.llm_config.tenant.{own}",
        "llm.v1.usage.?.{own}",
    ],
)
async def test_a_letter_goes_back_to_its_own_tenant_only(
    api: httpx.AsyncClient, pool: Nats, acme: str, subject: str
) -> None:
    seq = await bury(pool, acme, subject=subject.format(own=acme))

    assert (await api.post(f"{LETTERS}/{seq}/replay")).status_code == 409
    assert await seqs(api) == [seq]


async def test_a_full_queue_keeps_the_letter(
    database: Database, broker: Broker, api: httpx.AsyncClient, pool: Nats, acme: str, nats_users: NatsWithUsers
) -> None:
    seq = await bury(pool, acme)
    jetstream = broker.client.jetstream()
    config = (await jetstream.stream_info("LLM_REQUESTS")).config
    await jetstream.update_stream(config, max_msgs_per_subject=1)
    await pool.jetstream().publish(f"llm.v1.request.openai.interactive.{acme}", b"{}")

    answer = await api.post(f"{LETTERS}/{seq}/replay")

    assert answer.status_code == 503
    assert "queue is full" in answer.json()["detail"]
    assert await seqs(api) == [seq]
    assert await actions(database, acme) == []


async def test_deletes_a_letter(database: Database, api: httpx.AsyncClient, pool: Nats, acme: str) -> None:
    kept, seq = await bury(pool, acme), await bury(pool, acme)

    assert (await api.delete(f"{LETTERS}/{seq}")).status_code == 204

    assert await seqs(api) == [kept]
    assert (await api.delete(f"{LETTERS}/{seq}")).status_code == 404
    assert await actions(database, acme) == [("dead_letter.delete", str(seq))]
    async with database.transaction() as connection:
        (before,) = (
            await connection.execute(text("SELECT before FROM audit_log WHERE action = 'dead_letter.delete' LIMIT 1"))
        ).one()
    assert (before["seq"], before["code"], "payload" in before) == (seq, "malformed_request", False)


async def test_scoped_callers_see_and_change_their_tenant_only(
    app: FastAPI, api: httpx.AsyncClient, pool: Nats, acme: str
) -> None:
    mine, theirs = await bury(pool, acme), await bury(pool, f"{acme}-other")
    token = (await api.post("/api/v1/tokens", json={"name": "n", "role": "tenant_admin", "tenant": acme})).json()

    async with client_of(app, token["token"]) as client:
        assert await seqs(client) == [mine]
        for call in (client.get, client.delete):
            assert (await call(f"{LETTERS}/{theirs}")).status_code == 403
        assert (await client.post(f"{LETTERS}/{theirs}/replay")).status_code == 403
        assert (await client.post(f"{LETTERS}/{mine}/replay")).status_code == 200
    assert await seqs(api) == [theirs]


@pytest.mark.parametrize("seq", ["0", "-1", "x", "9223372036854775808"])
async def test_refuses_numbers_that_no_letter_has(api: httpx.AsyncClient, seq: str) -> None:
    assert (await api.get(f"{LETTERS}/{seq}")).status_code == 422


@pytest.mark.parametrize("params", [{"tenant": "*"}, {"provider": ">"}, {"code": "a.b"}, {"cursor": "garbage"}])
async def test_refuses_filters_that_make_no_sense(api: httpx.AsyncClient, params: dict[str, str]) -> None:
    assert (await api.get(LETTERS, params=params)).status_code == 422


async def test_says_so_while_nats_is_away(broker: Broker, api: httpx.AsyncClient, nats_users: NatsWithUsers) -> None:
    async def disconnected() -> bool:
        return not broker.connected

    await nats_users.server.stop()
    await until(disconnected)

    for answer in (await api.get(LETTERS), await api.get(f"{LETTERS}/1"), await api.delete(f"{LETTERS}/1")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_what_a_worker_buried_comes_back_to_it(
    broker: Broker, api: httpx.AsyncClient, nats_users: NatsWithUsers, vault: Vault, acme: str
) -> None:
    rights = {"nats_user": "worker-openai", "nats_password": nats_users.password("worker-openai")}
    subject = f"llm.v1.request.openai.interactive.{acme}"

    async def is_buried() -> bool:
        return len(await seqs(api)) == 1

    async with worker(worker_settings(nats_users.url, vault, "openai", **rights), "openai"):
        bad = b'{"id": "r1", "agent": "a", "modell": "x"}'
        await broker.client.jetstream().publish(subject, bad, headers={"Nats-Msg-Id": "r1"})
        await until(is_buried)
        (letter,) = (await api.get(LETTERS)).json()["items"]
        assert (letter["code"], letter["subject"], letter["agent"], letter["request_id"]) == (
            "malformed_request",
            subject,
            "a",
            "r1",
        )

        assert (await api.post(f"{LETTERS}/{letter['seq']}/replay")).status_code == 200

        await until(is_buried)
        (again,) = await seqs(api)
        assert again > letter["seq"]
        assert (await api.get(f"{LETTERS}/{again}")).json()["payload"] == bad.decode()


@asynccontextmanager
async def booking(nats_users: NatsWithUsers, database_url: str) -> AsyncGenerator[None]:
    """A usage consumer at work."""
    settings = UsageSettings(
        nats_url=nats_users.url,
        nats_user="usage",
        nats_password=SecretStr(nats_users.password("usage")),
        database_url=SecretStr(database_url),
    )
    stop = asyncio.Event()
    task = asyncio.create_task(usage_app.run(settings, stop=stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def test_a_usage_record_comes_back_to_the_ledger(
    database: Database, api: httpx.AsyncClient, pool: Nats, nats_users: NatsWithUsers, database_url: str, acme: str
) -> None:
    subject = f"llm.v1.usage.openai.{acme}"
    good = usage.record("r1", tenant=acme, started_at=utc_now())

    async def is_buried() -> bool:
        return len(await seqs(api, code="malformed_record")) == 1

    async def is_booked() -> bool:
        async with database.transaction() as connection:
            return await connection.scalar(text("SELECT request_id FROM llm_usage_events")) == "r1"

    async with booking(nats_users, database_url):
        await pool.jetstream().publish(subject, b'{"request_id": "r0", "agent": "a"}', headers={"Nats-Msg-Id": "r0:1"})
        await until(is_buried)
        (letter,) = (await api.get(LETTERS)).json()["items"]
        assert (letter["subject"], letter["agent"], letter["request_id"]) == (subject, "a", "r0")
        replayed = (await api.post(f"{LETTERS}/{letter['seq']}/replay")).json()
        assert (replayed["subject"], replayed["stream"]) == (subject, "LLM_USAGE")
        await until(is_buried)

        # Refused by an earlier version, booked by this one.
        seq = await bury(pool, acme, good.to_json(), subject=subject, code="malformed_record")
        assert (await api.post(f"{LETTERS}/{seq}/replay")).status_code == 200
        await until(is_booked)
