"""The table of `fleet status`."""

import re
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from fleet.operator import pool_table


def worker(*providers: str, in_flight: int = 0, draining: bool = False) -> dict[str, Any]:
    return {"providers": providers, "in_flight": in_flight, "draining": draining}


@pytest.mark.parametrize(
    ("workers", "shown"),
    [
        ([], ["mock", "0", "0", "3", "2", "1"]),
        ([worker("mock", in_flight=2), worker("openai", in_flight=9)], ["mock", "1", "2", "3", "2", "1"]),
        (
            [worker("mock", in_flight=2), worker("mock", in_flight=1, draining=True)],
            ["mock", "2 (1 draining)", "3", "3", "2", "1"],
        ),
    ],
)
def test_counts_the_workers_of_a_pool(workers: list[dict[str, Any]], shown: list[str]) -> None:
    queues = [
        {"provider": "mock", "priority": priority, "waiting": waiting, "delivered": 1, "redelivered": redelivered}
        for priority, waiting, redelivered in (("interactive", 1, 1), ("background", 2, 0))
    ]

    printed = StringIO()
    Console(width=120, file=printed).print(pool_table.render({"queues": queues, "workers": workers}))

    (row,) = [line for line in printed.getvalue().splitlines() if "mock" in line]
    assert re.split(r"\s*│\s*", row.strip("│┃ ")) == shown
