"""How much a pool asks for, how its slots are divided, and which of its two queues is served next: pure decisions."""

import math
from dataclasses import dataclass, field

from contracts.subjects import Priority
from workers.intake.shares import Shares

_PREFETCH_PART = 4
_BACKGROUND_PART = 10
_OF_FREE = 7
"""One tenant alone has seven slots of eight at most, so that another one, or a few, start at once whatever it does;
with two that take all they can, one slot of fifteen is free, with ten one of seventy-one."""
_SMALLEST_DIVIDED = 8
"""Of fewer slots, one that is kept free would be too many."""
_FARTHEST_LOOK = 2048
"""Messages. To look at one that is put off takes 0.1 ms; an answer of a server that is being flooded, half a second."""


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

    def shares(self) -> Shares:
        """The slots, divided among those who ask."""
        of_tenant = _OF_FREE if self.slots >= _SMALLEST_DIVIDED else None
        return Shares(self.slots, of_tenant=of_tenant, of_agent=_OF_FREE)

    def to_ask(self, *, running: int, parked: int, look: int) -> int:
        """For how many requests of a priority to ask, when all that was asked for before has come.

        `running` are those of both priorities; `parked` are those of this one. `look` are asked for also when there is
        no room: one of them may be of a tenant or an agent that has nothing here yet, and then those who have the most
        make room for it.
        """
        return max(look, self.slots - running + self.prefetch - parked)

    def next_look(self, look: int, *, put_off: bool) -> int:
        """How far to look next; `put_off`: there was no room for some of what came for the `look` before.

        A flood is looked through in ever longer steps, because each of them is an answer of the server to wait for.
        """
        return min(2 * look, _FARTHEST_LOOK) if put_off else self.prefetch

    def to_park(self, *, running: int) -> int:
        """How many requests of a priority may wait here when so many of both run."""
        return self.prefetch + max(0, self.slots - running)

    def order(self, *, running: int, preparing: int) -> tuple[Priority, Priority]:
        """Which priority a free slot goes to, and which one when nothing of that one may start.

        Interactive requests go first, except where background has less than its share. Of background requests so many
        are `running`. While one of them is `preparing` the next place is an interactive one's: else background requests
        that end at once would have each place, and never their share of the slots.
        """
        if running < self.background_share and not preparing:
            return Priority.BACKGROUND, Priority.INTERACTIVE
        return Priority.INTERACTIVE, Priority.BACKGROUND
