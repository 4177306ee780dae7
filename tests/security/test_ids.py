"""Agents choose ids: whatever they choose, each vendor call has a row of its own, and nobody's request is lost."""

import asyncio
import json
from collections.abc import Sequence
from secrets import token_hex

import pytest
from nats.aio.client import Client as Nats

from contracts import subjects
from contracts.control import MSG_ID
from contracts.events import Completed
from contracts.subjects import Priority
from tests.patience import PATIENCE_S, until
from tests.security.fleet import MODELS, Fleet, Tenant
from tests.security.neighbours import MODEL, Neighbours
from tests.security.raw import Listener, publish, request

AGENTS = 20


async def test_one_id_under_many_agent_names_is_booked_each_time(
    fleet: Fleet, mallory: Tenant, neighbours: Neighbours
) -> None:
    before = len(fleet.calls(mallory))
    async with neighbours.unharmed(), mallory.connection() as connection, Listener.of(connection, mallory) as heard:
        for n in range(AGENTS):
            await publish(connection, mallory, request(mallory, "same", agent=f"agent-{n}"), msg_id=f"m-{n}")
        await until(lambda: len(heard.ends) == AGENTS)

    assert len(fleet.calls(mallory)) - before == AGENTS
    await neighbours.bill_is_right(mallory)


async def test_one_id_of_one_agent_under_many_message_ids_is_booked_as_often_as_it_is_called(
    mallory: Tenant, neighbours: Neighbours
) -> None:
    async with mallory.connection() as connection, Listener.of(connection, mallory) as heard:
        for n in range(AGENTS):
            await publish(connection, mallory, request(mallory, "same"), msg_id=f"m-{n}")
        await until(lambda: len(heard.ends) >= 1)
        await publish(connection, mallory, request(mallory, "later"), msg_id="later")
        await until(lambda: "later" in heard.ended_ids)

    await neighbours.bill_is_right(mallory)


@pytest.mark.parametrize(("forgotten", "calls"), [(("LLM_REPLIES",), 1), (("LLM_REPLIES", "LLM_RESULTS"), 2)])
async def test_an_id_that_is_used_again_is_run_again_when_its_end_is_not_kept_any_more(
    fleet: Fleet, mallory: Tenant, neighbours: Neighbours, forgotten: Sequence[str], calls: int
) -> None:
    """As an honest agent does that numbers its requests anew each day."""
    before = len(fleet.calls(mallory))
    async with mallory.connection() as connection, Listener.of(connection, mallory) as heard:
        for n in (1, 2):
            await publish(connection, mallory, request(mallory, f"again-{calls}"), msg_id=f"again-{calls}-{n}")
            await until(lambda n=n: len(heard.ends) == n)
            await _forget(fleet, forgotten, kept=subjects.result(mallory.name, "raw", f"again-{calls}"))

    assert len(fleet.calls(mallory)) - before == calls
    await neighbours.bill_is_right(mallory)


async def _forget(fleet: Fleet, streams: Sequence[str], *, kept: str) -> None:
    """As time does, once the end is kept on the subject `kept`."""
    async with fleet.operator() as operator:
        async with asyncio.timeout(PATIENCE_S):
            while not (await operator.request(f"$JS.API.DIRECT.GET.LLM_RESULTS.{kept}", timeout=PATIENCE_S)).data:
                await asyncio.sleep(0.02)
        for name in streams:
            await operator.request(f"$JS.API.STREAM.PURGE.{name}", b"", timeout=PATIENCE_S)


async def test_an_id_that_another_tenant_has_used_runs(
    fleet: Fleet, mallory: Tenant, other: Tenant, neighbours: Neighbours
) -> None:
    async with mallory.connection() as connection:
        for msg_id in _guesses(mallory, other, "wanted"):
            await publish(
                connection, mallory, request(mallory, f"r-{msg_id}"[:64].replace(".", "_")), shared_msg_id=msg_id
            )

    async with other.client() as client:
        answer = await client.complete(MODEL, "Hello", id="wanted", deadline_s=30)

    assert isinstance(answer, Completed)
    await neighbours.bill_is_right(other)
    assert len(await fleet.rows(other)) == len(fleet.calls(other))


def _guesses(mallory: Tenant, other: Tenant, request_id: str) -> list[str]:
    """Message ids that another tenant's request, or the fleet's own copies of it, may have."""
    return [
        request_id,
        *(f"{name.name}.agent.{request_id}" for name in (mallory, other)),
        *(f"{request_id}:{attempt}:{pool}" for attempt in (1, 2) for pool in MODELS),
        *(f"{other.name}.agent.{request_id}.{attempt}" for attempt in (1, 2)),
    ]


async def test_a_raw_agent_finds_its_bare_id_taken_and_publishes_again(
    mallory: Tenant, other: Tenant, neighbours: Neighbours
) -> None:
    bare = f"bare-{token_hex(4)}"
    async with mallory.connection() as connection:
        await publish(connection, mallory, request(mallory, "bare"), shared_msg_id=bare)

    async with other.connection() as connection, Listener.of(connection, other) as heard:
        ack = await publish(connection, other, request(other, "bare"), shared_msg_id=bare)
        if ack.get("duplicate"):
            await publish(connection, other, request(other, "bare"), shared_msg_id=f"{bare}-and-more")
        await until(lambda: "bare" in heard.ended_ids)

    await neighbours.bill_is_right(mallory, other)


async def test_two_tenants_with_one_id_at_the_same_time_are_both_booked(
    mallory: Tenant, other: Tenant, neighbours: Neighbours
) -> None:
    async with mallory.client() as one, other.client() as two:
        await asyncio.gather(*(client.complete(MODEL, "Hello", id="both") for client in (one, two)))

    await neighbours.bill_is_right(mallory, other)


async def test_the_message_id_of_a_handover_cannot_be_taken_beforehand(
    mallory: Tenant, other: Tenant, neighbours: Neighbours
) -> None:
    """A bare model is resolved by whichever worker takes it, and handed over to the pool of its provider."""
    async with mallory.connection() as connection:
        for n, msg_id in enumerate(_guesses(mallory, other, "moved")):
            await _take(connection, mallory, msg_id, f"taken-{n}")

    async with other.client() as client:
        for model in MODELS.values():
            assert await client.complete(model, "Hello", id="moved" if "claude" in model else None, deadline_s=30)

    await neighbours.bill_is_right(other)


async def _take(connection: Nats, mallory: Tenant, msg_id: str, request_id: str) -> None:
    body = json.dumps(request(mallory, request_id)).encode()
    subject = subjects.request("auto", Priority.BACKGROUND, mallory.name)
    await connection.request(subject, body, timeout=PATIENCE_S, headers={MSG_ID: msg_id})
