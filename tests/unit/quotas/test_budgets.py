"""What may be kept of a budget, and how long an answer that affords."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.budget import UNITS_PER_USD
from contracts.providers import BudgetStart, Price, PublishedTenant
from contracts.requests import CompletionRequest
from tests.driven_clock import NOON
from workers.quotas.budgets import limit_of, share, window_of
from workers.quotas.cost_bounds import (
    LEAST_OUTPUT_TOKENS,
    Ask,
    BudgetedCall,
    affordable_tokens,
    units,
    what_it_needs,
)

A_USD_A_TOKEN = {"mock/echo": Price(input_mtok=Decimal(0), output_mtok=Decimal(1_000_000))}


def call(**fields: Any) -> BudgetedCall:
    usual = {
        "id": "r",
        "tenant": "t",
        "agent": "a",
        "model": "mock/echo",
        "messages": [{"role": "user", "content": "x"}],
    }
    request = CompletionRequest.model_validate(usual | fields)
    return BudgetedCall(request, provider="mock", model="echo", at=NOON, deadline=NOON)


def tenant(**fields: Any) -> PublishedTenant:
    return PublishedTenant(slug="t", **fields)


@pytest.mark.parametrize(
    ("whole", "least", "total", "most", "kept"),
    [
        (10, 10, 100, 100, 10),
        (10, 10, 101, 100, 0),
        (10, 4, 101, 100, 9),
        (10, 4, 106, 100, 4),
        (10, 4, 107, 100, 0),
        (10, 4, 500, 100, 0),
        (10, 1, 5, -3, 2),
    ],
)
def test_keeps_what_is_left_if_that_is_enough(whole: int, least: int, total: int, most: int, kept: int) -> None:
    assert share(Ask(whole, least), total=total, most=most) == kept


@given(whole=st.integers(1, 1000), least=st.integers(1, 1000), before=st.integers(0, 2000), most=st.integers(0, 2000))
def test_never_keeps_more_than_is_left(whole: int, least: int, before: int, most: int) -> None:
    kept = share(Ask(whole, min(least, whole)), total=before + whole, most=most)

    assert kept == 0 or before + kept <= most
    assert kept == 0 or min(least, whole) <= kept <= whole


def test_a_request_that_says_its_length_needs_all_of_it() -> None:
    assert what_it_needs(call(max_tokens=7), prices=A_USD_A_TOKEN) == Ask(7 * UNITS_PER_USD, 7 * UNITS_PER_USD)


def test_a_request_that_says_no_length_can_do_with_a_short_answer() -> None:
    ask = what_it_needs(call(), prices=A_USD_A_TOKEN)

    assert ask is not None
    assert ask.least == LEAST_OUTPUT_TOKENS * UNITS_PER_USD < ask.whole


def test_what_has_no_price_needs_nothing_that_is_known() -> None:
    assert what_it_needs(call(), prices={}) is None


@given(left=st.integers(LEAST_OUTPUT_TOKENS, 200_000))
def test_an_answer_is_as_long_as_what_is_left_affords(left: int) -> None:
    kept = left * UNITS_PER_USD + UNITS_PER_USD // 2

    assert affordable_tokens(kept, call(), prices=A_USD_A_TOKEN) == left


def test_units_are_never_less_than_the_amount() -> None:
    assert units(Decimal("0.00000000001")) == 1
    assert units(Decimal("1.25")) == 12_500_000_000


def test_a_budget_that_began_today_has_its_own_counter_and_less_to_spend() -> None:
    began = tenant(
        daily_budget_usd=Decimal(10),
        budget_start=BudgetStart(day=date(2026, 11, 23), spent_usd=Decimal("2.5"), revision=7),
    )
    tomorrow = datetime(2026, 11, 24, tzinfo=UTC)

    assert (window_of(began, NOON), limit_of(began, NOON)) == ("20261123-7", units(Decimal("7.5")))
    assert (window_of(began, tomorrow), limit_of(began, tomorrow)) == ("20261124", units(Decimal(10)))
    assert window_of(tenant(daily_budget_usd=Decimal(10)), NOON) == "20261123"
