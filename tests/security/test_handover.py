"""The header of a handover is the fleet's: one that it did not make is refused before anything believes it."""

import json
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psutil
import pytest

from contracts.control import HANDOVER
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
    "a long proof": lambda: forged(proof="A" * 100_000),
    "no JSON": lambda: "{",
    "no object": lambda: "[]",
    "nothing": lambda: "",
    "much": lambda: "[" * 100_000,
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
    async with tenant.connection() as connection, fleet.operator() as operator:
        body = request(tenant, request_id, model=MODELS["anthropic"])
        await publish(connection, tenant, body, provider="auto", msg_id=f"auto-{request_id}")
        while True:
            ask = f"$JS.API.DIRECT.GET.LLM_REQUESTS.{subject}"
            found = await operator.request(ask, b"", timeout=PATIENCE_S)
            headers = found.headers or {}
            if HANDOVER in headers:
                return headers[HANDOVER], found.data


async def test_a_true_handover_serves_for_no_other_request_and_for_no_other_words(
    fleet: Fleet, mallory: Tenant, other: Tenant, stopped_pool: psutil.Process, neighbours: Neighbours
) -> None:
    stopped_pool.send_signal(signal.SIGSTOP)
    try:
        own, body = await _true_handover(fleet, mallory, "true")
        foreign, _ = await _true_handover(fleet, other, "true")
    finally:
        stopped_pool.send_signal(signal.SIGCONT)
    altered = {
        "another id": (own, {"id": "x0"}),
        "another agent": (own, {"id": "true", "agent": "somebody"}),
        "another tenant's": (foreign, {"id": "x2"}),
        "another tenant's with its id": (foreign, {"id": "true", "agent": "foreign"}),
        **{
            f"another {field}": (json.dumps({**json.loads(own), field: value}), {"id": "true", "agent": f"a{n}"})
            for n, (field, value) in enumerate(
                {
                    "attempt": 77,
                    "hops": 1,
                    "vendor_calls": 3,
                    "queued_at": "2020-01-01T00:00:00Z",
                    "remaining": [],
                }.items()
            )
        },
    }
    before = len(fleet.calls(mallory))
    async with mallory.connection() as connection, Listener.of(connection, mallory) as heard:
        await until(lambda: any(call.request_id == "true" for call in fleet.calls(mallory)))
        for name, (header, changes) in altered.items():
            changed = {**json.loads(body), **changes}
            await publish(
                connection, mallory, changed, provider="anthropic", msg_id=f"x-{name}", headers={HANDOVER: header}
            )
        await until(lambda: sum(end.type == "failed" for end in heard.ends) >= len(altered))

    assert set(heard.codes().values()) == {"malformed_request"}
    assert len(fleet.calls(mallory)) - before <= 1
    await neighbours.bill_is_right(mallory, other)


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
