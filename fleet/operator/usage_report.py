"""What was used and what it cost, as a table and a chart: `GET /api/v1/usage` for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.text import Text

from fleet.admin_client import AdminApi
from fleet.terminal.foreign_text import in_one_line
from fleet.terminal.tables import Column, Table, name, number

_COUNTS = {
    "request_count": number("requests", short="reqs"),
    "error_count": number("errors", short="errs"),
    "prompt_tokens": number("tokens in"),
    "cache_read_tokens": number("cached", spared=True),
    "completion_tokens": number("out"),
    "reasoning_tokens": number("reasoning", spared=True),
}
_TIMES = ("date", "hour")
_LONGEST_BAR = 50
_SHORTEST_BAR = 10


def fetch(admin: AdminApi, query: Mapping[str, str]) -> dict[str, Any]:
    """`items` of all pages, and `totals`, as GET /api/v1/usage answers to `query`. Raises AdminRefused."""
    asked, items = dict(query), list[dict[str, Any]]()
    while True:
        page = admin.get(f"usage?{urlencode(asked)}")
        items += page["items"]
        if page["next"] is None:
            return {"items": items, "totals": page["totals"]}
        asked["cursor"] = page["next"]


def render(usage: Mapping[str, Any], *, group_by: Sequence[str]) -> Group:
    """What `fetch` found as a table with totals, and a chart below it."""
    groups = ["date" if group == "day" else group for group in group_by]
    unpriced = number("unpriced", spared=not usage["totals"]["unpriced_count"])
    columns = [*(Column(group) if group in _TIMES else name(group) for group in groups), *_COUNTS.values()]
    rows = [[*(item[group] for group in groups), *_cells(item)] for item in usage["items"]]
    totals = ["total", *("" for _ in groups[1:]), *_cells(usage["totals"])]
    table = Table([*columns, number("USD"), unpriced], rows, totals=totals)
    # The chart shows what each row cost, or its requests when nothing has a price.
    costs = [float(Decimal(item["total_cost"] or 0)) for item in usage["items"]]
    values = costs if any(costs) else [float(item["request_count"]) for item in usage["items"]]
    words = "{:,.2f} USD" if any(costs) else "{:,.0f}"
    labels = [in_one_line(" ".join(item[group] for group in groups)) for item in usage["items"]]
    bars = [(label, value, words.format(value)) for label, value in zip(labels, values, strict=True)]
    return Group(table, "", _Chart(bars))


def _cells(sums: Mapping[str, Any]) -> list[str]:
    unpriced = f"{sums['unpriced_count']:,}" if sums["unpriced_count"] else ""
    return [*(f"{sums[name]:,}" for name in _COUNTS), sums["total_cost"] or "unpriced", unpriced]


@dataclass(frozen=True, slots=True)
class _Chart:
    """A bar for each row, which holds a label, a value and that value in words. Without room for bars it is empty."""

    rows: Sequence[tuple[str, float, str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.rows:
            return
        labels, values = max(cell_len(row[0]) for row in self.rows), [value for _, value, _ in self.rows]
        room = options.max_width - labels - max(len(words) for _, _, words in self.rows) - 2
        if room < _SHORTEST_BAR:
            return
        longest = min(room, _LONGEST_BAR)
        block = "#" if options.ascii_only else "█"
        for label, value, words in self.rows:
            bar = block * round(longest * value / max(*values, 1e-12))
            yield Text(f"{label}{' ' * (labels - cell_len(label))} {bar} {words}")
