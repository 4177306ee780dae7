"""When processes ended in a trial, and which calls may have got lost with them."""

from dataclasses import dataclass, field
from time import time

_LATE_S = 5.0
"""What a vendor's last words take through the proxy and into the books, on a busy machine."""
_UNCONFIRMED_S = 0.5
"""What was said to NATS so shortly before it was killed may not have been confirmed."""


@dataclass(slots=True)
class Ends:
    """Of processes; in seconds since the epoch."""

    are_of_several_nodes: bool = False
    """Whether NATS has more than one, of which one dies at a time."""
    broker_killed: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """From when to when NATS was gone after a kill -9, its streams included. Of several nodes: one of them."""
    of_workers: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """By vendor."""
    broker_away: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """From when to when NATS was killed, was stopped and answered nobody, or stored nothing for want of room."""

    def note(self, role: str) -> None:
        if role.startswith("worker-"):
            self.of_workers.setdefault(role.removeprefix("worker-"), []).append(time())

    def saw_broker_die(self, since: float, until: float) -> bool:
        """Whether NATS was killed, or gone after that, at any time between the two."""
        return any(killed <= until and back >= since for killed, back in self.broker_killed)

    def explain(self, vendor: str, begun: float, ended: float | None) -> str | None:
        """Why a call that went on from `begun` to `ended` may be in no book; None: nothing explains it.

        That it began is on disk before the vendor is asked, unless NATS did not answer at that time. And whoever made
        the call books it as soon as NATS is back, unless it died by then. So only both together explain it.
        """
        for since, until in self.broker_away:
            if not since - _UNCONFIRMED_S <= begun <= until:
                continue
            last = max(ended or until, until) + _LATE_S
            for at in self.of_workers.get(vendor, ()):
                if begun <= at <= last:
                    return (
                        f"it began {begun - since:.1f} s after NATS was gone, which was back {until - begun:.1f} s "
                        f"later, and a worker of {vendor} died {at - begun:.1f} s after it began"
                    )
        return None
