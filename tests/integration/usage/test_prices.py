"""What was booked is enough to price it again, to the last digit."""

from decimal import Decimal

import pytest

from contracts.usage import Usage, UsagePart, UsageSource
from migrations.audit import Origin
from runtime.prices.pricing import price
from tests.integration.usage.conftest import Books
from tests.usage import USED_AT, record
from workers.usage.ledger import Ledger
from workers.usage.repricing import reprice
from workers.usage.verification import Period

PARTS = (UsagePart(input_tokens=150_000, output_tokens=900), UsagePart(input_tokens=50, model="claude-opus-5-5"))


@pytest.mark.parametrize(
    ("provider", "model", "tier", "usage"),
    [
        ("anthropic", "claude-haiku-5-5", None, {"input_tokens": 190_050, "output_tokens": 1000, "parts": PARTS}),
        ("anthropic", "claude-opus-5-5", "fast+us", {"input_tokens": 10, "cache_write_tokens": 9}),
        (
            "anthropic",
            "claude-opus-5-5",
            None,
            {"input_tokens": 10, "cache_write_tokens": 9, "cache_write_1h_tokens": 5},
        ),
        ("openai", "gpt-5.1", "flex", {"input_tokens": 10, "output_tokens": 7, "reasoning_tokens": 5}),
        ("google", "gemini-2.5-pro", None, {"input_tokens": 300_000, "cache_read_tokens": 200_000}),
    ],
)
async def test_an_event_is_priced_again_as_its_worker_priced_it(
    books: Books, provider: str, model: str, tier: str | None, usage: dict[str, object]
) -> None:
    stated = Usage.model_validate({**usage, "source": UsageSource.VENDOR})
    priced = price(stated, provider=provider, model=model, at=USED_AT, overrides={}, service_tier=tier)
    assert priced.amount
    unpriced = record("r", cost=None, usage=stated, provider=provider, model=model, service_tier=tier)

    await Ledger(books.engine).book([unpriced])
    [done] = [each async for each in reprice(books.engine, Period(), origin=Origin("tester", "cli")) if each.events]

    (event,) = await books.events()
    assert (event["cost"], event["price_source"]) == (priced.amount, "catalogue")
    assert Decimal(event["price"]["input_mtok"]) == (priced.used and priced.used.input_mtok)
    assert (done.unpriced_before, done.unpriced_after) == (1, 0)
    await books.assert_balanced()
