"""Prices are the vendors' published ones, in USD per million tokens, worked out by hand."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import data_snapshot

from contracts.providers import Price
from contracts.usage import PriceSource, Usage
from workers import pricing
from workers.pricing import price

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def tokens(input_: int, output: int, *, read: int = 0, write: int = 0, reasoning: int = 0) -> Usage:
    return Usage(
        input_tokens=input_,
        output_tokens=output,
        cache_read_tokens=read,
        cache_write_tokens=write,
        reasoning_tokens=reasoning,
    )


def cost(usage: Usage, provider: str, model: str, **overrides: Price) -> tuple[Decimal | None, PriceSource]:
    priced = price(usage, provider=provider, model=model, at=NOW, overrides=overrides)
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
    assert cost(usage, "openai", "gpt-4o", **overrides) == (Decimal(8), PriceSource.TENANT)
    assert cost(usage, "azure", "gpt-4o", **overrides) == (Decimal(2), PriceSource.TENANT)


def test_a_tenants_cache_prices_default_to_its_input_price() -> None:
    usage = tokens(1_000_000, 0, read=500_000, write=250_000)
    plain = Price(input_mtok=Decimal(4), output_mtok=Decimal(1))
    cached = Price(
        input_mtok=Decimal(4), output_mtok=Decimal(1), cache_read_mtok=Decimal(1), cache_write_mtok=Decimal(8)
    )

    assert cost(usage, "ollama", "llama3", llama3=plain)[0] == Decimal(4)
    assert cost(usage, "ollama", "llama3", llama3=cached)[0] == Decimal("3.5")


def test_a_tenants_price_of_zero_is_free_and_not_unpriced() -> None:
    free = Price(input_mtok=Decimal(0), output_mtok=Decimal(0))

    assert cost(tokens(5, 5), "mock", "scripted", scripted=free) == (Decimal(0), PriceSource.TENANT)


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
    assert pricing.context_window(provider, model)
    assert pricing.provider_of_model(model) == provider


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("gpt-4", "openai"),
        ("gpt-9-of-next-year", "openai"),
        ("o3-mini", "openai"),
        ("davinci-002", "openai"),
        ("claude-3-sonnet", "anthropic"),
        ("Claude-Opus-5", "anthropic"),
        ("gemini-pro", "google"),
        ("llama3", None),
        ("my-moderation-llama", None),
        ("", None),
    ],
)
def test_a_bare_model_is_its_vendors(model: str, provider: str | None) -> None:
    assert pricing.provider_of_model(model) == provider


def test_context_windows_are_the_catalogues() -> None:
    assert pricing.context_window("openai", "gpt-4o") == 128_000
    assert pricing.context_window("azure", "gpt-4o") == 128_000
    assert pricing.context_window("ollama", "llama3") is None
    assert pricing.context_window("openai", "no-such-model") is None
