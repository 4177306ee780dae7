"""Idle connections: which one is used again, and when they are closed."""

import asyncio

import pytest

from workers.providers.shared.http.connection import Connection
from workers.providers.shared.http.pool import Destination, IdleConnections
from workers.providers.shared.http.request import Origin

HERE = Destination(Origin("https", "vendor.example", 443), "a")
THERE = Destination(Origin("https", "vendor.example", 443), "b")


class Idle(Connection):
    """A connection without a socket."""

    def __init__(self) -> None:
        self.is_closed = False
        self.has_received = False

    @property
    def is_quiet(self) -> bool:
        return not (self.is_closed or self.has_received)

    def close(self) -> None:
        self.is_closed = True


def closed(connections: list[Idle]) -> list[bool]:
    return [connection.is_closed for connection in connections]


async def test_the_connection_that_was_used_last_is_taken_first() -> None:
    pool, first, second = IdleConnections(), Idle(), Idle()
    pool.put(first, HERE)
    pool.put(second, HERE)
    assert [pool.take(THERE), pool.take(HERE), pool.take(HERE), pool.take(HERE)] == [None, second, first, None]
    pool.close()


async def test_a_connection_on_which_something_came_is_closed() -> None:
    pool, first, second = IdleConnections(), Idle(), Idle()
    pool.put(first, HERE)
    pool.put(second, HERE)
    second.has_received = True
    assert pool.take(HERE) is first
    assert (second.is_closed, len(pool)) == (True, 0)
    pool.close()


async def test_one_that_was_lost_is_forgotten() -> None:
    pool, first, second = IdleConnections(), Idle(), Idle()
    for connection in (first, second):
        pool.put(connection, HERE)
    pool.discard(first)
    pool.discard(first)
    assert [pool.take(HERE), pool.take(HERE)] == [second, None]
    pool.close()


@pytest.mark.parametrize(("most", "most_of_one"), [(100, 2), (2, 100)])
async def test_beyond_the_limits_the_one_that_is_idle_longest_is_closed(most: int, most_of_one: int) -> None:
    pool, connections = IdleConnections(most=most, most_of_one=most_of_one), [Idle() for _ in range(4)]
    for connection in connections:
        pool.put(connection, HERE)
    assert closed(connections) == [True, True, False, False]
    assert len(pool) == 2
    pool.close()
    assert all(closed(connections))


async def test_all_destinations_count_in_all() -> None:
    pool, here, there = IdleConnections(most=1), Idle(), Idle()
    pool.put(here, HERE)
    pool.put(there, THERE)
    assert (here.is_closed, pool.take(HERE), pool.take(THERE)) == (True, None, there)
    pool.close()


async def test_what_was_idle_for_long_is_closed() -> None:
    """One that is put there while others wait for their end has its own time."""
    pool, connections = IdleConnections(idle_s=0.01), [Idle() for _ in range(3)]
    for connection in connections:
        pool.put(connection, HERE)
        await asyncio.sleep(0)
    while not all(closed(connections)):
        await asyncio.sleep(0.001)
    assert len(pool) == 0
    later = Idle()
    pool.put(later, HERE)
    while not later.is_closed:
        await asyncio.sleep(0.001)
    pool.close()
