"""Nothing that a vendor bills for a request is more than the bound of it."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.providers import LongContextPrices, Price, TieredPrice
from contracts.requests import CompletionRequest
from contracts.rpc import CountTokens
from contracts.usage import Usage
from runtime.prices.pricing import price
from workers.providers.openai import tokens as openai_tokens
from workers.providers.registry import models_of
from workers.providers.shared import token_estimates
from workers.quotas.cost_bounds import upper_bound

NOW = datetime(2026, 11, 1, tzinfo=UTC)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}


def asked(content: object = "Hi", **fields: object) -> CompletionRequest:
    messages = [{"role": "user", "content": content}]
    return CompletionRequest.model_validate(
        {"id": "r", "tenant": "t", "agent": "a", "model": "m", "messages": messages, **fields}
    )


def bound(request: CompletionRequest, provider: str, model: str, **overrides: Price) -> Decimal | None:
    return upper_bound(request, provider=provider, model=model, at=NOW, overrides=overrides)


def own(**prices: object) -> Price:
    return Price.model_validate({"input_mtok": "1", "output_mtok": "2", **prices})


def test_the_bound_is_the_bytes_at_the_highest_input_price_and_the_whole_output() -> None:
    request = asked(max_tokens=1000)

    # claude-haiku-4-5: an hour's cache write at 2 is the dearest input, output at 5
    expected = (len(request.to_json()) * Decimal(2) + 1000 * Decimal(5)) / 1_000_000
    assert bound(request, "anthropic", "claude-haiku-4-5") == expected


def test_a_request_without_a_limit_is_bounded_by_what_its_model_can_say() -> None:
    price_list = own(input_mtok="0", output_mtok="1")

    assert bound(asked(), "openai", "gpt-4o", **{"gpt-4o": price_list}) == Decimal("0.016384")
    assert bound(asked(), "openai", "gpt-6.1-terra", **{"gpt-6.1-terra": price_list}) == Decimal("0.128")


def test_further_options_that_win_are_bounded_too() -> None:
    price_list = own(input_mtok="0", output_mtok="1")
    several = asked(max_tokens=10, provider_options={"openai": {"max_completion_tokens": 500, "n": 4}})
    nested = asked(provider_options={"google": {"generationConfig": {"maxOutputTokens": 70, "candidateCount": 2}}})

    assert bound(several, "openai", "m", m=price_list) == Decimal("0.002")
    assert bound(several, "google", "m", m=price_list) == Decimal("0.00001")
    assert bound(nested, "google", "m", m=price_list) == Decimal("0.00014")


def test_an_image_counts_as_the_most_that_a_vendor_counts_and_not_by_its_bytes() -> None:
    price_list = own(input_mtok="1", output_mtok="0")
    without, with_image = asked([]), asked([IMAGE])

    more = (bound(with_image, "anthropic", "m", m=price_list) or 0) - (
        bound(without, "anthropic", "m", m=price_list) or 0
    )
    assert Decimal("0.005") < more < Decimal("0.0051")


def test_no_prompt_is_longer_than_the_context_window() -> None:
    huge = asked("x" * 1_000_000, max_tokens=1)

    # gpt-4o: a window of 128,000 tokens, input at 2.50
    assert bound(huge, "openai", "gpt-4o") == Decimal("0.32001")


def test_the_rates_of_long_prompts_count_when_the_prompt_can_be_that_long() -> None:
    long = LongContextPrices(above_input_tokens=5000, input_mtok=Decimal(9), output_mtok=Decimal(9))
    tiered = Price(input_mtok=Decimal(1), output_mtok=Decimal(1), long_context=(long,))
    short_, long_ = asked("x", max_tokens=1), asked("x" * 5000, max_tokens=1)

    assert bound(short_, "ollama", "m", m=tiered) == Decimal(len(short_.to_json()) + 1) / 1_000_000
    assert bound(long_, "ollama", "m", m=tiered) == Decimal(len(long_.to_json()) + 1) * 9 / 1_000_000


def test_a_service_tier_that_is_asked_for_is_bounded_and_the_standard_one_too() -> None:
    tiers = {"priority": TieredPrice(input_mtok=Decimal(0), output_mtok=Decimal(4))}
    cheap = {"flex": TieredPrice(input_mtok=Decimal(0), output_mtok=Decimal(1))}

    def said(tier: str, price_list: Price) -> Decimal | None:
        request = asked(max_tokens=1_000_000, provider_options={"openai": {"service_tier": tier}})
        return bound(request, "openai", "m", m=price_list)

    assert said("priority", own(input_mtok="0", service_tiers=tiers)) == Decimal(4)
    assert said("flex", own(input_mtok="0", service_tiers=cheap)) == Decimal(2)
    assert said("auto", own(input_mtok="0", service_tiers=tiers)) == Decimal(2)
    assert said("scale", own(input_mtok="0", service_tiers=tiers)) is None


def test_the_surcharge_of_a_region_that_is_asked_for_is_bounded() -> None:
    plain = asked(max_tokens=1000, provider_options={"anthropic": {"service_tier": "standard_only"}})
    in_us = asked(max_tokens=1000, provider_options={"anthropic": {"inference_geo": "us", "speed": "fast"}})

    # claude-opus-5-5: an hour's cache write at 8, output at 20; fast twice that, in the US 1.1 times that
    standard = (len(plain.to_json()) * Decimal(8) + 1000 * Decimal(20)) / 1_000_000
    surcharged = (len(in_us.to_json()) * Decimal(16) + 1000 * Decimal(40)) * Decimal("1.1") / 1_000_000
    assert bound(plain, "anthropic", "claude-opus-5-5") == standard
    assert bound(in_us, "anthropic", "claude-opus-5-5") == surcharged


def test_googles_long_name_of_a_tier_is_understood() -> None:
    tiers = {"priority": TieredPrice(input_mtok=Decimal(0), output_mtok=Decimal(4))}
    request = asked(max_tokens=1_000_000, provider_options={"google": {"serviceTier": "SERVICE_TIER_PRIORITY"}})

    assert bound(request, "google", "m", m=own(input_mtok="0", service_tiers=tiers)) == Decimal(4)


def test_what_has_no_price_has_no_bound() -> None:
    assert bound(asked(), "ollama", "llama3") is None
    assert bound(asked(), "openai", "no-such-model") is None
    assert bound(asked(), "openai", "text-embedding-3-small") is None


TEXTS = st.lists(st.text(max_size=200), min_size=1, max_size=4)


@settings(deadline=None)
@given(texts=TEXTS, said=st.integers(0, 500), read=st.integers(0, 500), write=st.integers(0, 500))
def test_no_bill_exceeds_the_bound(texts: list[str], said: int, read: int, write: int) -> None:
    request = CompletionRequest.model_validate(
        {
            "id": "r",
            "tenant": "t",
            "agent": "a",
            "model": "m",
            "max_tokens": 500,
            "messages": [{"role": "user", "content": text} for text in texts],
        }
    )
    question = CountTokens(model="gpt-4o", messages=request.messages)
    given_tokens = max(
        openai_tokens.count(question, model="gpt-4o").input_tokens, token_estimates.estimate_input(request)
    )
    usage = Usage(
        input_tokens=given_tokens,
        output_tokens=said,
        cache_read_tokens=read,
        cache_write_tokens=write,
        cache_write_1h_tokens=write // 2,
        reasoning_tokens=said // 2,
    )
    for provider, model in (("openai", "gpt-4o"), ("anthropic", "claude-haiku-5-5"), ("google", "gemini-2.5-pro")):
        most = bound(request, provider, model)
        cost = price(usage, provider=provider, model=model, at=NOW, overrides={}).amount
        assert most is not None
        assert cost is not None
        assert cost <= most


@pytest.mark.parametrize(
    ("provider", "model", "most"),
    [
        ("openai", "gpt-4", 8_192),
        ("openai", "gpt-4o-mini", 16_384),
        ("openai", "openai/gpt-4.1", 32_768),
        ("azure", "o3", 100_000),
        ("openai", "gpt-9-of-next-year", 128_000),
        ("openai", "llama-on-some-gateway", 128_000),
        ("anthropic", "claude-3-opus-latest", 4_096),
        ("anthropic", "claude-opus-5", 128_000),
        ("google", "gemini-2.5-pro", 65_536),
    ],
)
def test_a_models_longest_output_is_told_by_its_name(provider: str, model: str, most: int) -> None:
    assert models_of(provider).max_output_tokens(model) == most
