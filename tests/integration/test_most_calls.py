"""A request that is taken over makes no more vendor calls than its bound, whoever made the ones before."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest
from nats.aio.msg import Msg

from contracts import streams, subjects
from contracts.errors import Overloaded, StreamInterrupted
from contracts.events import Event, Failed, NextCandidate, Retrying, Started, Terminal, parse
from contracts.requests import CompletionRequest, UserMessage
from contracts.subjects import Priority
from fleet.simulator import Simulator
from tests.kit import Plane, plane, worker, worker_settings
from tests.patience import PATIENCE_S, until
from tests.servers import Vault
from workers.request.policy import MAX_ATTEMPTS

MODEL = "gpt-4o-mini"


class Shop:
    """A tenant with a simulated OpenAI and one worker, and what its agent hears."""

    def __init__(self, control: Plane, vendor: Simulator) -> None:
        self.control, self.vendor = control, vendor
        self.heard: list[Event] = []

    @property
    def calls(self) -> int:
        return len(self.vendor.ledger.of_model(MODEL))

    async def listen(self) -> None:
        async def hear(msg: Msg) -> None:
            self.heard.append(parse(msg.data))

        await self.control.client.subscribe(subjects.replies_of_agent(self.control.tenant, "tester"), cb=hear)
        await self.control.client.flush()

    async def was_said(self, events: list[Event]) -> None:
        """By a worker that is gone; returns when it is stored."""
        reply = subjects.reply(self.control.tenant, "tester", events[0].request_id)
        for event in events:
            await self.control.client.publish(reply, event.to_json())
        jetstream = self.control.client.jetstream()
        async with asyncio.timeout(PATIENCE_S):
            while (await jetstream.stream_info(streams.REPLIES, reply)).state.subjects != {reply: len(events)}:
                await asyncio.sleep(0.02)

    async def ask(self, request_id: str) -> Terminal:
        """Without a message id of its own, so that the worker looks for what was said of the request before."""
        request = CompletionRequest(
            id=request_id,
            tenant=self.control.tenant,
            agent="tester",
            model=f"openai/{MODEL}",
            messages=(UserMessage(role="user", content="Hi"),),
        )
        subject = subjects.request("openai", Priority.INTERACTIVE, self.control.tenant)
        await self.control.client.jetstream().publish(subject, request.to_json())
        await until(lambda: any(isinstance(e, Terminal) and e.request_id == request_id for e in self.heard))
        return next(e for e in self.heard if isinstance(e, Terminal) and e.request_id == request_id)


@pytest.fixture
async def shop(nats_url: str, vault: Vault, tenant: str) -> AsyncGenerator[Shop]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker(worker_settings(nats_url, vault, "openai"), "openai"))
        vendor = await stack.enter_async_context(Simulator())
        control = await stack.enter_async_context(plane(nats_url, vault, tenant))
        await control.put_tenant()
        await control.put_provider("openai", {"base_url": vendor.base_url("openai")}, key="sk-first-of-the-test")
        shop = Shop(control, vendor)
        await shop.listen()
        yield shop


def started(request_id: str, attempt: int) -> Started:
    return Started(
        request_id=request_id,
        attempt=attempt,
        seq=0,
        provider="openai",
        endpoint="default",
        model=MODEL,
        worker="of-the-past",
        at=datetime.now(UTC),
    )


def retrying(request_id: str, attempt: int, error: Overloaded | StreamInterrupted) -> Retrying:
    following = NextCandidate(provider="openai", model=MODEL)
    return Retrying(request_id=request_id, attempt=attempt, seq=1, error=error.to_wire(), delay_s=0, next=following)


@pytest.mark.parametrize("how", ["died", "was stopped"])
async def test_a_request_whose_last_call_went_down_with_its_worker_makes_no_other(shop: Shop, how: str) -> None:
    past: list[Event] = []
    for attempt in range(1, MAX_ATTEMPTS):
        past += [started("r1", attempt), retrying("r1", attempt, Overloaded("busy"))]
    past.append(started("r1", MAX_ATTEMPTS))
    if how == "was stopped":
        past.append(retrying("r1", MAX_ATTEMPTS, StreamInterrupted("the worker was stopped")))
    await shop.was_said(past)

    ended = await shop.ask("r1")

    assert isinstance(ended, Failed)
    assert ended.error.code == "stream_interrupted"
    assert shop.calls == 0
