"""A budget holds whatever ids and headers say, and what was not sent costs nothing."""

import asyncio
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import Any

from contracts.control import HANDOVER
from contracts.events import Completed
from contracts.requests import RequestFields
from contracts.wire import utc_now
from tests.patience import PATIENCE_S, until
from tests.security.fleet import Fleet, Tenant
from tests.security.neighbours import MODEL, Neighbours
from tests.security.raw import Listener, publish, request
from tests.security.test_handover import forged

CALLS = 150
BUDGET, CALL = Decimal(1), Decimal("0.018")
PRICES = {MODEL: {"input_mtok": "0", "output_mtok": "1000"}}
SIMULATED: dict[str, Any] = {"text": "Hello", "usage": {"input_tokens": 1, "output_tokens": 18}}
ANSWER: RequestFields = {"max_tokens": 18, "provider_options": {"openai": {"simulate": SIMULATED}}}


async def _set(fleet: Fleet, tenant: Tenant, **settings: Any) -> None:
    """Returns when workers have heard of it, which an answer's cost shows."""
    await asyncio.to_thread(fleet.admin.put, f"tenants/{tenant.name}", settings)
    async with asyncio.timeout(PATIENCE_S), tenant.client() as client:
        cost = None
        while cost is None or cost.amount != CALL:
            cost = (await client.complete(MODEL, "Hello", **ANSWER)).cost


async def test_one_id_for_all_requests_does_not_overrun_the_budget(
    fleet: Fleet, mallory: Tenant, neighbours: Neighbours
) -> None:
    await _set(fleet, mallory, prices=PRICES, daily_budget_usd=str(BUDGET))
    before = len(fleet.calls(mallory))
    async with neighbours.unharmed(), mallory.connection() as connection, Listener.of(connection, mallory) as heard:
        for n in range(CALLS):
            body = request(mallory, "same", agent=f"agent-{n}", **ANSWER)
            await publish(connection, mallory, body, msg_id=f"m-{n}")
        await until(lambda: len(heard.ends) == CALLS)

    assert (len(fleet.calls(mallory)) - before) * CALL <= BUDGET
    await neighbours.bill_is_right(mallory)
    assert sum(row["cost"] for row in await fleet.rows(mallory)) <= BUDGET + CALL


async def test_forged_handovers_do_not_overrun_the_budget(
    fleet: Fleet, mallory: Tenant, neighbours: Neighbours
) -> None:
    await _set(fleet, mallory, prices=PRICES, daily_budget_usd=str(BUDGET))
    before = len(fleet.calls(mallory))
    async with mallory.connection() as connection, Listener.of(connection, mallory) as heard:
        for n in range(CALLS):
            header = {HANDOVER: forged(attempt=n + 1)}
            body = request(mallory, "same", agent=f"agent-{n}", **ANSWER)
            await publish(connection, mallory, body, msg_id=f"m-{n}", headers=header)
        await until(lambda: len(heard.ends) == CALLS)

    assert (len(fleet.calls(mallory)) - before) * CALL <= BUDGET
    await neighbours.bill_is_right(mallory)


async def test_what_waits_for_budget_until_its_deadline_was_never_called_and_is_not_booked(
    fleet: Fleet, mallory: Tenant, neighbours: Neighbours
) -> None:
    """Two calls keep the whole budget free while they hang; thirty requests wait for it in vain."""
    await _set(fleet, mallory, prices=PRICES, daily_budget_usd="0.055")
    before = len(fleet.calls(mallory))
    slow: RequestFields = {"max_tokens": 18, "provider_options": {"openai": {"simulate": {"first_token_s": 20}}}}
    deadline = (utc_now() + timedelta(seconds=6)).isoformat()
    said = [{"role": "user", "content": "x" * 20_000}]
    async with mallory.connection() as connection, Listener.of(connection, mallory) as heard:
        for n in range(30):
            body = request(mallory, f"w{n}", messages=said, deadline=deadline, **slow)
            await publish(connection, mallory, body, msg_id=f"w{n}")
        await until(lambda: len(heard.ends) == 30)

    calls = len(fleet.calls(mallory)) - before
    assert calls <= 2
    assert not any(isinstance(end, Completed) for end in heard.ends)
    await neighbours.bill_is_right(mallory)
    assert Counter(row["outcome"] for row in await fleet.rows(mallory))["failed"] <= calls
