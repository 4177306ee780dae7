"""What the vendors, NATS and PostgreSQL say when everything is over."""

import asyncio
import base64
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from time import monotonic
from typing import Any

import asyncpg
import nats
import nats.errors
from nats.aio.client import Client as Nats

from contracts import streams
from contracts.subjects import Provider
from fleet.deploy import nats_users
from fleet.simulator.ledger import Entry
from tests.acceptance.chaos.scene import Scene

ATTEMPTS = "LLM_ATTEMPTS"
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
class Begun:
    """A message of LLM_ATTEMPTS: what was on disk before a vendor was asked."""

    id: str
    request_id: str
    attempt: int
    provider: str
    worker: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Books:
    records: Sequence[Record]
    rolled_up: tuple[Any, ...]
    """Calls, input tokens, output tokens and cost: the sums of llm_provider_usage."""
    served: Sequence[Entry]
    """By the vendors."""
    dead: int
    """Messages in LLM_DEAD."""
    begun: Sequence[Begun] = field(default_factory=list[Begun])
    """What NATS keeps of the attempts' beginnings."""
    results: Mapping[str, Sequence[bytes]] = field(default_factory=dict[str, list[bytes]])
    """By request: the ends in LLM_RESULTS."""
    served_again: Sequence[Entry] = ()
    """Those of `served` that came after the ids of what had ended were sent once more."""
    left: Sequence[str] = field(default_factory=list[str])
    """What is still in a queue, given out and not acked, or begun and not booked, though it was waited for."""


async def settle(scene: Scene, *, within_s: float) -> int:
    """Waits until every queue is empty and everything is booked, or `within_s` is over. Returns how many calls vendors
    have served by then."""
    client = await scene.connect(nats_users.operator())
    connection = await asyncpg.connect(scene.fleet.ready["database_url"])
    try:
        await _settled(client, connection, within_s=within_s)
    finally:
        await connection.close()
        await client.close()
    return len(scene.simulator.ledger.entries)


async def close(scene: Scene, *, within_s: float, again_from: int | None = None) -> Books:
    """Waits until every queue is empty and everything is booked, then reads all of it.

    `again_from`: how many calls vendors had served when ids were sent once more; None: none was.
    """
    client = await scene.connect(nats_users.operator())
    connection = await asyncpg.connect(scene.fleet.ready["database_url"])
    try:
        left = await _settled(client, connection, within_s=within_s)
        begun, _ = await _journal(client)
        results = await _results(client)
        dead = (await _ask(client, f"$JS.API.STREAM.INFO.{streams.DEAD}"))["state"]["messages"]
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
        await client.close()
    served = list(scene.simulator.ledger.entries)
    return Books(
        records=[Record(**row) for row in rows],
        rolled_up=tuple(sums or ()),
        served=served,
        dead=dead,
        begun=begun,
        results=results,
        served_again=[] if again_from is None else served[again_from:],
        left=left,
    )


async def tell_again(scene: Scene) -> int:
    """Stores each usage record that waits to be booked once more, as a worker does whose first try was not confirmed
    longer ago than JetStream knows message ids. Returns how many there were."""
    reader = await scene.connect(nats_users.operator())
    try:
        waiting = [
            (message["subject"], base64.b64decode(message["data"])) async for message in _stored(reader, streams.USAGE)
        ]
    finally:
        await reader.close()
    for provider in Provider:
        prefix = f"llm.v1.usage.{provider}."
        if records := [(subject, data) for subject, data in waiting if subject.startswith(prefix)]:
            worker = await scene.connect(nats_users.worker(provider))
            try:
                for subject, data in records:
                    await worker.jetstream().publish(subject, data)
            finally:
                await worker.close()
    assert waiting, "everything was booked, though PostgreSQL was away"
    return len(waiting)


async def out_of_service(scene: Scene) -> set[str]:
    """The vendors of which an endpoint has a circuit that is not closed."""
    client = await scene.connect(nats_users.operator())
    try:
        return {key.split(".")[2] for key in await _keys(client, streams.HEALTH, "circuit")}
    finally:
        await client.close()


async def _settled(client: Nats, connection: Any, *, within_s: float) -> list[str]:
    """What is left when nothing is under way any more, or at the latest after `within_s`."""
    give_up = monotonic() + within_s
    while (left := await _waiting(client) or await _unbooked(client, connection)) and monotonic() < give_up:
        await asyncio.sleep(_POLL_S)
    return left


async def _unbooked(client: Nats, connection: Any) -> list[str]:
    """Attempts that began, of which there is no row: those that nobody ended are booked after LLM_ATTEMPT_GRACE_S. One
    of which nothing was sent is booked by nobody."""
    begun, unmade = await _journal(client)
    booked = {row["id"] for row in await connection.fetch("SELECT id FROM llm_usage_events")}
    return [
        f"attempt {one.attempt} of {one.request_id} began at {one.provider} and is not booked; {one.worker} made it"
        for one in begun
        if one.id not in booked | unmade
    ]


async def _journal(client: Nats) -> tuple[list[Begun], set[str]]:
    """The attempts that began, and the ids of those of which nothing was sent."""
    begun: list[Begun] = []
    unmade: set[str] = set()
    async for message in _stored(client, ATTEMPTS):
        told = json.loads(base64.b64decode(message.get("data", "")) or b"{}")
        if told.get("type") == "begun":
            values = {field.name: told[field.name] for field in fields(Begun) if field.name != "started_at"}
            begun.append(Begun(**values, started_at=datetime.fromisoformat(told["started_at"])))
        elif told.get("type") == "unmade":
            unmade.add(told["id"])
    return begun, unmade


async def _results(client: Nats) -> dict[str, list[bytes]]:
    ends: dict[str, list[bytes]] = defaultdict(list)
    async for message in _stored(client, streams.RESULTS):
        ends[message["subject"].rpartition(".")[2]].append(base64.b64decode(message.get("data", "")))
    return dict(ends)


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
    return [
        key
        async for message in _stored(client, bucket)
        if message.get("data") and (key := message["subject"].split(".", 2)[2]).startswith(kinds or "")
    ]


async def _stored(client: Nats, stream: str) -> AsyncGenerator[dict[str, Any]]:
    """Every message of a stream, the oldest first; none if there is no such stream."""
    seq = 1
    while True:
        ask = json.dumps({"seq": seq, "next_by_subj": ">"}).encode()
        answer = json.loads((await client.request(f"$JS.API.STREAM.MSG.GET.{stream}", ask, timeout=30)).data)
        if (message := answer.get("message")) is None:
            return
        yield message
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
