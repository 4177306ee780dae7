"""Bytes that no agent should send, on every subject that an agent may publish to, with every header that means
something to somebody, at a worker in a process of its own, while another tenant is served.

FUZZ_MESSAGES sets how many (`FUZZ_MESSAGES=100000` takes about five minutes); FUZZ_SEED another beginning.
"""

import asyncio
import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import nats as nats_py
import psutil
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from contracts import streams, subjects
from contracts.control import DEAD_CODE, HANDOVER, MSG_ID, MSG_TTL
from contracts.events import Completed, Terminal, parse
from contracts.subjects import AUTO, Priority, Provider, RpcMethod
from contracts.wire import utc_now
from fleet.client import Client
from fleet.deploy import nats_users
from fleet.local.servers import NatsServer
from tests.kit import Plane, plane, worker_process
from tests.patience import PATIENCE_S
from tests.servers import Vault

MESSAGES = int(os.environ.get("FUZZ_MESSAGES", "3000"))
SEED = int(os.environ.get("FUZZ_SEED", "20261123"))
AT_ONCE = 200
MAY_GROW_BYTES = 96 * 1024**2
"""A worker remembers up to 10,000 cancelled ids of a tenant, and reads messages of 8 MB."""
SERVER_MAY_TAKE_BYTES = 1024**3
POOLS = ("mock", AUTO)
"""Those that the worker takes requests of; of the others they stay in the queue."""
ANSWERED_BYTES = 2_000
"""Whoever asks something of that size gets an answer; larger ones may be dropped."""

DEEP = b"[" * 2000 + b"]" * 2000
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, float("inf"), float("nan"), 2**70, -(2**63) - 1),
    *("", "\x00", "\ud800", "\u202e", "x" * 5000, "../..", "llm.v1.>", "*", "9999-12-31T23:59:59-14:00"),
    *([], {}, [[]], [None], {"": None}, {"mock": {"mock": {}}}, json.loads("[" * 150 + "]" * 150)),
)
HEADERS: tuple[dict[str, str], ...] = (
    *({MSG_ID: value} for value in ("", "same", "replay:", "replay:1", "dead:1", "r1:1:mock", "m" * 10_000)),
    *({MSG_TTL: value} for value in ("never", "-1", "600s", "1h", "0", "9" * 40)),
    *({"Nats-Expected-Last-Sequence": value} for value in ("0", "-1", "x")),
    *({"Nats-Expected-Last-Subject-Sequence": value} for value in ("0", "7", "x")),
    {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-Expected-Last-Subject-Sequence-Subject": "llm.v1.request.>"},
    *({"Nats-Expected-Stream": value} for value in ("LLM_USAGE", "LLM_REQUESTS")),
    {"Nats-Expected-Last-Msg-Id": "same"},
    *({"Nats-Rollup": value} for value in ("all", "sub")),
    {"Nats-Incr": "+1"},
    {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": "llm.v1.usage.mock.acme"},
    {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
    {"Nats-Required-Api-Level": "999"},
    {"Nats-Stream": "LLM_USAGE", "Nats-Sequence": "x", "Nats-Subject": ">"},
    *({"Status": value} for value in ("100", "404", "409", "503")),
    *({"KV-Operation": value} for value in ("PURGE", "DEL")),
    {DEAD_CODE: "internal", "Fleet-Dead-Subject": "llm.v1.request.mock.interactive.acme"},
    *({"traceparent": value} for value in ("00-" + "f" * 32 + "-" + "f" * 16 + "-01", "x" * 10_000)),
    *(
        {HANDOVER: json.dumps({"model": "mock/echo", "queued_at": "2026-11-23T12:00:00Z", **more})}
        for more in (
            {},
            {"attempt": 900_000, "hops": 64, "vendor_calls": 8},
            {"proof": "v1:nothing"},
            {"queued_at": "9999-12-31T23:59:59Z", "cost": {"amount": "-5", "currency": "USD"}},
            {"model": "../../x/y", "remaining": ["mock/a"] * 1000},
        )
    ),
    *({HANDOVER: value} for value in ("", "{}", "[" * 10_000)),
    {"X": "x" * 60_000},
    {"X": "x" * 1_000_000},
    {f"X-{number}": "x" * 100 for number in range(500)},
)


@dataclass
class Vandal:
    """Says what it likes, and keeps what comes back."""

    nats: Nats
    tenant: str
    chance: random.Random
    asked: set[str] = field(default_factory=set[str])
    """Questions that must be answered."""
    answered: set[str] = field(default_factory=set[str])
    endings: dict[str, Terminal] = field(default_factory=dict[str, Terminal])
    wrong: list[str] = field(default_factory=list[str])
    inbox: str = ""

    async def listen(self) -> None:
        self.inbox = self.nats.new_inbox()

        async def answer(msg: Msg) -> None:
            self.answered.add(msg.subject.rsplit(".", 1)[1])

        async def event(msg: Msg) -> None:
            said = parse(msg.data)
            if isinstance(said, Terminal):
                before = self.endings.setdefault(said.request_id, said)
                if before.attempt != said.attempt or before.type != said.type:
                    self.wrong.append(f"a second end: {said}")

        async def letter(msg: Msg) -> None:
            headers = msg.headers or {}
            if headers[DEAD_CODE] != "malformed_request":
                self.wrong.append(f"buried for another reason: {headers}")

        await self.nats.subscribe(f"{self.inbox}.*", cb=answer)
        await self.nats.subscribe(f"llm.v1.reply.{self.tenant}.>", cb=event)
        await self.nats.subscribe(f"llm.v1.dead.*.{self.tenant}", cb=letter)
        await self.nats.flush()

    async def say(self, number: int) -> None:
        pattern = self.chance.choice(nats_users.agent(self.tenant).publish)
        subject, body, wants_answer = {"request": self._request, "control": self._control, "rpc": self._question}[
            pattern.split(".")[2]
        ](number)
        headers = self.chance.choice(HEADERS) if self.chance.random() < 0.5 else None
        payload = self._spoilt(body)
        if self.chance.random() < 0.002:
            payload += b" " * self.chance.randrange(100_000, 6_000_000)
        if wants_answer and headers is None and len(payload) < ANSWERED_BYTES:
            self.asked.add(str(number))
        await self.nats.publish(
            subject, payload, reply=f"{self.inbox}.{number}" if wants_answer else "", headers=headers
        )

    async def say_something_sensible(self, number: int) -> None:
        body = json.dumps(_request(self.tenant, f"sensible-{number}")).encode()
        await self.nats.publish(subjects.request("mock", Priority.INTERACTIVE, self.tenant), body)

    def _request(self, number: int) -> tuple[str, dict[str, Any], bool]:
        provider = self.chance.choice((*POOLS, *POOLS, *Provider))
        subject = subjects.request(provider, self.chance.choice(list(Priority)), self.tenant)
        return subject, _request(self.tenant, f"{number}-{self.chance.randbytes(6).hex()}"), False

    def _control(self, number: int) -> tuple[str, dict[str, Any], bool]:
        verb = self.chance.choice(("cancel", "resume", "resume", "dance", "a.b.c"))
        ended = [request_id for request_id in self.endings if not request_id.startswith("sensible-")]
        body = {"request_id": self.chance.choice(ended[-50:] or ["r1"])}
        if verb == "resume":
            body |= {"agent": "raw", "after": [0, -1]}
        return f"llm.v1.control.{self.tenant}.{verb}", body, verb == "resume"

    def _question(self, number: int) -> tuple[str, dict[str, Any], bool]:
        provider = self.chance.choice(("mock", "mock", "mock", "openai", "x" * 200))
        method = self.chance.choice((*RpcMethod, "sing", "ü", "x" * 200))
        question = {"model": "mock/echo", "messages": _request(self.tenant, "r")["messages"], "max_tokens": 5}
        return f"llm.v1.rpc.{provider}.{method}.{self.tenant}", question, provider == "mock"

    def _spoilt(self, body: dict[str, Any]) -> bytes:
        spoil: Callable[[random.Random, dict[str, Any]], bytes] = self.chance.choice((_noise, _torn, _torn, _odd, _odd))
        return spoil(self.chance, body)


def _request(tenant: str, request_id: str) -> dict[str, Any]:
    """With every field that a request can have."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    return {
        "id": request_id,
        "tenant": tenant,
        "agent": "raw",
        "model": "mock/echo",
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "provider_data": {"mock": {}}},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ],
        "stream": True,
        "max_tokens": 5,
        "temperature": 0.2,
        "top_p": 1.0,
        "stop": ["."],
        "seed": 7,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n"}},
        "reasoning_effort": "low",
        "fallbacks": ["mock/other"],
        "deadline": (utc_now() + timedelta(seconds=30)).isoformat(),
        "on_interrupt": "restart",
        "provider_options": {"mock": {"text": "one two three", "usage": {"input_tokens": 3}}},
        "metadata": {"run": "42"},
    }


def _noise(chance: random.Random, _: dict[str, Any]) -> bytes:
    return chance.choice((b"", DEEP, b'{"a":' * 500, chance.randbytes(chance.randrange(1, 4000))))


def _torn(chance: random.Random, body: dict[str, Any]) -> bytes:
    """Bytes that are changed, gone, strange or there twice."""
    data = bytearray(json.dumps(body).encode())
    for _ in range(chance.randrange(1, 4)):
        at, length = chance.randrange(len(data) + 1), chance.randrange(1, 20)
        some = data[at : at + length]
        data[at : at + length] = chance.choice((b"", chance.randbytes(length), some + some, bytes(reversed(some))))
    return bytes(data)


def _odd(chance: random.Random, body: dict[str, Any]) -> bytes:
    """One place holds what does not belong there."""
    holder, at = chance.choice(list(_places(body)))
    holder[at] = chance.choice(ODD)
    return json.dumps(body).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for at, inner in items:
        yield value, at
        yield from _places(inner)


async def _at_rest(control: Plane, vandal: Vandal) -> None:
    """Returns when the pools' queues are empty and every question is answered."""
    give_up = monotonic() + PATIENCE_S
    consumers = [streams.pool_consumer(pool, priority) for pool in POOLS for priority in Priority]
    while True:
        jetstream = control.client.jetstream(timeout=PATIENCE_S)
        found = [await jetstream.consumer_info(streams.REQUESTS, name) for name in consumers]
        waiting = {info.name: (info.num_pending, info.num_ack_pending) for info in found}
        if not any(pending or unacked for pending, unacked in waiting.values()) and vandal.asked <= vandal.answered:
            return
        assert monotonic() < give_up, f"{waiting}, {len(vandal.asked - vandal.answered)} questions without an answer"
        await asyncio.sleep(0.05)


async def _within_bounds(control: Plane) -> None:
    for config in streams.definitions(streams.Sizes()):
        state = (await control.client.jetstream().stream_info(config["name"])).state
        for limit, used in (("max_bytes", state.bytes), ("max_msgs", state.messages)):
            assert used <= config.get(limit, used), f"{config['name']}: {limit}"


async def test_nothing_that_an_agent_publishes_stops_or_bloats_a_worker(
    nats: NatsServer, vault: Vault, tenant: str, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(plane(nats.url, vault, tenant))
        quiet = await stack.enter_async_context(plane(nats.url, vault, f"quiet-{tenant}"))
        process = await stack.enter_async_context(
            worker_process(nats.url, vault, "mock", {"stderr": stack.enter_context(log.open("wb"))})
        )
        for each in (control, quiet):
            await each.put_tenant()
            await each.put_provider("mock")
        agent = await stack.enter_async_context(Client(nats.url, tenant=quiet.tenant))
        connection = await nats_py.connect(nats.url)
        stack.push_async_callback(connection.close)
        vandal = Vandal(connection, tenant, random.Random(SEED))
        await vandal.listen()
        used: list[int] = []
        waited: list[float] = []

        for number in range(MESSAGES):
            await vandal.say(number)
            if number % AT_ONCE == 0:
                await vandal.say_something_sensible(number)
                started = monotonic()
                assert (await agent.complete("mock/echo", "Hi")).finish_reason == "stop"
                waited.append(monotonic() - started)
                await _at_rest(control, vandal)
                used.append(psutil.Process(process.pid).memory_info().rss)
        await _at_rest(control, vandal)
        await _within_bounds(control)
        assert process.returncode is None
        assert nats.process is not None
        server = psutil.Process(nats.process.pid).memory_info().rss

    sensible = [ending for request_id, ending in vandal.endings.items() if request_id.startswith("sensible-")]
    assert len(sensible) == len(used)
    assert all(isinstance(ending, Completed) for ending in sensible)
    assert vandal.wrong == []
    assert b"Traceback" not in log.read_bytes()
    before, after = used[len(used) // 10], used[-1]
    grew = f"{MESSAGES} messages: {before / 1e6:.1f} MB after a tenth, {after / 1e6:.1f} MB at the end"
    facts = f"{grew}; the server {server / 1e6:.1f} MB; another tenant waited {max(waited):.2f} s at most"
    logging.getLogger(__name__).info(facts)
    assert after - before < MAY_GROW_BYTES, grew
    assert server < SERVER_MAY_TAKE_BYTES, facts
