"""`contracts.streams.ensure` on a real server, and what the streams that it makes promise."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.js.errors import APIError, NoStreamResponseError

from contracts import jetstream_codes, streams, subjects
from contracts.control import MSG_ID, MSG_TTL
from contracts.requests import MAX_REQUEST_BYTES
from contracts.streams import JetStreamError, Sizes, StreamMismatch
from contracts.subjects import AUTO, Priority, Provider
from fleet.deploy import nats_config
from runtime.broker import Broker, ensure_streams
from runtime.jetstream.publishing import Publisher, SubjectFull, TooLarge
from runtime.settings import BrokerSettings
from tests.kit import connected
from tests.servers import nats_cluster, nats_from_wheels

DEADLINE_S = 10
SUBJECT = subjects.request("openai", Priority.INTERACTIVE, "acme")
EVERY_STREAM = {
    "LLM_ATTEMPTS",
    "LLM_RESULTS",
    "LLM_REQUESTS",
    "LLM_REPLIES",
    "LLM_CANCELS",
    "LLM_USAGE",
    "LLM_DEAD",
    "LLM_NOTICES",
    "LLM_LIMITS",
    "LLM_BUDGETS",
    "KV_llm_holds",
    "KV_llm_config",
    "KV_llm_health",
}


@pytest_asyncio.fixture
async def client(nats_url: str) -> AsyncGenerator[Client]:
    connection = await nats.connect(nats_url)
    yield connection
    await connection.close()


@pytest.fixture
def request_api(client: Client) -> streams.Request:
    async def send(subject: str, payload: bytes) -> bytes:
        return (await client.request(subject, payload, timeout=DEADLINE_S)).data

    return send


async def configurations(client: Client) -> dict[str, Any]:
    """Every stream and consumer of the server, by name, without what the server adds."""
    found: dict[str, Any] = {}
    for stream in await listed(client, "$JS.API.STREAM.LIST", "streams"):
        name = stream["config"]["name"]
        found[name] = stream["config"]
        for consumer in await listed(client, f"$JS.API.CONSUMER.LIST.{name}", "consumers"):
            found[f"{name}/{consumer['name']}"] = consumer["config"]
    return found


async def listed(client: Client, subject: str, key: str) -> list[Any]:
    return json.loads((await client.request(subject, b"", timeout=DEADLINE_S)).data)[key] or []


async def test_makes_every_stream_bucket_and_consumer(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes())
    found = await configurations(client)
    pools = {f"LLM_REQUESTS/{provider}_{priority}" for provider in [*Provider, AUTO] for priority in Priority}
    assert set(found) == EVERY_STREAM | pools | {"LLM_USAGE/usage", "LLM_ATTEMPTS/attempts"}


async def test_a_second_time_changes_nothing(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes())
    before = await configurations(client)
    calls: list[str] = []

    async def watched(subject: str, payload: bytes) -> bytes:
        calls.append(subject)
        return await request_api(subject, payload)

    await streams.ensure(watched, Sizes())
    assert await configurations(client) == before
    assert [call for call in calls if ".CREATE." in call or ".UPDATE." in call] == []


async def test_many_roles_may_start_at_once(client: Client, request_api: streams.Request) -> None:
    await asyncio.gather(*(streams.ensure(request_api, Sizes()) for _ in range(8)))
    assert set(await configurations(client)) >= EVERY_STREAM


async def test_a_bucket_is_one_that_nats_clients_know(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes())
    bucket = await client.jetstream().key_value(subjects.CONFIG_BUCKET)
    await bucket.put(subjects.config_key_of_tenant("acme"), b"{}")
    assert (await bucket.get("tenant.acme")).value == b"{}"


async def test_updates_what_can_be_changed_safely(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes())
    await client.publish(SUBJECT, b"{}", headers={MSG_ID: "r1"})
    await streams.ensure(request_api, Sizes(queue_limit_per_tenant=7, max_queue_bytes=10**9))
    stream = await client.jetstream().stream_info("LLM_REQUESTS")
    assert (stream.config.max_msgs_per_subject, stream.config.max_bytes) == (7, 10**9)
    assert stream.state.messages == 1


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("LLM_REQUESTS", {"max_age": 10**12, "duplicate_window": 10**9}),
        ("LLM_USAGE", {"max_age": 10**12, "max_msgs_per_subject": 10}),
        ("KV_llm_config", {"max_age": 10**12}),
    ],
)
async def test_takes_back_limits_that_would_drop_messages(
    client: Client, request_api: streams.Request, name: str, limits: dict[str, int]
) -> None:
    await create(client, name, limits)
    await streams.ensure(request_api, Sizes())
    wanted = next(config for config in streams.definitions(Sizes()) if config["name"] == name)
    found = (await configurations(client))[name]
    assert {limit: found[limit] for limit in limits} == {limit: wanted[limit] for limit in limits}


UNBOUNDED = {
    "LLM_REPLIES": ("max_msgs", "max_msgs_per_subject", "max_msg_size"),
    "LLM_USAGE": ("max_bytes", "max_msg_size"),
    "LLM_DEAD": ("max_bytes", "max_msgs_per_subject", "max_msg_size"),
    "LLM_NOTICES": ("max_bytes", "max_msgs_per_subject", "max_msg_size"),
    "LLM_LIMITS": ("max_msg_size",),
    "LLM_BUDGETS": ("max_bytes", "max_msg_size"),
    "KV_llm_holds": ("max_bytes", "max_msg_size"),
    "KV_llm_config": ("max_bytes", "max_msg_size"),
    "KV_llm_health": ("max_bytes", "max_msg_size"),
}
"""The bounds that streams of earlier releases did not have."""


async def test_streams_without_bounds_are_given_them_and_keep_what_they_have(
    client: Client, request_api: streams.Request
) -> None:
    for config in streams.definitions(Sizes()):
        former = {field: value for field, value in config.items() if field not in UNBOUNDED.get(config["name"], ())}
        answer = await client.request(f"$JS.API.STREAM.CREATE.{config['name']}", json.dumps(former).encode())
        assert "error" not in json.loads(answer.data)
    js = client.jetstream()
    await js.publish(subjects.usage("mock", "acme"), b"{}")
    await js.publish(subjects.dead("mock", "acme"), b"x" * 1_000_000)

    await streams.ensure(request_api, Sizes())

    found = await configurations(client)
    for config in streams.definitions(Sizes()):
        fields = UNBOUNDED.get(config["name"], ())
        assert {f: found[config["name"]][f] for f in fields} == {f: config[f] for f in fields}
    assert (await js.stream_info("LLM_USAGE")).state.messages == 1
    assert (await js.stream_info("LLM_DEAD")).state.bytes > 1_000_000


async def test_usage_that_is_more_than_its_stream_may_take_is_never_dropped(
    client: Client, request_api: streams.Request
) -> None:
    await create(client, "LLM_USAGE", {"max_bytes": -1})
    js = client.jetstream()
    for _ in range(100):
        await js.publish(subjects.usage("mock", "acme"), b"x" * 10_000)

    await streams.ensure(request_api, Sizes(max_usage_bytes=500_000))

    assert (await js.stream_info("LLM_USAGE")).state.messages == 100
    with pytest.raises(APIError):
        await js.publish(subjects.usage("mock", "acme"), b"x")


async def test_a_server_that_is_too_small_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = nats_config.server

    def small(**how: Any) -> str:
        return whole(**how).replace("max_file_store: 64GB", "max_file_store: 9GB")

    monkeypatch.setattr(nats_config, "server", small)
    async with nats_from_wheels(tmp_path) as server, connected(server.url) as broker:
        with pytest.raises(JetStreamError, match="max_file_store of at least LLM_STREAM_DISK_GB") as refused:
            await streams.ensure(broker.request, Sizes())
        assert refused.value.err_code == jetstream_codes.NO_STORAGE

        await streams.ensure(
            broker.request, Sizes(max_queue_bytes=2 * 1024**3, max_usage_bytes=1024**3, max_result_bytes=1024**3)
        )


async def test_a_message_larger_than_its_stream_takes_is_told_from_one_that_is_not_stored(
    client: Client, request_api: streams.Request
) -> None:
    await streams.ensure(request_api, Sizes())

    with pytest.raises(TooLarge):
        await Publisher(Broker(client)).durable(subjects.usage("mock", "acme"), b"x" * 20_000, msg_id="m")


async def test_dead_letters_of_a_tenant_push_out_its_own_only(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes())
    js = client.jetstream()
    await js.publish(subjects.dead("mock", "quiet"), b"1")
    for _ in range(600):
        await client.publish(subjects.dead("mock", "mallory"), b"x")
    await js.publish(subjects.dead("mock", "mallory"), b"last")

    state = (await js.stream_info("LLM_DEAD", subjects_filter=">")).state
    assert state.subjects == {"llm.v1.dead.mock.quiet": 1, "llm.v1.dead.mock.mallory": 500}


async def test_keeps_what_an_operator_added(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes())
    js = client.jetstream()
    mine = (await js.stream_info("LLM_DEAD")).config
    mine.description = "looked at by the support team"
    await js.update_stream(mine)
    await streams.ensure(request_api, Sizes(queue_limit_per_tenant=7))
    assert (await js.stream_info("LLM_DEAD")).config.description == "looked at by the support team"


@pytest.mark.parametrize(
    ("name", "wrong", "told"),
    [
        ("LLM_REQUESTS", {"retention": "limits"}, "retention='limits', but 'workqueue'"),
        ("LLM_REQUESTS", {"storage": "memory", "max_bytes": 1_000_000}, "storage='memory', but 'file'"),
        ("LLM_REQUESTS", {"discard": "old", "discard_new_per_subject": False}, "discard='old', but 'new'"),
        ("LLM_REQUESTS", {"allow_msg_ttl": False}, "allow_msg_ttl"),
        ("LLM_USAGE", {"storage": "memory", "max_bytes": 1_000_000}, "storage='memory', but 'file'"),
        ("LLM_USAGE", {"retention": "workqueue"}, "retention='workqueue', but 'limits'"),
        ("LLM_USAGE", {"discard": "old"}, "discard='old', but 'new'"),
        ("LLM_USAGE", {"no_ack": True}, "no_ack=True, but"),
    ],
)
async def test_refuses_a_stream_that_would_lose_data(
    client: Client, request_api: streams.Request, name: str, wrong: dict[str, Any], told: str
) -> None:
    await create(client, name, wrong)
    with pytest.raises(StreamMismatch) as refused:
        await streams.ensure(request_api, Sizes())
    assert str(refused.value).startswith(f"{name} exists with ")
    assert told in str(refused.value)
    assert "drain it, delete it and start again" in str(refused.value)


async def test_refuses_a_pool_that_reads_other_subjects(client: Client, request_api: streams.Request) -> None:
    await create(client, "LLM_REQUESTS", {})
    config = {
        "durable_name": "openai_interactive",
        "filter_subject": "llm.v1.request.anthropic.interactive.*",
        "ack_policy": "explicit",
    }
    body = json.dumps({"stream_name": "LLM_REQUESTS", "config": config}).encode()
    created = await client.request("$JS.API.CONSUMER.DURABLE.CREATE.LLM_REQUESTS.openai_interactive", body)
    assert "error" not in json.loads(created.data)
    with pytest.raises(StreamMismatch, match="LLM_REQUESTS/openai_interactive exists with filter_subject="):
        await streams.ensure(request_api, Sizes())


async def test_says_what_the_server_refuses(request_api: streams.Request) -> None:
    with pytest.raises(JetStreamError, match=r"LLM_REQUESTS: .*replicas") as refused:
        await streams.ensure(request_api, Sizes(replicas=3))
    assert refused.value.err_code == jetstream_codes.REPLICAS_NOT_SUPPORTED


@pytest.mark.slow
async def test_a_fleet_that_becomes_a_cluster_makes_the_stream_of_cancels_anew(tmp_path: Path) -> None:
    async with nats_cluster(tmp_path) as nodes, connected(nodes[0].url) as broker:
        await ensure_streams(broker, BrokerSettings(llm_stream_replicas=1))
        three = BrokerSettings(llm_stream_replicas=3)
        with pytest.raises(StreamMismatch, match=r"LLM_CANCELS exists with persist_mode='async'.*; delete it once"):
            await ensure_streams(broker, three)
        js = broker.client.jetstream()
        assert (await js.stream_info("LLM_REQUESTS")).config.num_replicas == 3

        assert await js.delete_stream("LLM_CANCELS")
        await ensure_streams(broker, three)
        await ensure_streams(broker, three)

        assert (await js.stream_info("LLM_CANCELS")).config.num_replicas == 3


async def test_what_is_put_off_stops_no_delivery(client: Client, request_api: streams.Request) -> None:
    """As consumers were made by earlier releases, with a bound on what is not acked."""
    await streams.ensure(request_api, Sizes())
    name = streams.pool_consumer("openai", Priority.INTERACTIVE)
    config = {**(await configurations(client))[f"LLM_REQUESTS/{name}"], "max_ack_pending": 10}
    subject = f"$JS.API.CONSUMER.CREATE.LLM_REQUESTS.{name}.{config['filter_subject']}"
    body = json.dumps({"stream_name": "LLM_REQUESTS", "config": config}).encode()
    assert "error" not in json.loads((await client.request(subject, body)).data)
    await streams.ensure(request_api, Sizes())
    assert (await configurations(client))[f"LLM_REQUESTS/{name}"]["max_ack_pending"] == -1
    js = client.jetstream()
    for _ in range(20):
        await js.publish(SUBJECT, b"{}")
    pull = await js.pull_subscribe_bind(durable=name, stream="LLM_REQUESTS")
    for msg in await pull.fetch(20, timeout=DEADLINE_S):
        await msg.nak(delay=600)
    await js.publish(subjects.request("openai", Priority.INTERACTIVE, "quiet"), b"quiet")

    [of_another] = await pull.fetch(1, timeout=DEADLINE_S)
    assert of_another.data == b"quiet"


async def create(client: Client, name: str, wrong: dict[str, Any]) -> None:
    config = next(config for config in streams.definitions(Sizes()) if config["name"] == name)
    answer = await client.request(f"$JS.API.STREAM.CREATE.{name}", json.dumps({**config, **wrong}).encode())
    assert "error" not in json.loads(answer.data)


async def test_a_tenant_that_floods_is_stopped_and_others_are_not(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes(queue_limit_per_tenant=2))
    js = client.jetstream()
    for number in range(2):
        await js.publish(SUBJECT, b"{}", headers={MSG_ID: f"r{number}"})
    with pytest.raises(APIError) as refused:
        await js.publish(SUBJECT, b"{}", headers={MSG_ID: "r2"})
    assert refused.value.err_code == jetstream_codes.STORE_FAILED
    await js.publish(subjects.request("openai", Priority.INTERACTIVE, "quiet"), b"{}", headers={MSG_ID: "q0"})
    await js.publish(subjects.request("openai", Priority.BACKGROUND, "acme"), b"{}", headers={MSG_ID: "b0"})


async def test_a_lower_limit_drops_no_request_that_was_confirmed(client: Client, request_api: streams.Request) -> None:
    """The server drops the oldest of each subject when its limit is lowered."""
    await streams.ensure(request_api, Sizes(queue_limit_per_tenant=4))
    js = client.jetstream()
    for _ in range(4):
        await js.publish(SUBJECT, b"{}")

    await streams.ensure(request_api, Sizes(queue_limit_per_tenant=3))
    info = await js.stream_info("LLM_REQUESTS")
    assert (info.state.messages, info.config.max_msgs_per_subject) == (4, 4)

    await js.purge_stream("LLM_REQUESTS", keep=3)
    await streams.ensure(request_api, Sizes(queue_limit_per_tenant=3))
    info = await js.stream_info("LLM_REQUESTS")
    assert (info.state.messages, info.config.max_msgs_per_subject) == (3, 3)


async def test_fewer_bytes_drop_no_request_that_was_confirmed(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes(max_queue_bytes=100_000))
    js = client.jetstream()
    for _ in range(9):
        await js.publish(SUBJECT, b"x" * 10_000)

    await streams.ensure(request_api, Sizes(max_queue_bytes=20_000))

    info = await js.stream_info("LLM_REQUESTS")
    assert (info.state.messages, info.config.max_bytes) == (9, 20_000)


async def test_a_publisher_says_soon_that_a_queue_is_full(
    client: Client, request_api: streams.Request, caplog: pytest.LogCaptureFixture
) -> None:
    await streams.ensure(request_api, Sizes(queue_limit_per_tenant=1))
    publisher = Publisher(Broker(client))
    await publisher.durable(SUBJECT, b"{}", msg_id="r0")

    with pytest.raises(SubjectFull):
        await publisher.durable(SUBJECT, b"{}", msg_id="r1")

    assert caplog.messages.count("publish_unconfirmed") == 2, "as often as a server takes to be stopped"


async def test_a_request_sent_twice_is_kept_once(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes())
    js = client.jetstream()
    first = await js.publish(SUBJECT, b"{}", headers={MSG_ID: "r1"})
    second = await js.publish(SUBJECT, b"{}", headers={MSG_ID: "r1"})
    assert (first.duplicate or False, second.duplicate) == (False, True)
    assert (await js.stream_info("LLM_REQUESTS")).state.messages == 1


@pytest.mark.slow
@pytest.mark.parametrize("to", ["acme.interactive.acme", "openai.urgent.acme", "openai.interactive.acme.more"])
async def test_a_request_that_no_pool_would_take_is_refused(
    client: Client, request_api: streams.Request, to: str
) -> None:
    await create(client, "LLM_REQUESTS", {"subjects": [subjects.REQUESTS]})  # as earlier releases made it
    await streams.ensure(request_api, Sizes())
    with pytest.raises(NoStreamResponseError):
        await client.jetstream().publish(f"llm.v1.request.{to}", b"{}")


async def test_a_request_is_gone_after_its_time(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes())
    js = client.jetstream()
    await js.publish(SUBJECT, b"{}", headers={MSG_ID: "short", MSG_TTL: "1s"})
    await js.publish(SUBJECT, b"{}", headers={MSG_ID: "long", MSG_TTL: "600s"})
    async with asyncio.timeout(DEADLINE_S):
        while (await js.stream_info("LLM_REQUESTS")).state.messages > 1:
            await asyncio.sleep(0.05)
    kept = await js.get_last_msg("LLM_REQUESTS", SUBJECT)
    assert (kept.headers or {})[MSG_ID] == "long"


async def test_a_request_of_the_largest_size_is_kept(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes())
    room = MAX_REQUEST_BYTES - 1024  # for the headers, which count
    await client.jetstream().publish(SUBJECT, b"x" * room, headers={MSG_ID: "big"}, timeout=DEADLINE_S)
    assert client.max_payload == MAX_REQUEST_BYTES


async def test_a_pool_gets_its_requests_of_its_priority_only(client: Client, request_api: streams.Request) -> None:
    await streams.ensure(request_api, Sizes())
    js = client.jetstream()
    for provider in ("openai", "anthropic", AUTO):
        for priority in Priority:
            await js.publish(subjects.request(provider, priority, "acme"), f"{provider} {priority}".encode())
    waiting = {
        name: (await js.consumer_info("LLM_REQUESTS", name)).num_pending
        for provider in [*Provider, AUTO]
        for priority in Priority
        for name in [streams.pool_consumer(provider, priority)]
    }
    assert {name for name, count in waiting.items() if count} == {
        f"{provider}_{priority}" for provider in ("openai", "anthropic", "auto") for priority in Priority
    }
    pool = await js.pull_subscribe_bind(durable="openai_interactive", stream="LLM_REQUESTS")
    [mine] = await pool.fetch(1, timeout=DEADLINE_S)
    assert mine.data == b"openai interactive"
    await mine.ack_sync()
    assert (await js.stream_info("LLM_REQUESTS")).state.messages == 5
