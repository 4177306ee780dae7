"""The pools of a fleet as a table, from what `GET /api/v1/fleet` says."""

from typing import Any

from rich.table import Table

from contracts.subjects import AUTO


def render(state: dict[str, Any]) -> Table:
    table = Table("pool", "workers", "in flight", "waiting", "at workers", "redelivered", title="The fleet")
    for column in table.columns[1:]:
        column.justify = "right"
    for provider in dict.fromkeys(queue["provider"] for queue in state["queues"]):
        queues = [queue for queue in state["queues"] if queue["provider"] == provider]
        # Every worker resolves what was sent to `auto`, beside its own requests.
        workers = [w for w in state["workers"] if provider in (*w["providers"], AUTO)]
        in_flight = "" if provider == AUTO else str(sum(worker["in_flight"] for worker in workers))
        table.add_row(
            provider,
            str(len(workers)),
            in_flight,
            *(str(sum(queue[field] for queue in queues)) for field in ("waiting", "delivered", "redelivered")),
        )
    return table
