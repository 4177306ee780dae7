"""What the catalogue knows of a model beside what it costs, and what it does not price."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from contracts.usage import PriceSource
from runtime.prices import catalogue
from runtime.prices.catalogue import find_prices

NOW = datetime(2026, 11, 1, tzinfo=UTC)


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
    assert catalogue.provider_of_model(model) == provider


def test_context_windows_are_the_catalogues() -> None:
    assert catalogue.context_window("openai", "gpt-4o") == 128_000
    assert catalogue.context_window("azure", "gpt-4o") == 128_000
    assert catalogue.context_window("ollama", "llama3") is None
    assert catalogue.context_window("openai", "no-such-model") is None


def test_a_model_without_an_output_price_has_none() -> None:
    prices, source = find_prices("openai", "text-embedding-3-small", at=NOW, overrides={})

    assert source is PriceSource.CATALOGUE
    assert prices is not None
    assert (prices.base.input, prices.base.output) == (Decimal("0.02"), None)


@pytest.mark.parametrize("model", ["gemini-3.1-flash-image-preview", "gpt-image-1", "gemini-embedding-2"])
def test_a_model_that_sells_images_at_another_price_has_none_because_counts_do_not_tell_them_apart(model: str) -> None:
    vendor = catalogue.provider_of_model(model) or ""

    assert find_prices(vendor, model, at=NOW, overrides={}) == (None, PriceSource.NONE)


def test_prices_of_a_time_of_day_change_with_it() -> None:
    """Azure sells DeepSeek's models, which cost less at night."""
    prices = {find_prices("azure", "deepseek-chat", at=NOW.replace(hour=hour), overrides={})[0] for hour in range(24)}

    assert len(prices) == 2
