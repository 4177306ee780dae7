"""How much of the results' stream each tenant may have."""

import pytest

from runtime.jetstream.results_guard import fair_share


@pytest.mark.parametrize(
    ("totals", "share"),
    [
        ([], float("inf")),
        ([100], float("inf")),
        ([101], 100),
        ([30, 70], float("inf")),
        ([1000, 30], 70),
        ([10, 20, 1000, 1000], 35),
        ([1000] * 4, 25),
    ],
)
def test_who_has_less_loses_nothing_and_the_others_have_the_same(totals: list[int], share: float) -> None:
    assert fair_share(100, totals) == share
