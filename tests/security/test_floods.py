"""A flood of any subject that an agent may publish leaves the others served, and is not kept beyond its bounds."""

import asyncio
import json
from contextlib import AsyncExitStack

from nats.aio.client import Client as Nats

from contracts import subjects
from contracts.events import Cancelled, Completed, Started
from contracts.subjects import Priority, RpcMethod
from tests.patience import PATIENCE_S, until
from tests.security.fleet import MODELS, POOLS, Fleet, Tenant
from tests.security.hostile import hostile_vendor
from tests.security.neighbours import MODEL, Neighbours
from tests.security.raw import Listener, publish, request

FLUSHED_WITHIN_S = int(PATIENCE_S)
BIG = b"x" * 7_000_000
SILENT = {"openai": {"simulate": {"stall_after_chunks": 0}}}


async def _flood(connection: Nats, subject: str, payload: bytes, times: int, *, reply: str = "") -> None:
    for _ in range(times):
        await connection.publish(subject, payload, reply=reply)
    await connection.flush(FLUSHED_WITHIN_S)


async def test_cancels_of_megabytes_are_kept_nowhere(fleet: Fleet, mallory: Tenant, neighbours: Neighbours) -> None:
    padded = json.dumps({"request_id": "r1"}).encode() + b" " * 7_000_000
    async with neighbours.unharmed(disk=64 * 1024**2), mallory.connection() as connection:
        await _flood(connection, subjects.cancel(mallory.name), BIG, 30)
        await _flood(connection, subjects.cancel(mallory.name), padded, 30)


async def test_a_new_worker_serves_soon_after_a_flood_of_cancels(
    fleet: Fleet, mallory: Tenant, neighbours: Neighbours
) -> None:
    async with mallory.connection() as connection:
        for n in range(20_000):
            await connection.publish(subjects.cancel(mallory.name), b'{"request_id": "r%d"}' % n)
        await connection.flush(FLUSHED_WITHIN_S)
    await fleet.process("worker-openai").kill()
    await fleet.start_role("worker-openai")

    async with neighbours.unharmed():
        pass


async def test_a_flood_of_cancels_makes_nobody_forget_another_tenants(
    fleet: Fleet, mallory: Tenant, other: Tenant, neighbours: Neighbours
) -> None:
    """One that comes before its request, as after a reconnect."""
    async with other.client() as client, mallory.connection() as connection:
        await client.cancel("cancelled-before")
        for n in range(110_000):
            await connection.publish(subjects.cancel(mallory.name), b'{"request_id": "flood-%d"}' % n)
        await connection.flush(FLUSHED_WITHIN_S)
        async with neighbours.unharmed():
            await asyncio.sleep(1)
        ends = [event async for event in client.stream(MODEL, "Hello", id="cancelled-before", deadline_s=PATIENCE_S)]

    assert isinstance(ends[-1], Cancelled)


async def test_a_tenants_own_cancel_outlives_its_own_flood(mallory: Tenant) -> None:
    async with mallory.client() as client, mallory.connection() as connection:
        await client.cancel("mine")
        for n in range(5_000):
            await connection.publish(subjects.cancel(mallory.name), b'{"request_id": "flood-%d"}' % n)
        await connection.flush(FLUSHED_WITHIN_S)
        # It is slow, because a worker hears of the cancel when it has read the flood.
        slowly = {"openai": {"simulate": {"chunks": 600, "between_s": 0.1}}}
        asked = client.stream(MODEL, "Hello", id="mine", provider_options=slowly, deadline_s=PATIENCE_S)
        ends = [event async for event in asked]

    assert isinstance(ends[-1], Cancelled)


async def test_verbs_that_nobody_knows_cost_nothing(fleet: Fleet, mallory: Tenant, neighbours: Neighbours) -> None:
    async with neighbours.unharmed(disk=64 * 1024**2), mallory.connection() as connection:
        for verb in ("dance", "cancel.more", "Cancel", "x" * 200):
            await _flood(connection, f"llm.v1.control.{mallory.name}.{verb}", BIG, 10)


async def test_resumes_of_megabytes_and_without_number_leave_others_theirs(
    mallory: Tenant, neighbours: Neighbours
) -> None:
    ask = json.dumps({"request_id": "r1", "agent": "agent", "after": [0, -1]}).encode()
    async with neighbours.unharmed(), mallory.connection() as connection:
        inbox = connection.new_inbox()
        await _flood(connection, subjects.resume(mallory.name), ask + b" " * 7_000_000, 20, reply=inbox)
        await _flood(connection, subjects.resume(mallory.name), ask, 5_000, reply=inbox)


async def test_questions_at_a_hanging_vendor_leave_others_theirs(
    fleet: Fleet, mallory: Tenant, neighbours: Neighbours
) -> None:
    question = json.dumps({"model": MODELS["anthropic"], "messages": request(mallory, "q")["messages"]}).encode()
    async with hostile_vendor("silent") as port, mallory.connection() as connection:
        await fleet.use_vendor(mallory, "anthropic", f"http://127.0.0.1:{port}")
        subject = subjects.rpc("anthropic", RpcMethod.COUNT_TOKENS, mallory.name)
        async with neighbours.unharmed():
            for _ in range(10):
                await _flood(connection, subject, question, 200, reply=connection.new_inbox())
                await asyncio.sleep(0.2)


async def test_questions_of_megabytes_are_not_all_held(fleet: Fleet, mallory: Tenant, neighbours: Neighbours) -> None:
    said = [{"role": "user", "content": "x" * 7_000_000}]
    question = json.dumps({"model": MODELS["anthropic"], "messages": said}).encode()
    async with hostile_vendor("silent") as port, mallory.connection() as connection:
        await fleet.use_vendor(mallory, "anthropic", f"http://127.0.0.1:{port}")
        inbox = connection.new_inbox()
        answers = await connection.subscribe(inbox)
        async with neighbours.unharmed():
            for method in RpcMethod:
                await _flood(connection, subjects.rpc("anthropic", method, mallory.name), question, 20, reply=inbox)
        told = set[str]()
        while "provider_unavailable" not in told:  # busy; those of methods that take short questions only are malformed
            if data := (await answers.next_msg(timeout=PATIENCE_S)).data:
                told.add(json.loads(data)["error"]["code"])


async def test_a_question_too_many_is_told_so_at_once(fleet: Fleet, mallory: Tenant) -> None:
    question = json.dumps({"model": MODELS["anthropic"], "messages": request(mallory, "q")["messages"]}).encode()
    async with hostile_vendor("silent") as port, mallory.connection() as connection:
        await fleet.use_vendor(mallory, "anthropic", f"http://127.0.0.1:{port}")
        inbox = connection.new_inbox()
        answers = await connection.subscribe(inbox)
        await _flood(
            connection, subjects.rpc("anthropic", RpcMethod.COUNT_TOKENS, mallory.name), question, 500, reply=inbox
        )
        refusals = [await answers.next_msg(timeout=10) for _ in range(100)]

    for refusal in refusals:
        if (refusal.headers or {}).get("Status") != "503":  # nobody there: the server itself says that it is too much
            error = json.loads(refusal.data)["error"]
            assert (error["retryable"], error["code"]) == (True, "provider_unavailable")


async def test_requests_that_hang_leave_others_served(fleet: Fleet, mallory: Tenant, neighbours: Neighbours) -> None:
    async with mallory.connection() as connection, hostile_vendor("silent") as port:
        await fleet.use_vendor(mallory, "openai", f"http://127.0.0.1:{port}/v1")
        subject = subjects.request("openai", Priority.INTERACTIVE, mallory.name)
        async with neighbours.unharmed():
            for n in range(3_000):
                await connection.publish(subject, json.dumps(request(mallory, f"h{n}")).encode())
            await connection.flush(FLUSHED_WITHIN_S)
        await _withdraw(fleet, subject)


async def test_requests_of_megabytes_leave_others_served(fleet: Fleet, mallory: Tenant, neighbours: Neighbours) -> None:
    said = [{"role": "user", "content": "x" * 7_000_000}]
    async with mallory.connection() as connection, hostile_vendor("silent") as port:
        await fleet.use_vendor(mallory, "openai", f"http://127.0.0.1:{port}/v1")
        subject = subjects.request("openai", Priority.INTERACTIVE, mallory.name)
        async with neighbours.unharmed():
            for n in range(60):
                await connection.publish(subject, json.dumps(request(mallory, f"b{n}", messages=said)).encode())
            await connection.flush(FLUSHED_WITHIN_S)
        await _withdraw(fleet, subject)


async def _withdraw(fleet: Fleet, subject: str) -> None:
    """What is left of a flood would be the next test's."""
    async with fleet.operator() as operator:
        ask = json.dumps({"filter": subject}).encode()
        await operator.request("$JS.API.STREAM.PURGE.LLM_REQUESTS", ask, timeout=PATIENCE_S)


async def test_malformed_requests_are_kept_within_bounds(fleet: Fleet, mallory: Tenant, neighbours: Neighbours) -> None:
    async with neighbours.unharmed(disk=128 * 1024**2), mallory.connection() as connection:
        for pool in (*POOLS, "auto"):
            await _flood(connection, subjects.request(pool, Priority.INTERACTIVE, mallory.name), BIG, 20)
        await _flood(connection, subjects.request("openai", Priority.BACKGROUND, mallory.name), b"{", 3_000)


async def test_an_agents_chat_does_not_wait_for_another_agents_batch(
    fleet: Fleet, mallory: Tenant, neighbours: Neighbours
) -> None:
    batch = {"provider_options": {"openai": {"simulate": {"chunks": 20, "between_s": 0.1}}}}
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(mallory.connection())
        heard = await stack.enter_async_context(Listener.of(connection, mallory))
        chat = await stack.enter_async_context(mallory.client("chat"))
        async with neighbours.unharmed():
            for begin in range(0, 1_200, 100):
                bodies = [request(mallory, f"b{begin + n}", agent="batch", **batch) for n in range(100)]
                await asyncio.gather(*(publish(connection, mallory, b, msg_id=b["id"]) for b in bodies))
            ended_before = len(heard.ends)
            began = None
            async for event in chat.stream(MODEL, "Hello", deadline_s=PATIENCE_S):
                if began is None and isinstance(event, Started):
                    began = len(heard.ends) - ended_before
            await until(lambda: len(heard.ends) >= 1_201)

    assert began is not None
    assert began <= 300, f"{began} requests of the batch ended before the chat began"
    assert all(isinstance(end, Completed) for end in heard.ends)
    await neighbours.bill_is_right(mallory)
