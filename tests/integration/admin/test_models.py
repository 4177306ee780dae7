"""GET /api/v1/models: from configurations, and from workers that are asked over NATS."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from admin_api.database import Database
from admin_api.dependencies import provide
from admin_api.operations.models import ModelList
from admin_api.operations.worker_rpc import WorkerRpc
from runtime.broker import Broker
from tests.integration.admin.conftest import NatsWithUsers, client_of, until
from tests.kit import worker, worker_settings
from tests.servers import Vault

MODELS = "/api/v1/models"
WINDOW = 128_000


Listing = Callable[..., None]


@pytest.fixture
def listing(app: FastAPI, database: Database, broker: Broker) -> Listing:
    """Gives the admin API another list of models, with other bounds."""

    def give(*, answer_timeout_s: float = 8.0, **bounds: Any) -> None:
        provide(app, ModelList(database, WorkerRpc(broker, answer_timeout_s=answer_timeout_s), **bounds))

    return give


async def add(api: httpx.AsyncClient, tenant: str, provider: str, **config: Any) -> str:
    body = {"tenant": tenant, "provider_type": provider, "api_key": "sk-x", "config": config}
    answer = await api.post("/api/v1/llm-providers", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def read(api: httpx.AsyncClient, **params: Any) -> dict[str, Any]:
    answer = await api.get(MODELS, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def places(found: Mapping[str, Any]) -> list[tuple[str, str | None, str]]:
    return [(item["tenant"], item["provider"], item["id"]) for item in found["items"]]


@asynccontextmanager
async def pool(nats_users: NatsWithUsers, provider: str, answer: Any) -> AsyncGenerator[list[str]]:
    """Answers every question of a pool's users with `answer` (None: never); yields the subjects that were asked."""
    asked: list[str] = []

    async def on_ask(message: Any) -> None:
        asked.append(message.subject)
        if answer is not None:
            await message.respond(json.dumps(answer).encode())

    async with nats_users.connect_as(f"worker-{provider}") as client:
        await client.subscribe(f"llm.v1.rpc.{provider}.*.*", queue="answers", cb=on_ask)
        await client.flush()
        yield asked


async def test_nothing_is_offered_where_nothing_is_configured(api: httpx.AsyncClient, acme: str) -> None:
    assert await read(api) == {"items": [], "next": None, "unavailable": []}


async def test_lists_what_configurations_name_with_prices(api: httpx.AsyncClient, acme: str) -> None:
    await add(api, acme, "openai", models=["gpt-4o-mini", "my-own", "gpt-4o"])
    endpoint = {"name": "eu", "base_url": "https://llm.example.com", "deployments": {"gpt-4o": "d1", "zeta": "d2"}}
    await add(api, acme, "azure", endpoints=[endpoint])
    prices = {
        "gpt-4o": {"input_mtok": "9.5", "output_mtok": 0},
        "openai/my-own": {"input_mtok": "1e-3", "output_mtok": "2.50"},
    }
    await api.put(f"/api/v1/tenants/{acme}", json={"prices": prices})

    found = await read(api)

    assert (found["next"], found["unavailable"]) == (None, [])
    assert places(found) == [
        (acme, "azure", "gpt-4o"),
        (acme, "azure", "zeta"),
        (acme, "openai", "gpt-4o"),
        (acme, "openai", "gpt-4o-mini"),
        (acme, "openai", "my-own"),
    ]
    own = {"input_mtok": "9.5", "output_mtok": "0", "source": "tenant"}
    assert [item["price"] for item in found["items"]] == [
        own,
        None,
        own,
        {"input_mtok": "0.15", "output_mtok": "0.6", "source": "catalogue"},
        {"input_mtok": "0.001", "output_mtok": "2.5", "source": "tenant"},
    ]
    assert [item["context_window"] for item in found["items"]] == [WINDOW, None, WINDOW, WINDOW, None]


async def test_lists_aliases_with_their_targets(api: httpx.AsyncClient, acme: str) -> None:
    await add(api, acme, "openai", models=["gpt-4o"])
    aliases = {"smart": ["openai/gpt-4o", "anthropic/claude"], "local": ["ollama/llama"]}
    await api.put(f"/api/v1/tenants/{acme}", json={"aliases": aliases})

    found = await read(api)

    assert places(found) == [(acme, None, "local"), (acme, None, "smart"), (acme, "openai", "gpt-4o")]
    assert [item["targets"] for item in found["items"]] == [aliases["local"], aliases["smart"], None]
    assert places(await read(api, provider="openai")) == [(acme, None, "smart"), (acme, "openai", "gpt-4o")]


async def test_asks_a_worker_where_the_configuration_names_none(
    api: httpx.AsyncClient, nats_users: NatsWithUsers, acme: str
) -> None:
    await add(api, acme, "openai")
    told = {"models": [{"id": "gpt-4o", "context_window": 7}, {"id": "gpt-4o-mini"}, {"id": "gpt-4o-mini"}]}

    async with pool(nats_users, "openai", told) as asked:
        found = await read(api)

    assert asked == [f"llm.v1.rpc.openai.models.{acme}"]
    assert places(found) == [(acme, "openai", "gpt-4o"), (acme, "openai", "gpt-4o-mini")]
    assert [item["context_window"] for item in found["items"]] == [7, WINDOW]
    assert found["items"][1]["price"]["source"] == "catalogue"


async def test_a_real_worker_answers(
    api: httpx.AsyncClient, nats_users: NatsWithUsers, vault: Vault, acme: str
) -> None:
    await api.post("/api/v1/llm-providers", json={"tenant": acme, "provider_type": "mock"})
    rights = {"nats_user": "worker-mock", "nats_password": nats_users.password("worker-mock")}

    async with worker(worker_settings(nats_users.url, vault, **rights)):

        async def is_known() -> bool:
            return places(await read(api)) == [(acme, "mock", "echo")]

        await until(is_known)
        assert (await read(api))["unavailable"] == []


async def test_pools_that_do_not_tell_are_named_and_the_rest_is_shown(
    api: httpx.AsyncClient, nats_users: NatsWithUsers, acme: str, listing: Listing
) -> None:
    listing(answer_timeout_s=0.5)
    for provider in ("anthropic", "google", "mock", "ollama"):
        await add(api, acme, provider)
    await add(api, acme, "openai", models=["gpt-4o"])
    refusal = {"error": {"code": "key_unavailable", "message": "Vault is sealed", "retryable": True}}

    async with (
        pool(nats_users, "anthropic", refusal),
        pool(nats_users, "google", None),
        pool(nats_users, "mock", {"surprise": 1}),
    ):
        found = await read(api)

    assert places(found) == [(acme, "openai", "gpt-4o")]
    assert found["unavailable"] == [
        {"tenant": acme, "provider": "anthropic", "reason": "Vault is sealed"},
        {"tenant": acme, "provider": "google", "reason": "no worker of the pool google answered in 0.5 s"},
        {
            "tenant": acme,
            "provider": "mock",
            "reason": "a worker of the pool mock answered in a form that this version does not know",
        },
        {"tenant": acme, "provider": "ollama", "reason": "no worker of the pool ollama is running"},
    ]


async def test_asks_all_at_once_and_ends_the_page_when_it_takes_too_long(
    api: httpx.AsyncClient, nats_users: NatsWithUsers, acme: str, listing: Listing
) -> None:
    listing(answer_timeout_s=1.0, ask_for_s=0.5, tenants_at_once=5)
    slugs = [acme, *(f"{acme}-{number}" for number in range(6))]
    for slug in slugs:
        await api.post("/api/v1/tenants", json={"slug": slug})
        await add(api, slug, "openai")

    async with pool(nats_users, "openai", None) as asked:
        first = await read(api)
        second = await read(api, cursor=first["next"])

    assert [one["tenant"] for one in first["unavailable"]] == slugs[:5]
    assert ([one["tenant"] for one in second["unavailable"]], second["next"]) == (slugs[5:], None)
    assert len(asked) == 7


async def test_pages_over_tenants_and_providers(
    api: httpx.AsyncClient, nats_users: NatsWithUsers, acme: str, listing: Listing
) -> None:
    listing(tenants_at_once=2)
    slugs = [acme, *(f"{acme}-{number}" for number in range(4))]
    expected: list[tuple[str, str | None, str]] = []
    for slug in slugs:
        await api.post("/api/v1/tenants", json={"slug": slug, "aliases": {"fast": ["openai/a"], "é/\U0001f600": []}})
        await add(api, slug, "openai", models=["b", "a" * 250, "\U0001f600" * 256])
        await add(api, slug, "mock")
        expected += [(slug, None, "fast"), (slug, None, "é/\U0001f600")] if slug != acme else []
        expected += [(slug, "mock", "m"), (slug, "openai", "a" * 250), (slug, "openai", "b")]
        expected += [(slug, "openai", "\U0001f600" * 256)]

    async with pool(nats_users, "mock", {"models": [{"id": "m"}]}):
        for limit in (1, 3, 5, 100):
            found: list[tuple[str, str | None, str]] = []
            cursor: dict[str, str] = {}
            while True:
                page = await read(api, limit=limit, **cursor)
                assert len(page["items"]) <= limit
                found += places(page)
                if page["next"] is None:
                    break
                cursor = {"cursor": page["next"]}
            assert found == expected


async def test_deactivated_providers_offer_nothing(api: httpx.AsyncClient, acme: str) -> None:
    added = await add(api, acme, "openai", models=["gpt-4o"])
    await api.delete(f"/api/v1/llm-providers/{added}")

    assert await read(api) == {"items": [], "next": None, "unavailable": []}


async def test_filters_by_tenant_and_scopes_by_role(app: FastAPI, api: httpx.AsyncClient, acme: str) -> None:
    other = f"{acme}-other"
    await api.post("/api/v1/tenants", json={"slug": other})
    for slug in (acme, other):
        await add(api, slug, "openai", models=["gpt-4o"])
    token = (await api.post("/api/v1/tokens", json={"name": "n", "role": "viewer", "tenant": acme})).json()["token"]

    async with client_of(app, token) as client:
        scoped = await read(client)

    assert places(scoped) == [(acme, "openai", "gpt-4o")]
    assert places(await read(api, tenant=other)) == [(other, "openai", "gpt-4o")]
    assert places(await read(api, tenant="nobody")) == []


async def test_while_nats_is_away_configurations_still_tell(
    broker: Broker, api: httpx.AsyncClient, nats_users: NatsWithUsers, acme: str
) -> None:
    await add(api, acme, "openai", models=["gpt-4o"])
    await add(api, acme, "mock")
    await nats_users.server.stop()

    async def disconnected() -> bool:
        return not broker.connected

    await until(disconnected)

    found = await read(api)

    assert places(found) == [(acme, "openai", "gpt-4o")]
    assert found["unavailable"] == [{"tenant": acme, "provider": "mock", "reason": "NATS does not answer"}]


@pytest.mark.parametrize("params", [{"provider": "nobody"}, {"tenant": "*"}, {"cursor": "WyIxIl0"}, {"limit": 0}])
async def test_refuses_what_makes_no_sense(api: httpx.AsyncClient, params: dict[str, Any]) -> None:
    assert (await api.get(MODELS, params=params)).status_code == 422


async def test_many_at_once_are_answered(api: httpx.AsyncClient, nats_users: NatsWithUsers, acme: str) -> None:
    await add(api, acme, "mock")

    async with pool(nats_users, "mock", {"models": [{"id": "m"}]}):
        answers = await asyncio.gather(*(read(api) for _ in range(30)))

    assert all(places(answer) == [(acme, "mock", "m")] for answer in answers)
