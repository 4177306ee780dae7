"""Prices are the vendors' published ones, in USD per million tokens, worked out by hand.

Sources: developers.openai.com/api/docs/pricing, platform.claude.com/docs/en/about-claude/pricing and
ai.google.dev/gemini-api/docs/pricing, as of October 2026.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version

import pytest
from genai_prices import Usage as CatalogueUsage
from genai_prices import data_snapshot
from genai_prices.types import ModelInfo
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from contracts.providers import Price
from contracts.usage import MAX_AMOUNT, PriceSource, Usage, UsagePart, UsedPrice
from runtime.prices import catalogue, pricing
from runtime.prices.pricing import price

NOW = datetime(2026, 11, 1, tzinfo=UTC)
Parts = tuple[UsagePart, ...]


def tokens(
    input_: int, output: int, *, read: int = 0, write: int = 0, hour: int = 0, reasoning: int = 0, parts: Parts = ()
) -> Usage:
    return Usage(
        parts=parts,
        cache_write_1h_tokens=hour,
        input_tokens=input_,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=write,
        reasoning_tokens=reasoning,
    )


def cost(
    usage: Usage,
    provider: str,
    model: str,
    *,
    tier: str | None = None,
    at: datetime = NOW,
    own: Mapping[str, Price] | None = None,
) -> tuple[Decimal | None, PriceSource]:
    priced = price(usage, provider=provider, model=model, at=at, overrides=own or {}, service_tier=tier)
    return priced.amount, priced.source


@pytest.mark.parametrize(
    ("provider", "model", "usage", "expected"),
    [
        # gpt-4o-mini: 0.15 in, 0.60 out, 0.075 cached
        ("openai", "gpt-4o-mini", tokens(10, 20), "0.0000135"),
        ("openai", "gpt-4o-mini-2024-07-18", tokens(10, 20), "0.0000135"),
        ("openai", "gpt-4o-mini", tokens(1000, 500, read=600), "0.000405"),
        # gpt-4o: 2.50 in, 10 out, 1.25 cached; reasoning is part of the output, at its price
        ("openai", "gpt-4o", tokens(1_000_000, 1_000_000, reasoning=999_999), "12.5"),
        # claude-haiku-4-5: 1 in, 5 out, 0.10 read, 1.25 write
        ("anthropic", "claude-haiku-4-5", tokens(1000, 100, read=200, write=300), "0.001395"),
        # claude-sonnet-4-5: 3 / 15 up to 200,000 input tokens, 6 / 22.50 for all of them above
        ("anthropic", "claude-sonnet-4-5-20250929", tokens(200_000, 1000), "0.615"),
        ("anthropic", "claude-sonnet-4-5-20250929", tokens(200_001, 1000), "1.222506"),
        # the same, cached: all of a long prompt's rates rise, 0.60 read and 7.50 write
        ("anthropic", "claude-sonnet-4-5", tokens(300_000, 0, read=100_000, write=50_000), "1.335"),
        # claude-opus-5-5: 4 in, 5 to write for five minutes and 8 for an hour, 0.20 read; no long-context price
        ("anthropic", "claude-opus-5-5", tokens(400_000, 1000, write=300_000, hour=100_000), "2.22"),
        ("anthropic", "claude-opus-5-5", tokens(400_000, 0, read=400_000), "0.08"),
        # claude-haiku-5-5: 0.10 / 0.50 up to 100,000 input tokens, five times that above
        ("anthropic", "claude-haiku-5-5", tokens(100_000, 1000), "0.0105"),
        ("anthropic", "claude-haiku-5-5", tokens(100_001, 1000), "0.0525005"),
        # gpt-6.1-terra: 1 in, 5 out, 0.05 read, 1.25 write; above 272,000 twice the input and 1.5 times the output
        ("openai", "gpt-6.1-terra", tokens(10_000, 100, read=8000, write=1000), "0.00315"),
        ("openai", "gpt-6.1-terra", tokens(272_000, 100), "0.2725"),
        ("openai", "gpt-6.1-terra", tokens(272_001, 100, read=1), "0.5447501"),
        # gemini-2.5-pro: 1.25 / 10 up to 200,000 input tokens, 2.50 / 15 above, cached a tenth; thoughts are output
        ("google", "gemini-2.5-pro", tokens(200_000, 1000, reasoning=900), "0.26"),
        ("google", "gemini-2.5-pro", tokens(200_001, 1000, read=100_001, reasoning=900), "0.29000025"),
        # gemini-2.5-flash: 0.30 in, 2.50 out, 0.03 cached
        ("google", "gemini-2.5-flash", tokens(1000, 500, read=600), "0.001388"),
        # Azure sells OpenAI's models at OpenAI's prices
        ("azure", "gpt-4o", tokens(1_000_000, 100_000), "3.5"),
        # a model without a price for cached tokens sells them as input: gpt-4 at 30 / 60
        ("openai", "gpt-4", tokens(1000, 0, read=1000), "0.03"),
        # embeddings have no output
        ("openai", "text-embedding-3-small", tokens(1_000_000, 0), "0.02"),
        ("openai", "gpt-4o-mini", tokens(0, 0), "0"),
    ],
)
def test_the_catalogue_price_is_what_the_vendor_publishes(
    provider: str, model: str, usage: Usage, expected: str
) -> None:
    assert cost(usage, provider, model) == (Decimal(expected), PriceSource.CATALOGUE)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("mock", "gpt-4o-mini"),
        ("ollama", "llama3"),
        ("openai", "no-such-model"),
        ("openai", ""),
        ("openai", "gpt 4\x00((["),
        ("openai", "omni-moderation-latest"),
        ("openai", "whisper-1"),
        ("openai", "text-embedding-3-small"),
        ("azure", "mai-ds-r1:free"),
        ("google", "gemma-3-27b-it"),
        ("nobody", "gpt-4o"),
        ("litellm", "openai/gpt-4o"),
    ],
)
def test_what_has_no_price_is_unpriced_and_never_free(provider: str, model: str) -> None:
    assert cost(tokens(100, 100), provider, model) == (None, PriceSource.NONE)


@pytest.mark.parametrize(
    ("provider", "model", "tier", "usage", "expected"),
    [
        # gpt-5.1: 1.25 / 10, cached 0.125; flex and batch cost half, priority (now "fast") twice as much
        ("openai", "gpt-5.1", None, tokens(1_000_000, 100_000, read=400_000), "1.8"),
        ("openai", "gpt-5.1", "flex", tokens(1_000_000, 100_000, read=400_000), "0.9"),
        ("openai", "gpt-5.1", "batch", tokens(1_000_000, 100_000, read=400_000), "0.9"),
        ("openai", "gpt-5.1", "priority", tokens(1_000_000, 100_000, read=400_000), "3.6"),
        ("openai", "gpt-5.1", "fast", tokens(1_000_000, 100_000, read=400_000), "3.6"),
        # gpt-6.1-terra, flex, a long prompt: 1 in and 3.75 out
        ("openai", "gpt-6.1-terra", "flex", tokens(300_000, 1000), "0.30375"),
        # claude-opus-5-5: 4 / 20; batch half, fast mode twice as much, 1.1 times all of it for inference in the US
        ("anthropic", "claude-opus-5-5", "batch", tokens(1000, 100, write=100, hour=100), "0.0032"),
        ("anthropic", "claude-opus-5-5", "fast", tokens(1000, 100), "0.012"),
        ("anthropic", "claude-opus-5-5", "us", tokens(1000, 100), "0.0066"),
        ("anthropic", "claude-opus-5-5", "fast+us", tokens(1000, 100), "0.0132"),
        # gemini-2.5-pro, batch: half
        ("google", "gemini-2.5-pro", "batch", tokens(1_000_000, 0), "1.25"),
    ],
)
def test_a_service_tier_has_the_price_that_the_vendor_publishes_for_it(
    provider: str, model: str, tier: str | None, usage: Usage, expected: str
) -> None:
    assert cost(usage, provider, model, tier=tier) == (Decimal(expected), PriceSource.CATALOGUE)


@pytest.mark.parametrize(
    ("provider", "model", "tier"),
    [
        ("openai", "gpt-5.1", "scale"),
        ("openai", "gpt-4o", "flex"),
        ("openai", "gpt-5.1", "flex+priority"),
        ("anthropic", "claude-opus-5-5", "priority"),
        ("anthropic", "claude-haiku-4-5", "fast"),
        ("google", "gemini-2.5-pro", "provisioned_throughput"),
        ("google", "gemini-2.5-pro", "us"),
        ("azure", "gpt-5.1", "priority"),
        ("openai", "gpt-5.1", "unknown"),
    ],
)
def test_a_tier_whose_price_is_not_known_is_unpriced_and_not_sold_as_the_standard(
    provider: str, model: str, tier: str
) -> None:
    assert cost(tokens(10, 10), provider, model, tier=tier) == (None, PriceSource.NONE)


def test_a_tiers_price_is_known_from_the_day_on_that_it_is_dated() -> None:
    before = datetime(2026, 10, 11, 23, 59, 59, tzinfo=UTC)

    assert cost(tokens(10, 10), "openai", "gpt-5.1", tier="flex", at=before)[0] is None
    assert cost(tokens(10, 10), "openai", "gpt-5.1", tier="flex", at=before + timedelta(seconds=1))[0] is not None


def test_a_part_is_priced_by_its_own_prompt_and_model() -> None:
    compaction = UsagePart(input_tokens=150_000, output_tokens=1000, cache_read_tokens=50_000)
    advice = UsagePart(input_tokens=1000, output_tokens=100, model="claude-opus-5-5")
    usage = tokens(40_000 + 150_000 + 1000, 500 + 1000 + 100, read=50_000, parts=(compaction, advice))

    priced = price(usage, provider="anthropic", model="claude-haiku-5-5", at=NOW, overrides={})

    # the reply 40,000 x 0.10 + 500 x 0.50; above 100,000 tokens the compaction 100,000 x 0.50 + 50,000 x 0.05
    # + 1,000 x 2.50; the advice 1,000 x 4 + 100 x 20
    assert priced.amount == Decimal("0.00425") + Decimal("0.055") + Decimal("0.006")
    assert priced.used is not None
    assert [used.input_mtok for used in (priced.used, *priced.used.parts)] == [
        Decimal("0.1"),
        Decimal("0.5"),
        Decimal(4),
    ]


def test_a_part_without_a_price_leaves_the_whole_unpriced() -> None:
    part = UsagePart(input_tokens=1, model="claude-of-nobody")

    assert cost(tokens(10, 10, parts=(part,)), "anthropic", "claude-haiku-4-5") == (None, PriceSource.NONE)


def test_the_rates_are_kept_that_the_cost_was_computed_with() -> None:
    usage = tokens(1000, 100, read=200, write=300, hour=100, reasoning=7)

    used = price(usage, provider="anthropic", model="claude-haiku-4-5", at=NOW, overrides={}).used

    assert used == UsedPrice(
        input_mtok=Decimal(1),
        output_mtok=Decimal(5),
        cache_read_mtok=Decimal("0.1"),
        cache_write_mtok=Decimal("1.25"),
        cache_write_1h_mtok=Decimal(2),
        reasoning_mtok=Decimal(5),
        catalogue=f"genai-prices {version('genai-prices')}",
    )


def test_a_cost_is_rounded_once_to_what_the_ledger_holds() -> None:
    odd = Price(input_mtok=Decimal("0.0000123456"), output_mtok=Decimal(1))

    # 7 x 0.0000123456 / 1,000,000 = 8.64192E-11
    assert cost(tokens(7, 0), "mock", "m", own={"m": odd})[0] == Decimal("1E-10")
    assert cost(tokens(4, 0), "mock", "m", own={"m": odd})[0] == Decimal(0)


def test_a_cost_that_no_ledger_holds_is_unpriced() -> None:
    dear = Price(input_mtok=Decimal(1_000_000), output_mtok=Decimal(1))

    assert cost(tokens(MAX_AMOUNT, 0), "mock", "m", own={"m": dear}) == (None, PriceSource.NONE)
    assert cost(tokens(2**63 - 1, 2**63 - 1), "openai", "gpt-4o") == (None, PriceSource.NONE)


COUNTS = st.integers(0, 2_000_000)


def catalogued_models() -> st.SearchStrategy[tuple[str, ModelInfo]]:
    return st.sampled_from(
        [
            (vendor.id, model)
            for vendor in data_snapshot.get_snapshot().providers
            if vendor.id in ("openai", "anthropic", "google", "azure")
            for model in vendor.models
        ]
    )


@settings(deadline=None)
@given(
    named=st.deferred(catalogued_models),
    counts=st.tuples(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS),
)
def test_every_model_costs_what_the_catalogues_own_calculation_says(
    named: tuple[str, ModelInfo], counts: tuple[int, int, int, int, int]
) -> None:
    vendor_id, model = named
    plain, read, write, hour, output = counts
    usage = tokens(plain + read + write + hour, output, read=read, write=write + hour, hour=hour)
    priced = price(usage, provider=vendor_id, model=model.id, at=NOW, overrides={})
    vendor = data_snapshot.find_provider_by_id(data_snapshot.get_snapshot().providers, vendor_id)
    assert vendor is not None
    found = vendor.find_model(model.id)
    assume(found is not None)
    assert found is not None
    theirs = found.calc_price(
        CatalogueUsage(
            input_tokens=usage.input_tokens,
            output_tokens=output,
            cache_read_tokens=read,
            cache_write_tokens=write + hour,
            cache_write_5m_tokens=write,
            cache_write_1h_tokens=hour,
        ),
        vendor,
        genai_request_timestamp=NOW,
    )
    assert priced.amount is None or abs(priced.amount - theirs.total_price) <= Decimal("1E-10")


def test_parts_that_exceed_their_whole_are_cut_to_it() -> None:
    assert cost(tokens(100, 10, read=900, write=900, reasoning=99), "openai", "gpt-4o") == cost(
        tokens(100, 10, read=100), "openai", "gpt-4o"
    )


def test_a_price_that_changed_is_taken_as_of_the_call() -> None:
    june = price(tokens(1_000_000, 0), provider="openai", model="o3", at=datetime(2025, 6, 1, tzinfo=UTC), overrides={})

    assert june.amount == Decimal(10)
    assert cost(tokens(1_000_000, 0), "openai", "o3")[0] == Decimal(2)


def test_a_tenants_own_price_wins_and_the_more_exact_name_first() -> None:
    bare = Price(input_mtok=Decimal(1), output_mtok=Decimal(2))
    exact = Price(input_mtok=Decimal(4), output_mtok=Decimal(8))
    overrides = {"gpt-4o": bare, "openai/gpt-4o": exact}

    usage = tokens(1_000_000, 500_000)
    assert cost(usage, "openai", "gpt-4o", own=overrides) == (Decimal(8), PriceSource.TENANT)
    assert cost(usage, "azure", "gpt-4o", own=overrides) == (Decimal(2), PriceSource.TENANT)


def test_a_tenants_cache_prices_default_to_its_input_price() -> None:
    usage = tokens(1_000_000, 0, read=500_000, write=250_000)
    plain = Price(input_mtok=Decimal(4), output_mtok=Decimal(1))
    cached = Price(
        input_mtok=Decimal(4), output_mtok=Decimal(1), cache_read_mtok=Decimal(1), cache_write_mtok=Decimal(8)
    )

    assert cost(usage, "ollama", "llama3", own={"llama3": plain})[0] == Decimal(4)
    assert cost(usage, "ollama", "llama3", own={"llama3": cached})[0] == Decimal("3.5")


def test_a_tenants_prices_of_long_prompts_and_of_service_tiers() -> None:
    own = Price.model_validate(
        {
            "input_mtok": "1",
            "output_mtok": "2",
            "reasoning_mtok": "3",
            "cache_write_mtok": "1.25",
            "cache_write_1h_mtok": "2",
            "long_context": [
                {"above_input_tokens": 2000, "input_mtok": "20", "output_mtok": "20"},
                {"above_input_tokens": 1000, "input_mtok": "10", "output_mtok": "10"},
            ],
            "service_tiers": {"flex": {"input_mtok": "0.5", "output_mtok": "1"}},
        }
    )

    def of(usage: Usage, tier: str | None = None) -> Decimal | None:
        return cost(usage, "openai", "gpt-5.1", tier=tier, own={"gpt-5.1": own})[0]

    assert of(tokens(1000, 100, write=200, hour=100, reasoning=50)) == Decimal("0.001375")
    assert of(tokens(1001, 100)) == Decimal("0.01101")
    assert of(tokens(2001, 100)) == Decimal("0.04202")
    assert of(tokens(1000, 100), "flex") == Decimal("0.0006")
    assert of(tokens(1000, 100), "priority") is None


def test_a_tenants_price_of_zero_is_free_and_not_unpriced() -> None:
    free = Price(input_mtok=Decimal(0), output_mtok=Decimal(0))

    assert cost(tokens(5, 5), "mock", "scripted", own={"scripted": free}) == (Decimal(0), PriceSource.TENANT)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google"])
def test_default_models_are_current_and_priced(provider: str) -> None:
    model = pricing.default_model(provider)
    vendor = data_snapshot.find_provider_by_id(data_snapshot.get_snapshot().providers, provider)
    assert vendor is not None
    found = vendor.find_model(model)

    assert found is not None
    assert found.id == model
    assert not found.deprecated
    assert cost(tokens(1, 1), provider, model)[1] is PriceSource.CATALOGUE
    assert catalogue.context_window(provider, model)
    assert catalogue.provider_of_model(model) == provider
