"""What was used and what it cost, as a table and a chart: `GET /api/v1/usage` for the terminal."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from rich.bar import Bar
from rich.console import Group
from rich.table import Table

from fleet.admin_client import AdminApi

_COUNTS = {
    "request_count": "requests",
    "error_count": "errors",
    "prompt_tokens": "tokens in",
    "cache_read_tokens": "cached",
    "completion_tokens": "out",
    "reasoning_tokens": "reasoning",
}
_BAR_WIDTH = 50


def fetch(admin: AdminApi, query: Mapping[str, str]) -> dict[str, Any]:
    """Every page in one: `items` and `totals`. Raises AdminRefused."""
    asked, items = dict(query), list[dict[str, Any]]()
    while True:
        page = admin.get(f"usage?{urlencode(asked)}")
        items += page["items"]
        if page["next"] is None:
            return {"items": items, "totals": page["totals"]}
        asked["cursor"] = page["next"]


def render(usage: Mapping[str, Any], *, group_by: Sequence[str]) -> Group:
    groups = ["date" if group == "day" else group for group in group_by]
    return Group(_table(usage, groups), "", _chart(usage["items"], groups))


def _table(usage: Mapping[str, Any], groups: Sequence[str]) -> Table:
    table = Table(*groups, *_COUNTS.values(), "USD", "unpriced", show_footer=True)
    for column in table.columns[len(groups) :]:
        column.justify = "right"
    for item in usage["items"]:
        table.add_row(*(item[group] for group in groups), *_cells(item))
    table.columns[0].footer = "total"
    for column, cell in zip(table.columns[len(groups) :], _cells(usage["totals"]), strict=True):
        column.footer = cell
    return table


def _cells(sums: Mapping[str, Any]) -> list[str]:
    unpriced = f"{sums['unpriced_count']:,}" if sums["unpriced_count"] else ""
    return [*(f"{sums[name]:,}" for name in _COUNTS), sums["total_cost"] or "unpriced", unpriced]


def _chart(items: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> Table:
    """A bar for each row: its cost, or its requests when nothing has a price."""
    costs = [float(Decimal(item["total_cost"] or 0)) for item in items]
    values = costs if any(costs) else [float(item["request_count"]) for item in items]
    chart = Table.grid(padding=(0, 1))
    for item, value in zip(items, values, strict=True):
        bar = Bar(max(values), 0, value, width=_BAR_WIDTH)
        chart.add_row(
            " ".join(item[group] for group in groups), bar, f"{value:,.2f} USD" if any(costs) else f"{value:,.0f}"
        )
    return chart
