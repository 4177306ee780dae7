"""The header of a handover is the fleet's: one that it did not make is refused before anything believes it."""

import asyncio
import json
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psutil
import pytest

from contracts.control import HANDOVER
from contracts.events import Failed
from contracts.wire import utc_now
from tests.patience import PATIENCE_S, until
from tests.security.fleet import MODELS, Fleet, Tenant
from tests.security.neighbours import MODEL, Neighbours
from tests.security.raw import Listener, publish, request

_ERROR = {"code": "overloaded", "message": "made up", "retryable": True}
_USAGE = {"input_tokens": 10**6, "output_tokens": 10**6, "source": "vendor"}


def forged(**changes: Any) -> str:
    told = {"model": MODEL, "attempt": 1, "hops": 1, "queued_at": utc_now().isoformat(), **changes}
    return json.dumps(told)


FORGED: dict[str, Callable[[], str]] = {
    "no proof": forged,
    "another attempt": lambda: forged(attempt=500),
    "an hour ago": lambda: forged(queued_at=(utc_now() - timedelta(hours=1)).isoformat()),
    "a history": lambda: forged(history=[{"provider": "openai", "model": "m", "error": _ERROR}], vendor_calls=7),
    "costs": lambda: forged(usage=_USAGE, cost={"amount": "1000000", "currency": "USD"}),
    "an empty proof": lambda: forged(proof=""),
    "a proof of nothing": lambda: forged(proof="v1:AAAA"),
    "a long proof": lambda: forged(proof="A" * 40_000),
    "no JSON": lambda: "{",
    "no object": lambda: "[]",
    "nothing": lambda: "",
    "much": lambda: "[" * 40_000,
}


async def test_a_forged_handover_is_refused_and_costs_nothing(
    fleet: Fleet, mallory: Tenant, neighbours: Neighbours
) -> None:
    before = len(fleet.calls(mallory))
    async with neighbours.unharmed(), mallory.connection() as connection, Listener.of(connection, mallory) as heard:
        for n, forge in enumerate(FORGED.values()):
            await publish(connection, mallory, request(mallory, f"f{n}"), msg_id=f"f{n}", headers={HANDOVER: forge()})
        await until(lambda: len(heard.ends) == len(FORGED))

    codes = heard.codes()
    believed = [name for n, name in enumerate(FORGED) if codes.get(f"f{n}") != "malformed_request"]
    assert (believed, len(fleet.calls(mallory)) - before) == ([], 0)
    assert {event.attempt for event in heard.events} == {1}


@pytest.fixture
def stopped_pool(fleet: Fleet) -> psutil.Process:
    """The pool that others hand over to, stopped so that what is handed over stays in the queue."""
    return psutil.Process(fleet.process("worker-anthropic").pid)


async def _true_handover(fleet: Fleet, tenant: Tenant, request_id: str) -> tuple[str, bytes]:
    """Header and body of a request that the fleet hands over to a stopped pool: nobody but the operator sees them."""
    subject = f"llm.v1.request.anthropic.interactive.{tenant.name}"
    async with asyncio.timeout(PATIENCE_S), tenant.connection() as connection, fleet.operator() as operator:
        body = request(tenant, request_id, model=MODELS["anthropic"])
        await publish(connection, tenant, body, provider="auto", msg_id=f"auto-{request_id}")
        while True:
            ask = f"$JS.API.DIRECT.GET.LLM_REQUESTS.{subject}"
            found = await operator.request(ask, b"", timeout=PATIENCE_S)
            headers = found.headers or {}
            if HANDOVER in headers:
                return headers[HANDOVER], found.data
            await asyncio.sleep(0.05)


OTHER_WORDS = {
    "attempt": 77,
    "hops": 1,
    "vendor_calls": 3,
    "queued_at": "2020-01-01T00:00:00Z",
    "remaining": [MODEL],
    "cost": {"amount": "9", "currency": "USD"},
}


async def test_a_true_handover_serves_for_no_other_request(
    fleet: Fleet, mallory: Tenant, other: Tenant, stopped_pool: psutil.Process, neighbours: Neighbours
) -> None:
    stopped_pool.send_signal(signal.SIGSTOP)
    try:
        own, body = await _true_handover(fleet, mallory, "true")
        foreign, _ = await _true_handover(fleet, other, "true")
    finally:
        stopped_pool.send_signal(signal.SIGCONT)
    asked: list[tuple[str, dict[str, str]]] = [
        (own, {"id": "x0"}),
        (own, {"id": "true", "agent": "somebody"}),
        (foreign, {"id": "x2"}),
        (foreign, {"id": "true", "agent": "foreign"}),
    ]
    async with mallory.connection() as connection, Listener.of(connection, mallory) as heard:
        await _called(fleet, mallory, "true")
        before = len(fleet.calls(mallory))
        for n, (header, changes) in enumerate(asked):
            changed = {**json.loads(body), **changes}
            await publish(
                connection, mallory, changed, provider="anthropic", msg_id=f"x{n}", headers={HANDOVER: header}
            )
        await until(lambda: sum(isinstance(end, Failed) for end in heard.ends) == len(asked))

    assert set(heard.codes().values()) == {"malformed_request"}
    assert len(fleet.calls(mallory)) == before
    await neighbours.bill_is_right(mallory, other)


async def test_a_true_handover_with_other_words_is_not_believed(
    fleet: Fleet, mallory: Tenant, stopped_pool: psutil.Process, neighbours: Neighbours
) -> None:
    stopped_pool.send_signal(signal.SIGSTOP)
    try:
        header, body = await _true_handover(fleet, mallory, "words")
        async with mallory.connection() as connection, Listener.of(connection, mallory) as heard:
            for n, (field, value) in enumerate(OTHER_WORDS.items()):
                changed = {HANDOVER: json.dumps({**json.loads(header), field: value})}
                await publish(connection, mallory, body, provider="anthropic", msg_id=f"w{n}", headers=changed)
            stopped_pool.send_signal(signal.SIGCONT)
            await _called(fleet, mallory, "words")
            await _taken(fleet, f"llm.v1.request.anthropic.interactive.{mallory.name}")
    finally:
        stopped_pool.send_signal(signal.SIGCONT)

    assert [call.request_id for call in fleet.calls(mallory)].count("words") == 1
    assert {event.attempt for event in heard.events} == {1}
    await neighbours.bill_is_right(mallory)


async def _called(fleet: Fleet, tenant: Tenant, request_id: str) -> None:
    await until(lambda: any(call.request_id == request_id for call in fleet.calls(tenant)))


async def _taken(fleet: Fleet, subject: str) -> None:
    """Returns when nothing of a subject is in the queue."""
    async with asyncio.timeout(PATIENCE_S), fleet.operator() as operator:
        ask = json.dumps({"subjects_filter": subject}).encode()
        while True:
            answer = await operator.request("$JS.API.STREAM.INFO.LLM_REQUESTS", ask, timeout=PATIENCE_S)
            if not json.loads(answer.data)["state"].get("subjects"):
                return
            await asyncio.sleep(0.05)


async def test_a_header_that_is_only_written_alike_is_none(
    fleet: Fleet, mallory: Tenant, neighbours: Neighbours
) -> None:
    async with mallory.connection() as connection, Listener.of(connection, mallory) as heard:
        for n, name in enumerate(("fleet-handover", "FLEET-HANDOVER", "Fleet_Handover")):
            header = {name: forged(attempt=500)}
            await publish(connection, mallory, request(mallory, f"c{n}"), msg_id=f"c{n}", headers=header)
        await until(lambda: len(heard.ends) == 3)

    assert {event.attempt for event in heard.events} == {1}
    await neighbours.bill_is_right(mallory)
