"""Who gets a place for a question, and who is told that it is busy."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from workers.control.lane import Bound, Lane


class Asked:
    """A lane whose answers last until they are let go."""

    def __init__(self, *, of_tenant: Bound, of_all: Bound) -> None:
        self.lane = Lane(of_tenant=of_tenant, of_all=of_all)
        self.begun: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    def ask(self, tenant: str, count: int = 1, *, size: int = 1) -> int:
        """How many of so many questions are taken."""
        return sum(self.lane.take(tenant, lambda: self._answer(tenant), size=size) for _ in range(count))

    async def let_go(self, tenant: str) -> None:
        """Every question of the tenant that is being answered."""
        self._gates.pop(tenant, asyncio.Event()).set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _answer(self, tenant: str) -> None:
        self.begun.append(tenant)
        await self._gates.setdefault(tenant, asyncio.Event()).wait()


@pytest.fixture
async def asked() -> AsyncGenerator[Asked]:
    asked = Asked(of_tenant=Bound(places=2, waiting=3, size=100), of_all=Bound(places=4, waiting=8, size=250))
    yield asked
    await asked.lane.close()


async def test_a_tenant_has_so_many_places_and_so_many_that_wait(asked: Asked) -> None:
    assert asked.ask("mallory", 2000) == 5
    await asked.settle()

    assert asked.begun == ["mallory"] * 2
    assert asked.lane.held == 5


async def test_another_tenant_gets_a_place_at_once(asked: Asked) -> None:
    asked.ask("mallory", 2000)

    assert asked.ask("acme") == 1
    await asked.settle()

    assert asked.begun.count("acme") == 1


async def test_tenants_take_turns(asked: Asked) -> None:
    for tenant in ("a", "b"):
        asked.ask(tenant, 2)
    await asked.settle()
    asked.begun.clear()
    asked.ask("a", 3)
    asked.ask("c", 2)

    await asked.let_go("a")
    await asked.settle()

    assert asked.begun == ["a", "c"]


async def test_bytes_are_bounded_for_a_tenant_and_in_all(asked: Asked) -> None:
    assert asked.ask("mallory", 5, size=50) == 2
    assert asked.ask("trudy", 5, size=50) == 2
    assert asked.ask("acme", size=51) == 0
    assert asked.ask("acme", size=50) == 1
    assert asked.lane.held_bytes == 250


async def test_the_waiting_of_many_tenants_are_bounded_together(asked: Asked) -> None:
    taken = sum(asked.ask(f"mallory-{number}", 5) for number in range(100))

    assert taken == asked.lane.held == 4 + 8


async def test_what_was_answered_leaves_room(asked: Asked) -> None:
    asked.ask("mallory", 5, size=20)
    await asked.settle()
    for _ in range(3):
        await asked.let_go("mallory")

    assert asked.lane.held == asked.lane.held_bytes == 0
    assert asked.ask("mallory", 5, size=20) == 5


async def test_closing_ends_what_is_being_answered_and_drops_the_rest(asked: Asked) -> None:
    asked.ask("mallory", 5)
    await asked.settle()

    await asked.lane.close()

    assert asked.lane.held == 0
    assert len(asked.begun) == 2
