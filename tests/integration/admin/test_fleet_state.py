"""What is running and waiting, as GET /api/v1/fleet tells."""

import httpx

from contracts.providers import WorkerPresence
from tests.integration.admin.conftest import NatsWithUsers

PRESENCE = WorkerPresence(
    name="w-1",
    providers=("openai",),
    host="h",
    pid=7,
    version="0.1.0",
    started_at="2026-11-23T12:00:00Z",
    concurrency=64,
    in_flight=3,
    parked=1,
)


async def test_shows_workers_queues_and_streams(api: httpx.AsyncClient, nats_users: NatsWithUsers, acme: str) -> None:
    async with nats_users.connect_as("worker-openai") as worker:
        stream = worker.jetstream()
        bucket = await stream.key_value("llm_health")
        await bucket.put("worker.w-1", PRESENCE.to_json())
        await bucket.put("worker.w-2", b"unreadable")
        await bucket.put("circuit.acme.openai.default", b"{}")
        for number in range(3):
            await stream.publish(
                f"llm.v1.request.openai.background.{acme}", b"{}", headers={"Nats-Msg-Id": str(number)}
            )

    found = (await api.get("/api/v1/fleet")).json()

    assert found["workers"] == [PRESENCE.model_dump(mode="json")]
    queues = {(queue["provider"], queue["priority"]): queue for queue in found["queues"]}
    assert len(queues) == 14
    assert queues["openai", "background"]["waiting"] == 3
    assert queues["auto", "interactive"] == {
        "provider": "auto",
        "priority": "interactive",
        "waiting": 0,
        "delivered": 0,
        "redelivered": 0,
    }
    sizes = {stream["name"]: stream for stream in found["streams"]}
    assert sizes["LLM_REQUESTS"]["messages"] == 3
    assert {"LLM_REPLIES", "LLM_USAGE", "LLM_DEAD", "KV_llm_config"} <= set(sizes)
