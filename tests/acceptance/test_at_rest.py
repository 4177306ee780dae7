"""Prompts and completions at rest: no file of a stack shows them, and they are still there after its key changed."""

import asyncio
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import nats
import pytest

from contracts import streams
from contracts.events import Completed
from fleet.client import Client
from fleet.deploy import nats_users
from fleet.deploy.nats_seeds import new_jetstream_key
from fleet.simulator import Script, Simulator
from tests.acceptance.canary import Bird, files, leaks
from tests.acceptance.running import PATIENCE_S, RunningStack, pools, running_stack, wait_for

pytestmark = pytest.mark.slow

PROMPT, COMPLETION, MALFORMED = Bird.new(), Bird.new(), Bird.new()
MODEL = "canary"


def found(folder: Path) -> list[str]:
    """Where a prompt or a completion stands in a file below `folder`."""
    needles = PROMPT.forms() | COMPLETION.forms() | MALFORMED.forms()
    return [leak for path, content in files([folder]) for leak in leaks(needles, content, str(path))]


async def ask(stack: RunningStack) -> str:
    """The text of a completion whose prompt and text are canaries."""
    ready = stack.ready
    login = {"user": ready["nats_user"], "password": ready["nats_password"]}
    async with Client(ready["nats_url"], tenant=ready["tenant"], agent="canary", **login) as agent:
        completed = await agent.complete(f"openai/{MODEL}", PROMPT.secret(), metadata={"run": "at-rest"})
    assert isinstance(completed, Completed)
    return completed.message.content or ""


async def send_malformed(stack: RunningStack) -> None:
    """A request that is kept in LLM_DEAD as it came."""
    ready = stack.ready
    client = await nats.connect(ready["nats_url"], user=ready["nats_user"], password=ready["nats_password"],
                                inbox_prefix=f"_INBOX_{ready['tenant']}")  # fmt: skip
    try:
        subject = f"llm.v1.request.openai.interactive.{ready['tenant']}"
        what = json.dumps({"id": str(uuid4()), "messages": MALFORMED.secret()}).encode()
        await client.request(subject, what, timeout=30)
    finally:
        await client.close()
    await asyncio.to_thread(wait_for, lambda: stack.admin.get("dead-letters")["items"])


async def calls_booked(stack: RunningStack, *, at_least: int) -> int:
    connection = await asyncpg.connect(stack.ready["database_url"])
    try:
        async with asyncio.timeout(PATIENCE_S):
            while (booked := await connection.fetchval("SELECT count(*) FROM llm_usage_events")) < at_least:
                await asyncio.sleep(0.05)
        return booked
    finally:
        await connection.close()


async def stored(stack: RunningStack, state: Path, stream: str) -> bytes:
    """The last message of a stream, read with the operator's rights."""
    operator = nats_users.operator()
    password = json.loads((state / "secrets.json").read_text())[f"nats_{operator.name}"]
    client = await nats.connect(
        stack.ready["nats_url"], user=operator.name, password=password, inbox_prefix=operator.inbox_prefix
    )
    try:
        asked = json.dumps({"last_by_subj": ">"}).encode()
        return (await client.request(f"$JS.API.DIRECT.GET.{stream}", asked, timeout=30)).data
    finally:
        await client.close()


def secrets_of(state: Path) -> Mapping[str, Any]:
    return json.loads((state / "secrets.json").read_text())


async def test_no_file_shows_what_was_asked_and_answered_and_another_key_keeps_it(tmp_path: Path) -> None:
    state, another = tmp_path / "state", new_jetstream_key()
    async with Simulator() as vendor:
        vendor.script(MODEL, *[Script(text=COMPLETION.secret(), chunks=4)] * 2)
        with running_stack(tmp_path, *pools(openai=1), env={"LLM_LOG_LEVEL": "DEBUG"}) as stack:
            provider = {"tenant": "demo", "provider_type": "openai", "api_key": "sk-x", "is_default": True}
            stack.admin.post("llm-providers", {**provider, "config": {"base_url": vendor.base_url("openai")}})
            assert COMPLETION.head in await ask(stack)
            await send_malformed(stack)
            assert await calls_booked(stack, at_least=1) == 1
            assert found(tmp_path) == []
            assert MALFORMED.head.encode() in await stored(stack, state, streams.DEAD)
            assert stack.stop() == 0
        assert found(tmp_path) == []
        first = secrets_of(state)["jetstream_key"]
        assert len(first) == 64
        assert stat.S_IMODE((state / "secrets.json").stat().st_mode) == 0o600

        with running_stack(tmp_path, *pools(openai=1), env={"NATS_JETSTREAM_KEY": another}) as stack:
            assert MALFORMED.head.encode() in await stored(stack, state, streams.DEAD)
            assert COMPLETION.head in await ask(stack)
            assert await calls_booked(stack, at_least=2) == 2
            assert stack.stop() == 0
        assert {name: key for name, key in secrets_of(state).items() if name.startswith("jetstream_key")} == {
            "jetstream_key": another
        }
    assert found(tmp_path) == []
    with running_stack(tmp_path, *pools()) as stack:
        assert MALFORMED.head.encode() in await stored(stack, state, streams.DEAD)
