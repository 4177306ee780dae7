"""The pools of a fleet as a table, from what `GET /api/v1/fleet` says."""

from typing import Any

from contracts.subjects import AUTO
from fleet.terminal.tables import Table, name, number

_QUEUED = ("waiting", "delivered", "redelivered")


def render(state: dict[str, Any]) -> Table:
    """One row a pool: its workers, and how many requests it has in flight, waiting and delivered again."""
    columns = (name("pool"), *map(number, ("workers", "in flight", "waiting", "at workers", "redelivered")))
    rows: list[list[str]] = []
    for provider in dict.fromkeys(queue["provider"] for queue in state["queues"]):
        queues = [queue for queue in state["queues"] if queue["provider"] == provider]
        # Every worker resolves what was sent to `auto`, beside its own requests.
        workers = [w for w in state["workers"] if provider in (*w["providers"], AUTO)]
        in_flight = "" if provider == AUTO else str(sum(worker["in_flight"] for worker in workers))
        waiting = (str(sum(queue[field] for queue in queues)) for field in _QUEUED)
        # A worker that drains finishes what it has and takes nothing new.
        draining = sum(worker["draining"] for worker in workers)
        count = f"{len(workers)} ({draining} draining)" if draining else str(len(workers))
        rows.append([provider, count, in_flight, *waiting])
    return Table(columns, rows, title="The fleet")
