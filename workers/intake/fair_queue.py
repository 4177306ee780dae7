"""What was pulled and waits for a slot: tenants take turns, and so do the agents of each tenant."""

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable
from operator import itemgetter
from typing import Generic, TypeVar

from workers.intake.asker import Asker

T = TypeVar("T")

_Waiting = list[tuple[int, T]]
"""The items of one agent and their places, the first one first."""


class FairQueue(Generic[T]):
    """One of each tenant in turn, of one of its agents in turn; the items of an agent in the order of their places."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, OrderedDict[str, _Waiting[T]]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, asker: Asker, item: T, *, place: int) -> None:
        agents = self._tenants.setdefault(asker.tenant, OrderedDict())
        insort(agents.setdefault(asker.agent, []), (place, item), key=itemgetter(0))
        self._size += 1

    def take(self, may_be: Callable[[T], bool], *, tenant_may: Callable[[str], bool] = lambda _: True) -> T | None:
        """The next item whose turn it is and that may be taken; None when there is none.

        `tenant_may`: whether anything of a tenant may be taken, so that not each of its agents is looked at in vain.
        """
        for tenant, agents in self._tenants.items():
            if not tenant_may(tenant):
                continue
            for agent, waiting in agents.items():
                if may_be(waiting[0][1]):
                    agents.move_to_end(agent)
                    self._tenants.move_to_end(tenant)
                    return self._remove(Asker(tenant, agent), 0)
        return None

    def take_from_longest(self) -> T:
        """The last item of whoever has the most, so that it is never the few who make room.

        That is the agent with the most items, of the tenant with the most. Raises ValueError when nothing waits.
        """
        tenant = max(reversed(self._tenants), key=lambda each: sum(map(len, self._tenants[each].values())))
        agents = self._tenants[tenant]
        agent = max(reversed(agents), key=lambda each: len(agents[each]))
        return self._remove(Asker(tenant, agent), -1)

    def drain(self) -> list[T]:
        """Everything that waits; the queue is empty afterwards."""
        items = [item for agents in self._tenants.values() for waiting in agents.values() for _, item in waiting]
        self._tenants.clear()
        self._size = 0
        return items

    def _remove(self, asker: Asker, index: int) -> T:
        agents = self._tenants[asker.tenant]
        waiting = agents[asker.agent]
        _, item = waiting.pop(index)
        self._size -= 1
        if not waiting:
            del agents[asker.agent]
        if not agents:
            del self._tenants[asker.tenant]
        return item
