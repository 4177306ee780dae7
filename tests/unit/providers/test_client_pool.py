"""One client for each endpoint, key and tenant."""

import asyncio

from workers.providers.shared.http.client_pool import ClientPool


class Client:
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def close(self) -> None:
        self.closed.set()


def pool(*, unused_s: float = 60.0) -> ClientPool[Client]:
    def make(base_url: str, key: str, tenant: str) -> Client:
        return Client()

    return ClientPool(make, unused_s=unused_s)


async def test_a_client_is_made_once_for_each_endpoint_key_and_tenant() -> None:
    clients = pool()
    async with clients.client("u", "k", "t") as a, clients.client("u", "k", "t") as b:
        assert a is b
        async with clients.client("u", "other", "t") as c, clients.client("u", "k", "other") as d:
            assert len({id(client) for client in (a, c, d)}) == 3
    async with clients.client("u", "k", "t") as again:
        assert a is again
    await clients.aclose()


async def test_a_client_that_nobody_needs_any_more_is_closed_without_being_asked() -> None:
    clients = pool(unused_s=0)
    async with clients.client("u", "new", "t") as new:
        async with clients.client("u", "old", "t") as old:
            pass
        await asyncio.wait_for(old.closed.wait(), 5)
        assert not new.closed.is_set()
        assert len(clients) == 1
    await clients.aclose()


async def test_a_client_in_use_stays_open_until_its_last_user_leaves() -> None:
    clients = pool(unused_s=0)
    async with clients.client("u", "k", "t") as client:
        async with clients.client("u", "k", "t"):
            pass
        async with clients.client("u", "other", "t") as other:
            pass
        await asyncio.wait_for(other.closed.wait(), 5)
        assert not client.closed.is_set()
    await asyncio.wait_for(client.closed.wait(), 5)
    assert len(clients) == 0


async def test_all_are_closed_in_the_end() -> None:
    clients = pool()
    async with clients.client("u", "unused", "t") as unused:
        pass
    async with clients.client("u", "used", "t") as used:
        await clients.aclose()
    assert unused.closed.is_set()
    assert used.closed.is_set()
    assert len(clients) == 0
