"""How much a pool asks for, and which of its two queues is served next: pure decisions of the intake."""

import math
from dataclasses import dataclass, field

from contracts.subjects import Priority

_PREFETCH_PART = 4
_BACKGROUND_PART = 10


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a worker has room for in one pool."""

    slots: int
    """Requests that run at the same time."""
    prefetch: int = field(init=False)
    """Requests of one priority that may wait here for a slot, so that a slot that becomes free is filled at once."""
    background_share: int = field(init=False)
    """Slots that background requests have even while interactive ones wait."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefetch", max(2, math.ceil(self.slots / _PREFETCH_PART)))
        object.__setattr__(self, "background_share", max(1, self.slots // _BACKGROUND_PART))

    def to_ask(self, *, running: int, parked: int, asked: int) -> int:
        """For how many more requests of a priority to ask; 0: there is no room, or too little to be worth a message.

        `running` are those of both priorities; `parked` and `asked`, which was asked for and has not come, are those
        of this one.
        """
        room = max(0, self.slots - running) + self.prefetch - parked - asked
        return 0 if room <= 0 or (asked and room < self.prefetch) else room

    def next(self, *, interactive: int, background: int, background_running: int) -> Priority | None:
        """Which of the parked requests a free slot goes to; None: nothing is parked.

        Interactive ones go first, except where background has less than its share.
        """
        if background and (not interactive or background_running < self.background_share):
            return Priority.BACKGROUND
        return Priority.INTERACTIVE if interactive else None
