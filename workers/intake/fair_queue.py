"""Round robin over tenants of what was pulled and waits for a slot."""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out for each tenant; one of each tenant in turn."""

    def __init__(self) -> None:
        self._by_tenant: OrderedDict[str, deque[T]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, tenant: str, item: T) -> None:
        self._by_tenant.setdefault(tenant, deque()).append(item)
        self._size += 1

    def get(self) -> T:
        """The next item. Raises IndexError when empty."""
        if not self._size:
            raise IndexError("the queue is empty")
        tenant, items = next(iter(self._by_tenant.items()))
        item = items.popleft()
        self._size -= 1
        if items:
            self._by_tenant.move_to_end(tenant)
        else:
            del self._by_tenant[tenant]
        return item

    def drain(self) -> list[T]:
        """Everything that waits; the queue is empty afterwards."""
        items = [item for waiting in self._by_tenant.values() for item in waiting]
        self._by_tenant.clear()
        self._size = 0
        return items
