"""Round robin over tenants."""

import pytest

from workers.intake.fair_queue import FairQueue


def test_takes_one_of_each_tenant_in_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.put(item[0], item)

    assert [queue.get() for _ in range(6)] == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_newcomer_waits_for_one_round_only() -> None:
    queue: FairQueue[str] = FairQueue()
    for n in range(100):
        queue.put("flood", f"f{n}")
    queue.get()
    queue.put("quiet", "q")

    assert "q" in [queue.get(), queue.get()]


def test_draining_empties_it() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("a", "a1")
    queue.put("b", "b1")

    assert sorted(queue.drain()) == ["a1", "b1"]
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.get()
