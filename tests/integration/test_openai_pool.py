"""The pool of a vendor with a key: the real SDK over HTTP, keys from Vault, and the way to another provider."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from contracts.events import Completed, Delta, Event, Failed, Retrying, Started
from fleet.client import Client
from fleet.local.servers import VaultServer
from fleet.simulator import Script, Simulator
from tests import servers
from tests.kit import Bill, Plane, plane, worker, worker_settings
from tests.patience import until
from tests.servers import Vault


class Shop:
    """A tenant with a simulated OpenAI, and one worker for OpenAI and one for the mock."""

    def __init__(self, client: Client, control: Plane, bill: Bill, vendor: Simulator) -> None:
        self.client, self.control, self.bill, self.vendor = client, control, bill, vendor

    async def use_key(self, key: str, **config: object) -> None:
        await self.control.put_provider("openai", {"base_url": self.vendor.base_url("openai"), **config}, key=key)

    async def events(self, model: str, **fields: Any) -> list[Event]:
        bounded: dict[str, Any] = {"deadline_s": 30, **fields}
        return [event async for event in self.client.stream(model, "Hello", **bounded)]


@pytest.fixture
async def stack(nats_url: str, vault: Vault) -> AsyncGenerator[AsyncExitStack]:
    """Closed before the servers stop."""
    async with AsyncExitStack() as stack:
        yield stack


async def _open(stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str) -> Shop:
    for provider in ("openai", "mock"):
        await stack.enter_async_context(worker(worker_settings(nats_url, vault, provider), provider))
    vendor = await stack.enter_async_context(Simulator())
    control = await stack.enter_async_context(plane(nats_url, vault, tenant))
    await control.put_tenant()
    await control.put_provider("mock")
    bill = await stack.enter_async_context(Bill.watch(control.client, tenant))
    client = await stack.enter_async_context(Client(nats_url, tenant=tenant, agent="tester"))
    return Shop(client, control, bill, vendor)


@pytest.fixture
async def shop(stack: AsyncExitStack, nats_url: str, vault: Vault, tenant: str) -> Shop:
    shop = await _open(stack, nats_url, vault, tenant)
    await shop.use_key("sk-first-key-of-the-test")
    return shop


async def test_tokens_usage_and_cost_are_the_vendors(shop: Shop) -> None:
    shop.vendor.script("gpt-4o-mini", Script(text="The sky is blue."))

    events = await shop.events("openai/gpt-4o-mini")

    completed = events[-1]
    assert isinstance(completed, Completed)
    assert "".join(e.text or "" for e in events if isinstance(e, Delta)) == "The sky is blue."
    (served,) = shop.vendor.ledger.of_model("gpt-4o-mini")
    assert completed.usage.source == "vendor"
    assert completed.usage.input_tokens == served.input_tokens
    assert completed.usage.output_tokens == served.output_tokens
    assert completed.cost is not None
    # gpt-4o-mini: 0.15 and 0.60 USD per million tokens.
    expected = (completed.usage.input_tokens * 15 + completed.usage.output_tokens * 60) / 100
    assert float(completed.cost.amount) * 1e6 == pytest.approx(expected)


async def test_an_answer_of_emoji_that_comes_at_once_is_passed_on(shop: Shop) -> None:
    text = "😀" * (3 * 1024 * 1024 // 4)
    shop.vendor.script("gpt-4o-mini", Script(text=text, chunks=1))

    events = await shop.events("openai/gpt-4o-mini")

    completed = events[-1]
    assert isinstance(completed, Completed)
    assert completed.message.content == "".join(e.text or "" for e in events if isinstance(e, Delta)) == text


async def test_a_delta_that_no_message_can_hold_arrives_in_parts(shop: Shop) -> None:
    """JSON has six bytes for a control character. What is whole in parts is too large for `completed`."""
    text = "\x01\x02" * 1_000_000
    shop.vendor.script("gpt-4o-mini", Script(text=text, chunks=1))

    events = await shop.events("openai/gpt-4o-mini")

    assert "".join(e.text or "" for e in events if isinstance(e, Delta)) == text
    assert [e.seq for e in events] == list(range(len(events)))
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "invalid_request"
    assert "max_tokens" in failed.error.message


async def test_an_answer_that_no_message_can_hold_is_broken_off_and_booked(shop: Shop) -> None:
    shop.vendor.script("gpt-4o-mini", Script(text="x" * 20_000_000, chunks=400))

    events = await shop.events("openai/gpt-4o-mini", stream=False)

    failed = events[-1]
    assert isinstance(failed, Failed)
    assert failed.error.code == "invalid_request"
    assert "max_tokens" in failed.error.message
    await until(lambda: len(shop.bill.of(failed.request_id)) == 1)
    (booked,) = shop.bill.of(failed.request_id)
    assert (booked.outcome, booked.usage.source) == ("failed", "estimated")
    assert booked.usage.output_tokens > 0
    (served,) = shop.vendor.ledger.of_model("gpt-4o-mini")
    assert served.chunks_sent < 400


async def test_a_vendor_error_is_retried_and_each_call_is_booked(shop: Shop) -> None:
    shop.vendor.script("gpt-4o-mini", Script(status=503), Script(text="now"))

    events = await shop.events("openai/gpt-4o-mini")

    assert [type(e) for e in events if not isinstance(e, Delta)] == [Started, Retrying, Started, Completed]
    await until(lambda: len(shop.bill.of(events[0].request_id)) == 2)
    failed, completed = shop.bill.of(events[0].request_id)
    assert (failed.outcome, failed.error_code, failed.usage.input_tokens) == ("failed", "overloaded", 0)
    assert completed.outcome == "completed"


async def test_falls_back_to_another_pool_which_never_sees_the_first_ones_key(shop: Shop) -> None:
    shop.vendor.script("gpt-4o-mini", Script(status=401))

    events = await shop.events("openai/gpt-4o-mini", fallbacks=["mock/echo"])

    assert [type(e) for e in events if not isinstance(e, Delta)] == [Started, Retrying, Started, Completed]
    assert [(e.attempt, e.provider) for e in events if isinstance(e, Started)] == [(1, "openai"), (2, "mock")]
    retrying = events[1]
    assert isinstance(retrying, Retrying)
    assert retrying.error.code == "authentication_failed"
    assert (retrying.next.provider, retrying.next.model) == ("mock", "echo")
    await until(lambda: len(shop.bill.of(events[0].request_id)) == 2)
    assert [(r.provider, r.outcome) for r in shop.bill.of(events[0].request_id)] == [
        ("openai", "failed"),
        ("mock", "completed"),
    ]


async def test_all_that_failed_is_told_in_the_end(shop: Shop) -> None:
    shop.vendor.script("gpt-4o-mini", Script(status=401))
    broken = {"mock": {"fail": {"code": "invalid_request", "times": 9}}}

    events = await shop.events("openai/gpt-4o-mini", fallbacks=["mock/echo"], provider_options=broken)

    failed = events[-1]
    assert isinstance(failed, Failed)
    assert [(a.provider, a.error.code) for a in failed.attempts] == [
        ("openai", "authentication_failed"),
        ("mock", "invalid_request"),
    ]


async def test_what_could_not_help_is_told_by_the_pool_that_answers(shop: Shop) -> None:
    shop.vendor.script("gpt-4o-mini", Script(error="context_length_exceeded"))
    fallbacks = ["google/gemini-2.5-flash", "openai/gpt-4o", "mock/echo"]

    completed = (await shop.events("openai/gpt-4o-mini", fallbacks=fallbacks))[-1]

    assert isinstance(completed, Completed)
    assert completed.provider == "mock"
    first, second = completed.warnings
    assert first.startswith("the fallback google/gemini-2.5-flash was left out: tenant ")
    assert second == "the fallback openai/gpt-4o was left out: its context window is no larger"


async def test_a_new_key_is_used_at_once_and_streams_on_the_old_one_go_on(shop: Shop) -> None:
    shop.vendor.script("gpt-4o-mini", Script(text="a b c d e f g h", between_s=0.1))
    running = asyncio.create_task(shop.events("openai/gpt-4o-mini"))
    await until(lambda: len(shop.vendor.ledger.of_model("gpt-4o-mini")) == 1)
    await shop.use_key("sk-second-key-of-the-test")

    later = await shop.events("openai/gpt-4o-mini")

    assert isinstance((await running)[-1], Completed)
    assert isinstance(later[-1], Completed)
    first, second = [entry.key_fingerprint for entry in shop.vendor.ledger.of_model("gpt-4o-mini")]
    assert first != second


async def test_a_provider_without_a_key_says_what_to_do(shop: Shop) -> None:
    await shop.control.put_provider("openai", {"base_url": shop.vendor.base_url("openai")})

    events = await shop.events("openai/gpt-4o-mini", deadline_s=120)

    assert isinstance(events[-1], Failed)
    assert events[-1].error.code == "key_unavailable"
    assert "/api/v1/llm-providers" in events[-1].error.message
    assert not any(isinstance(e, Started) for e in events)


async def test_a_sealed_vault_stops_new_keys_only(
    stack: AsyncExitStack, nats_url: str, sealable_vault: VaultServer, tenant: str
) -> None:
    vault = await servers.set_up_vault(sealable_vault.addr, sealable_vault.root_token)
    shop = await _open(stack, nats_url, vault, tenant)
    other = Plane(shop.control.client, vault, f"{tenant}-2")
    await other.put_tenant()
    await shop.use_key("sk-known-before")
    await other.put_provider("openai", {"base_url": shop.vendor.base_url("openai")}, key="sk-never-read")
    async with Client(nats_url, tenant=other.tenant) as stranger:
        assert isinstance((await shop.events("openai/gpt-4o-mini"))[-1], Completed)
        await sealable_vault.seal()

        known = await shop.events("openai/gpt-4o-mini")
        refused = [e async for e in stranger.stream("openai/gpt-4o-mini", "Hello", fallbacks=["openai/gpt-4o"])]
        await sealable_vault.unseal()

        assert isinstance(known[-1], Completed)
        assert isinstance(refused[-1], Failed)
        assert refused[-1].error.code == "key_unavailable"
        assert (await stranger.complete("openai/gpt-4o-mini", "Hello")).finish_reason == "stop"
