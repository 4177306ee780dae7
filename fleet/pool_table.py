"""The pools of a fleet as a table, from what `GET /api/v1/fleet` says."""

from typing import Any

from rich.table import Table


def render(state: dict[str, Any]) -> Table:
    table = Table("pool", "workers", "in flight", "waiting", "at workers", "redelivered", title="The fleet")
    for column in table.columns[1:]:
        column.justify = "right"
    for provider in dict.fromkeys(queue["provider"] for queue in state["queues"]):
        queues = [queue for queue in state["queues"] if queue["provider"] == provider]
        workers = [worker for worker in state["workers"] if provider in worker["providers"]]
        table.add_row(
            provider,
            str(len(workers)),
            str(sum(worker["in_flight"] for worker in workers)),
            *(str(sum(queue[field] for queue in queues)) for field in ("waiting", "delivered", "redelivered")),
        )
    return table
