"""Bytes that no agent should send, on every subject that an agent may publish to, at a worker in its own process.

FUZZ_MESSAGES sets how many; FUZZ_SEED another beginning.
"""

import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import nats
import psutil
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from contracts import subjects
from contracts.control import DEAD_CODE, MSG_ID
from contracts.events import Completed, Failed, Terminal, parse
from contracts.subjects import AUTO, Priority, RpcMethod
from contracts.wire import utc_now
from tests.kit import plane, worker_process
from tests.patience import until
from tests.servers import Vault

MESSAGES = int(os.environ.get("FUZZ_MESSAGES", "3000"))
SEED = int(os.environ.get("FUZZ_SEED", "20261123"))
AT_ONCE = 200
ANSWERED_WITHIN_S = 60
MAY_GROW_BYTES = 64 * 1024**2
"""A worker remembers up to 10,000 cancelled ids of a tenant."""

DEEP = b"[" * 2000 + b"]" * 2000
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, float("inf"), float("nan"), 2**70, -(2**63) - 1),
    *("", "\x00", "\ud800", "\u202e", "x" * 5000, "../..", "llm.v1.>", "*", "9999-12-31T23:59:59-14:00"),
    *([], {}, [[]], [None], {"": None}, {"mock": {"mock": {}}}, json.loads("[" * 150 + "]" * 150)),
)


@dataclass
class Vandal:
    """Says what it likes, and keeps what comes back."""

    nats: Nats
    tenant: str
    chance: random.Random
    published: int = 0
    """Requests, whatever they look like."""
    asked: set[str] = field(default_factory=set[str])
    answered: set[str] = field(default_factory=set[str])
    endings: dict[str, Terminal] = field(default_factory=dict[str, Terminal])
    dead: set[str] = field(default_factory=set[str])
    """By message id: a worker that hears no PubAck says it again, and JetStream keeps one."""
    wrong: list[str] = field(default_factory=list[str])

    async def listen(self) -> str:
        """The inbox for answers."""
        inbox = self.nats.new_inbox()

        async def answer(msg: Msg) -> None:
            if msg.headers:
                self.wrong.append(f"nobody was there to answer: {msg.headers}")
            self.answered.add(msg.subject.rsplit(".", 1)[1])

        async def event(msg: Msg) -> None:
            said = parse(msg.data)
            if isinstance(said, Terminal):
                if said.request_id in self.endings:
                    self.wrong.append(f"a second end: {said}")
                self.endings[said.request_id] = said

        async def letter(msg: Msg) -> None:
            headers = msg.headers or {}
            if headers[DEAD_CODE] != "malformed_request":
                self.wrong.append(f"buried for another reason: {headers}")
            self.dead.add(headers[MSG_ID])

        await self.nats.subscribe(f"{inbox}.*", cb=answer)
        await self.nats.subscribe(f"llm.v1.reply.{self.tenant}.>", cb=event)
        await self.nats.subscribe(f"llm.v1.dead.*.{self.tenant}", cb=letter)
        await self.nats.flush()
        return inbox

    @property
    def served(self) -> int:
        """Requests that came to an end: those that were understood, and those that were buried."""
        return len(self.dead) + sum(not _malformed(ending) for ending in self.endings.values())

    @property
    def at_rest(self) -> bool:
        return self.served >= self.published and self.asked <= self.answered

    async def say(self, number: int, inbox: str) -> None:
        kind = self.chance.choice((self._request, self._request, self._control, self._question))
        subject, payload, wants_answer = kind(number)
        if wants_answer:
            self.asked.add(str(number))
        await self.nats.publish(subject, payload, reply=f"{inbox}.{number}" if wants_answer else "")

    async def say_something_sensible(self, number: int) -> None:
        self.published += 1
        body = json.dumps(_request(self.tenant, f"sensible-{number}")).encode()
        await self.nats.publish(subjects.request("mock", Priority.INTERACTIVE, self.tenant), body)

    def _request(self, number: int) -> tuple[str, bytes, bool]:
        self.published += 1
        subject = subjects.request(self.chance.choice(("mock", AUTO)), self.chance.choice(list(Priority)), self.tenant)
        return subject, self._spoilt(_request(self.tenant, f"{number}-{self.chance.randbytes(6).hex()}")), False

    def _control(self, number: int) -> tuple[str, bytes, bool]:
        verb = self.chance.choice(("cancel", "resume", "resume", "dance", "a.b.c"))
        known = self.chance.choice(list(self.endings)[-50:] or ["r1"])
        body = {"request_id": known} | ({"agent": "raw", "after": [0, -1]} if verb == "resume" else {})
        return f"llm.v1.control.{self.tenant}.{verb}", self._spoilt(body), verb == "resume"

    def _question(self, number: int) -> tuple[str, bytes, bool]:
        method = self.chance.choice((*RpcMethod, "sing", "ü", "x" * 200))
        question = {"model": "mock/echo", "messages": _request(self.tenant, "r")["messages"], "max_tokens": 5}
        return f"llm.v1.rpc.mock.{method}.{self.tenant}", self._spoilt(question), True

    def _spoilt(self, body: dict[str, Any]) -> bytes:
        spoil: Callable[[random.Random, dict[str, Any]], bytes] = self.chance.choice((_noise, _torn, _torn, _odd, _odd))
        return spoil(self.chance, body)


def _malformed(ending: Terminal) -> bool:
    return isinstance(ending, Failed) and ending.error.code == "malformed_request"


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


async def test_nothing_that_an_agent_publishes_stops_or_bloats_a_worker(
    nats_url: str, vault: Vault, tenant: str, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(plane(nats_url, vault, tenant))
        process = await stack.enter_async_context(
            worker_process(nats_url, vault, "mock", {"stderr": stack.enter_context(log.open("wb"))})
        )
        await control.put_tenant()
        await control.put_provider("mock")
        connection = await nats.connect(nats_url)
        stack.push_async_callback(connection.close)
        vandal = Vandal(connection, tenant, random.Random(SEED))
        inbox = await vandal.listen()
        used: list[int] = []

        for number in range(MESSAGES):
            await vandal.say(number, inbox)
            if number % AT_ONCE == 0:
                await vandal.say_something_sensible(number)
                await until(lambda: vandal.at_rest, within_s=ANSWERED_WITHIN_S)
                used.append(psutil.Process(process.pid).memory_info().rss)
        await until(lambda: vandal.at_rest, within_s=ANSWERED_WITHIN_S)
        assert process.returncode is None

    sensible = [ending for request_id, ending in vandal.endings.items() if request_id.startswith("sensible-")]
    assert len(sensible) == len(used)
    assert all(isinstance(ending, Completed) for ending in sensible)
    assert vandal.served == vandal.published
    assert vandal.wrong == []
    assert b"Traceback" not in log.read_bytes()
    before, after = used[len(used) // 10], used[-1]
    grew = f"{MESSAGES} messages: {before / 1e6:.1f} MB after a tenth, {after / 1e6:.1f} MB at the end"
    logging.getLogger(__name__).info(grew)
    assert after - before < MAY_GROW_BYTES, grew
