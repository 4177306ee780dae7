"""What `fleet usage report` shows."""

import re
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any

import pytest
from rich.console import Console

from fleet.operator.usage_report import render

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


LONG_NAME = "meta-llama/Llama-4-Maverick-17B-128E-FP8"
FEW = {
    "prompt_tokens": 1_234_567,
    "completion_tokens": 345_678,
    "cache_read_tokens": 901_234,
    "reasoning_tokens": 56_789,
    "total_cost": "12.3456789",
    "unpriced_count": 0,
    "request_count": 1_234,
    "error_count": 12,
}
MANY = {
    "prompt_tokens": 123_456_789_012,
    "completion_tokens": 9_876_543_210,
    "cache_read_tokens": 23_456_789_013,
    "reasoning_tokens": 1_234_567_891,
    "total_cost": "123456.78901234",
    "unpriced_count": 98_765,
    "request_count": 12_345_678,
    "error_count": 234_567,
}
SPARED = ("cache_read_tokens", "reasoning_tokens")
"""A narrow table may go without them."""


def shown(
    items: list[dict[str, Any]], *group_by: str, totals: dict[str, Any] | None = None, width: int = 200
) -> list[str]:
    console = Console(width=width, file=StringIO())
    with console.capture() as printed:
        console.print(render({"items": items, "totals": totals or EMPTY}, group_by=group_by))
    return printed.get().splitlines()


def words(lines: list[str]) -> set[str]:
    """What stands between lines and spaces."""
    return {word for line in lines for word in re.split(r"[\s│┃┡╇┩━─]+", line)}


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


@pytest.mark.parametrize("width", [30, 60, 80, 120])
@pytest.mark.parametrize("sums", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("group_by", [("day",), ("hour", "tenant"), ("day", "model", "agent")])
def test_no_day_and_no_amount_is_cut_however_narrow_it_is(
    group_by: tuple[str, ...], sums: dict[str, Any], width: int
) -> None:
    names = {"date": "2026-11-20", "hour": "2026-11-20T13:00Z", "model": LONG_NAME, "agent": "planner-1"}
    items = [EMPTY | sums | names | {"tenant": tenant} for tenant in ("acme", "b")]

    lines = shown(items, *group_by, totals=sums, width=width)

    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    amounts = {f"{value:,}" if isinstance(value, int) else value for key, value in sums.items() if key not in SPARED}
    assert amounts - {"0"} <= words(lines)
    assert names["hour" if group_by[0] == "hour" else "date"] in words(lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_long_name_goes_over_lines_and_loses_nothing(width: int) -> None:
    lines = shown([EMPTY | FEW | {"date": "2026-11-20", "model": LONG_NAME}], "day", "model", totals=FEW, width=width)

    table = [line.split("│") for line in lines if line.startswith("│")]
    column = [row[2].strip() for row in table] if table else lines
    assert LONG_NAME in "".join(column)


def test_a_wide_report_has_every_column_and_a_narrow_one_those_that_matter() -> None:
    items = [EMPTY | FEW | {"date": "2026-11-20"}]
    wide, narrow = (words(shown(items, "day", totals=FEW, width=width)) for width in (200, 80))
    assert {"cached", "reasoning", "901,234", "56,789", "unpriced"} <= wide
    assert not {"cached", "reasoning"} & narrow
    assert {"requests", "errors", "out", "USD", "1,234"} <= narrow


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_without_unicode_gets_a_chart_too(encoding: str) -> None:
    out = TextIOWrapper(BytesIO(), encoding=encoding)
    Console(file=out, width=80).print(
        render({"items": [EMPTY | FEW | {"date": "2026-11-20"}], "totals": FEW}, group_by=["day"])
    )
    out.flush()
    assert isinstance(out.buffer, BytesIO)
    assert ("#" * 40 if encoding == "ascii" else "█" * 40) in out.buffer.getvalue().decode(encoding)
