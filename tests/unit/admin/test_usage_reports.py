"""What a report of usage is asked for, and by whom."""

from datetime import date, timedelta

import pytest

from admin_api.access.principals import Principal, Role
from admin_api.http.problems import Problem
from admin_api.operations.usage_reports import GroupBy, UsageFilter, asked_by, days, harmless

ADMIN = Principal("a", Role.ADMIN)
VIEWER = Principal("v", Role.VIEWER, "acme")
DAY = date(2026, 11, 23)


def test_a_question_is_narrowed_to_what_its_caller_sees() -> None:
    wanted = UsageFilter(model="gpt-4o")

    assert asked_by(VIEWER, wanted, group_by="day", first=DAY, last=DAY).only == UsageFilter("acme", model="gpt-4o")
    assert asked_by(ADMIN, wanted, group_by="day", first=DAY, last=DAY).only == wanted


def test_another_tenant_is_refused_before_anything_else() -> None:
    with pytest.raises(Problem) as caught:
        asked_by(VIEWER, UsageFilter("globex"), group_by="nothing", first=DAY, last=DAY - timedelta(days=1))

    assert caught.value.status == 403


def test_groups_are_separated_by_commas_and_named_once() -> None:
    question = asked_by(ADMIN, UsageFilter(), group_by="model, day,model", first=DAY, last=DAY)

    assert question.group_by == [GroupBy.MODEL, GroupBy.DAY]


@pytest.mark.parametrize("group_by", ["", "week", "day,,model"])
def test_refuses_groups_that_there_are_not(group_by: str) -> None:
    with pytest.raises(Problem) as caught:
        asked_by(ADMIN, UsageFilter(), group_by=group_by, first=DAY, last=DAY)

    assert caught.value.status == 422


def test_the_last_30_days_unless_more_is_said() -> None:
    month = days(None, DAY)

    assert (month.first, month.last) == (DAY - timedelta(days=29), DAY)
    assert days(date(2020, 1, 1), None).first == date(2020, 1, 1)


@pytest.mark.parametrize(("first", "last"), [(DAY, DAY - timedelta(days=1)), (date(2000, 1, 1), DAY)])
def test_a_period_has_an_order_and_a_bound(first: date, last: date) -> None:
    with pytest.raises(Problem) as caught:
        days(first, last)

    assert caught.value.status == 422


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_cell_is_a_formula(cell: str) -> None:
    assert harmless(cell) == f"'{cell}"
    assert harmless(f"x{cell}") == f"x{cell}"
