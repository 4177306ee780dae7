"""What the vendors, NATS and PostgreSQL say when everything is over."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import nats
import nats.errors
from nats.aio.client import Client as Nats

from contracts import streams
from fleet.deploy import nats_users
from fleet.simulator.ledger import Entry

_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Record:
    """A row of llm_usage_events."""

    request_id: str
    attempt: int
    provider: str
    started_at: datetime
    outcome: str
    error_code: str | None
    usage_source: str
    input_tokens: int
    output_tokens: int
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Books:
    records: Sequence[Record]
    rolled_up: tuple[Any, ...]
    """Calls, input tokens, output tokens and cost: the sums of llm_provider_usage."""
    served: Sequence[Entry]
    """By the vendors."""
    dead: int
    """Messages in LLM_DEAD."""
    left: Sequence[str] = field(default_factory=list[str])
    """What is still in a queue, or given out and not acked, though it was waited for."""


async def close(ready: dict[str, Any], state: Path, served: Sequence[Entry], *, within_s: float) -> Books:
    """Waits until every queue is empty and everything is booked, then reads all of it."""
    client = await _operator(ready, state)
    try:
        left = await _drained(client, within_s=within_s)
        dead = (await _ask(client, f"$JS.API.STREAM.INFO.{streams.DEAD}"))["state"]["messages"]
    finally:
        await client.close()
    connection = await asyncpg.connect(ready["database_url"])
    try:
        rows = await connection.fetch(
            f"SELECT {', '.join(field.name for field in fields(Record))} FROM llm_usage_events"
            " ORDER BY request_id, attempt"
        )
        sums = await connection.fetchrow(
            "SELECT sum(request_count)::int, sum(prompt_tokens)::int, sum(completion_tokens)::int, sum(total_cost)"
            " FROM llm_provider_usage"
        )
    finally:
        await connection.close()
    return Books(
        records=[Record(**row) for row in rows],
        rolled_up=tuple(sums or ()),
        served=served,
        dead=dead,
        left=left,
    )


async def out_of_service(ready: dict[str, Any], state: Path) -> set[str]:
    """The vendors of which an endpoint has a circuit that is not closed."""
    client = await _operator(ready, state)
    try:
        return {key.split(".")[2] for key in await _keys(client, streams.HEALTH, "circuit")}
    finally:
        await client.close()


async def _drained(client: Nats, *, within_s: float) -> list[str]:
    give_up = monotonic() + within_s
    while (left := await _waiting(client)) and monotonic() < give_up:
        await asyncio.sleep(_POLL_S)
    return left


async def _waiting(client: Nats) -> list[str]:
    """Of each consumer: what it has not given out, and what was given out and not acked."""
    found: list[str] = []
    for stream, consumer in streams.consumers():
        name = consumer["durable_name"]
        info = await _ask(client, f"$JS.API.CONSUMER.INFO.{stream}.{name}")
        if info["num_pending"] or info["num_ack_pending"]:
            found.append(f"{stream}/{name}: {info['num_pending']} waiting, {info['num_ack_pending']} not acked")
    queued = (await _ask(client, f"$JS.API.STREAM.INFO.{streams.REQUESTS}"))["state"]["messages"]
    if queued:
        found.append(f"{streams.REQUESTS}: {queued} messages")
    held = [*await _keys(client, streams.HOLDS), *await _keys(client, streams.HEALTH, "slot", "circuit")]
    return found + [f"still there: {key}" for key in held]


async def _keys(client: Nats, bucket: str, *kinds: str) -> list[str]:
    """Of entries that are no marks of removed ones: reservations of budgets, slots of calls, circuits."""
    found: list[str] = []
    seq = 1
    while True:
        ask = json.dumps({"seq": seq, "next_by_subj": ">"}).encode()
        answer = json.loads((await client.request(f"$JS.API.STREAM.MSG.GET.{bucket}", ask, timeout=30)).data)
        if (message := answer.get("message")) is None:
            return found
        key = message["subject"].split(".", 2)[2]
        if message.get("data") and (not kinds or key.startswith(kinds)):
            found.append(key)
        seq = message["seq"] + 1


async def _ask(client: Nats, subject: str) -> dict[str, Any]:
    """Until it is answered: a server that came back a moment ago is not there for JetStream at once."""
    give_up = monotonic() + 90
    while True:
        try:
            answer = await client.request(subject, timeout=5)
            found = json.loads(answer.data)
            if "error" not in found:
                return found
        except nats.errors.Error:
            pass
        assert monotonic() < give_up, f"{subject} is not answered"
        await asyncio.sleep(_POLL_S)


async def _operator(ready: dict[str, Any], state: Path) -> Nats:
    user = nats_users.operator()
    secrets = json.loads((state / "secrets.json").read_text())
    return await nats.connect(
        ready["nats_url"], user=user.name, password=secrets[f"nats_{user.name}"], inbox_prefix=user.inbox_prefix
    )
