"""A vendor that a tenant names may answer what it likes: only the tenant's own requests suffer."""

import asyncio
from time import monotonic

import pytest

from contracts.events import Completed, Failed, Retrying
from fleet.simulator import Script
from tests.patience import PATIENCE_S, until
from tests.security.fleet import Fleet, Tenant
from tests.security.hostile import KINDS, calls_at, hostile_vendor
from tests.security.neighbours import MODEL, Neighbours
from tests.security.raw import Listener, publish, request

CALLS = 6
LIMITED = Script(status=429, error="rate_limit_exceeded", headers={"retry-after": "20"})
_LASTS_S = 4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "silent"])
async def test_a_hostile_vendor_leaves_others_served(
    fleet: Fleet, mallory: Tenant, neighbours: Neighbours, kind: str
) -> None:
    warm = len(fleet.calls(mallory))
    async with hostile_vendor(kind) as port, mallory.connection() as connection:
        await fleet.use_vendor(mallory, "openai", f"http://127.0.0.1:{port}/v1")
        async with Listener.of(connection, mallory) as heard:
            async with neighbours.unharmed():
                for n in range(CALLS):
                    body = request(mallory, f"r{n}", on_interrupt="fail")
                    await publish(connection, mallory, body, msg_id=f"r{n}")
                give_up = monotonic() + _LASTS_S
                while monotonic() < give_up:
                    await asyncio.sleep(0.05)
            for n in range(CALLS):
                await connection.publish(f"llm.v1.control.{mallory.name}.cancel", b'{"request_id": "r%d"}' % n)
            await until(lambda: len(heard.ends) == CALLS)
        made = await calls_at(port)

    await until_booked(fleet, mallory, warm + made)


async def until_booked(fleet: Fleet, tenant: Tenant, rows: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(await fleet.rows(tenant)) != rows:
            await asyncio.sleep(0.1)


# Health: what is wrong with one model is not wrong with its neighbour at the same endpoint.


async def test_a_model_that_is_rate_limited_holds_up_no_other(fleet: Fleet, mallory: Tenant) -> None:
    limited = _model(fleet, mallory, LIMITED)
    async with mallory.client() as client:
        waits = client.stream(f"openai/{limited}", "Hello", deadline_s=60)
        async for event in waits:
            if isinstance(event, Retrying):
                break

        healthy = await client.complete(MODEL, "Hello", deadline_s=15)

        assert healthy.attempt == 1
        await waits.cancel()


async def test_a_fallback_at_the_same_endpoint_is_tried_at_once(fleet: Fleet, mallory: Tenant) -> None:
    limited = _model(fleet, mallory, LIMITED)
    async with mallory.client() as client:
        events = [
            event async for event in client.stream(f"openai/{limited}", "Hello", fallbacks=[MODEL], deadline_s=15)
        ]

    assert isinstance(events[-1], Completed)
    assert sum(event.delay_s for event in events if isinstance(event, Retrying)) < 1


async def test_a_dead_models_circuit_opens_though_its_fallback_succeeds(fleet: Fleet, mallory: Tenant) -> None:
    dead = _model(fleet, mallory, Script(status=500))
    async with mallory.client() as client:
        for _ in range(15):
            await client.complete(f"openai/{dead}", "Hello", fallbacks=[MODEL], deadline_s=PATIENCE_S)

    assert sum(call.model == dead for call in fleet.calls(mallory)) <= 20


async def test_after_silence_the_fallback_is_next(fleet: Fleet, mallory: Tenant) -> None:
    silent = _model(fleet, mallory, Script(stall_after_chunks=0))
    url = fleet.simulator.base_url("openai")
    await fleet.use_vendor(mallory, "openai", url, timeouts={"first_token_s": 1, "idle_s": 1})
    async with mallory.client() as client:
        await client.complete(f"openai/{silent}", "Hello", fallbacks=[MODEL], deadline_s=PATIENCE_S)

    assert sum(call.model == silent for call in fleet.calls(mallory)) == 1


def _model(fleet: Fleet, tenant: Tenant, script: Script) -> str:
    name = f"gpt-{tenant.name}"
    fleet.simulator.script(name, script)
    return name


async def test_a_hostile_vendors_own_requests_end(fleet: Fleet, mallory: Tenant) -> None:
    """With an error of the contract, and soon."""
    async with hostile_vendor("huge_events") as port, mallory.client() as client:
        await fleet.use_vendor(mallory, "openai", f"http://127.0.0.1:{port}/v1")
        events = [event async for event in client.stream(MODEL, "Hello", on_interrupt="fail", deadline_s=PATIENCE_S)]

    assert isinstance(events[-1], Failed)
