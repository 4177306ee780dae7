"""What a configuration offers, and what the catalogue says of a model."""

from decimal import Decimal
from typing import Any

import pytest

from admin_api import catalogue
from admin_api.models import offered
from contracts.providers import ProviderConfig
from contracts.usage import PriceSource, Usage
from contracts.wire import utc_now
from workers import pricing

PLAIN = {"name": "plain"}
A = {"name": "a", "deployments": {"m1": "d", "m2": "d"}}
B = {"name": "b", "deployments": {"m2": "d", "m3": "d"}}


@pytest.mark.parametrize(
    ("config", "models"),
    [
        ({}, None),
        ({"base_url": "https://llm.example.com"}, None),
        ({"models": ["m1", "m2"]}, ["m1", "m2"]),
        ({"endpoints": [A, B]}, ["m1", "m2", "m3"]),
        ({"endpoints": [A, PLAIN]}, None),
        ({"endpoints": [A], "models": ["m2", "m9"]}, ["m2"]),
        ({"endpoints": [A, PLAIN], "models": ["m2", "m9"]}, ["m2", "m9"]),
        ({"endpoints": [{"name": "none", "deployments": {}}]}, []),
    ],
)
def test_what_a_configuration_offers(config: dict[str, Any], models: list[str] | None) -> None:
    assert offered(ProviderConfig.model_validate(config)) == models


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "gpt-4o-mini-2024-07-18"),
        ("azure", "gpt-4o"),
        ("anthropic", pricing.default_model("anthropic")),
        ("google", "gemini-2.5-pro"),
        ("google", pricing.default_model("google")),
    ],
)
def test_shows_the_prices_that_attempts_are_booked_with(provider: str, model: str) -> None:
    now = utc_now()
    shown = catalogue.rates(provider, model, at=now)
    booked = pricing.price(
        Usage(input_tokens=1000, output_tokens=100), provider=provider, model=model, at=now, overrides={}
    )

    assert booked.source is PriceSource.CATALOGUE
    assert shown is not None
    assert shown.output is not None
    assert booked.amount == (shown.input * 1000 + shown.output * 100) / Decimal(1_000_000)
    assert catalogue.context_window(provider, model) == pricing.context_window(provider, model)


def test_a_model_without_an_output_price_has_none() -> None:
    found = catalogue.rates("openai", "text-embedding-3-small", at=utc_now())

    assert found is not None
    assert found.output is None


@pytest.mark.parametrize(("provider", "model"), [("ollama", "gpt-4o"), ("openai", "nobody's"), ("openai", "")])
def test_what_the_catalogue_does_not_know_is_unpriced(provider: str, model: str) -> None:
    assert catalogue.rates(provider, model, at=utc_now()) is None
    assert catalogue.context_window(provider, model) is None
