"""Which of two values of a tenant is in force: the operator's, or the tenant's lower one."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from admin_api.publishing.worker_config import LOWERABLE, in_force


@pytest.mark.parametrize(
    ("name", "operators", "lowered", "holds"),
    [
        ("requests_per_day", 10, 3, 3),
        ("requests_per_day", 10, 10, 10),
        ("requests_per_day", 10, 30, 10),
        ("requests_per_day", 10, None, 10),
        ("requests_per_day", 0, 30, 30),
        ("requests_per_day", None, 30, None),
        ("tokens_per_day", None, 30, 30),
        ("daily_budget_usd", Decimal("1.5"), "0.25", Decimal("0.25")),
        ("daily_budget_usd", Decimal("1.5"), "2", Decimal("1.5")),
        ("daily_budget_usd", None, "2", Decimal(2)),
        ("daily_budget_usd", Decimal(0), "2", Decimal(2)),
    ],
)
def test_the_lower_one_holds_where_the_operator_lets_it(name: str, operators: Any, lowered: Any, holds: Any) -> None:
    values = dict.fromkeys(LOWERABLE) | {name: operators}
    own = {} if lowered is None else {name: lowered}

    assert in_force(SimpleNamespace(**values, may_lower=True, lowered=own), name) == holds
    assert in_force(SimpleNamespace(**values, may_lower=False, lowered=own), name) == operators
