"""What `fleet usage report` shows."""

from io import StringIO
from typing import Any

from rich.console import Console

from fleet.usage_report import render

EMPTY = {
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "cache_read_tokens": 0,
    "reasoning_tokens": 0,
    "total_cost": "0",
    "unpriced_count": 0,
    "request_count": 0,
    "error_count": 0,
}


def shown(items: list[dict[str, Any]], *group_by: str, totals: dict[str, Any] | None = None) -> list[str]:
    console = Console(width=200, file=StringIO())
    with console.capture() as printed:
        console.print(render({"items": items, "totals": totals or EMPTY}, group_by=group_by))
    return printed.get().splitlines()


def bars(lines: list[str]) -> list[int]:
    """How many full blocks each line of the chart has."""
    return [line.count("█") for line in lines if "┃" not in line and "│" not in line and " 2026-" in f" {line}"]


def test_a_row_for_each_group_and_a_bar_as_long_as_its_cost() -> None:
    items = [
        EMPTY | {"date": "2026-11-20", "model": "large", "total_cost": "4", "request_count": 1234},
        EMPTY | {"date": "2026-11-21", "model": "small", "total_cost": "2", "request_count": 1},
    ]

    lines = shown(items, "day", "model", totals=EMPTY | {"total_cost": "6"})

    assert any("2026-11-20" in line and "large" in line and "1,234" in line for line in lines)
    assert any("total" in line and " 6 " in line for line in lines)
    longer, shorter = bars(lines)
    assert longer == 2 * shorter > 0


def test_what_has_no_price_is_called_so_and_drawn_by_its_requests() -> None:
    unpriced = {"total_cost": None, "unpriced_count": 3, "request_count": 3}
    items = [EMPTY | unpriced | {"date": "2026-11-20"}]

    lines = shown(items, "day", totals=EMPTY | unpriced)

    assert sum("unpriced" in line for line in lines) == 3
    assert bars(lines)[0] > 0


def test_nothing_used_is_an_empty_table() -> None:
    assert any("total" in line for line in shown([], "day"))
