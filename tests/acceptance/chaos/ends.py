"""When processes ended in a trial, and what nobody can know of because of it."""

import math
from dataclasses import dataclass, field
from time import time

_LATE_S = 5.0
"""What a vendor's last words take through the proxy and into the books, on a busy machine."""


@dataclass(slots=True)
class Ends:
    """Of processes; in seconds since the epoch."""

    broker_back_at: float = 0.0
    """When NATS and its streams were there again after a kill -9."""
    of_workers: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """By vendor."""
    broker_away: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """From when to when NATS was stopped and answered nobody."""

    def note(self, role: str) -> None:
        if role.startswith("worker-"):
            self.of_workers.setdefault(role.removeprefix("worker-"), []).append(time())

    def forgot(self, vendor: str, begun: float, ended: float | None) -> bool:
        """Whether of a call that went on from `begun` to `ended` perhaps nobody knows.

        Its worker died and then NATS, or it died while NATS heard nothing.
        """
        last = (ended or math.inf) + _LATE_S
        deaths = [at for at in self.of_workers.get(vendor, ()) if begun <= at]
        if any(at <= last for at in deaths) and begun < self.broker_back_at:
            return True
        return any(since <= at <= until and since <= last for at in deaths for since, until in self.broker_away)
