"""One client for each endpoint and key."""

from workers.providers.client_pool import UNUSED_S, ClientPool


class Client:
    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def pool(clock: Clock) -> ClientPool[Client]:
    def make(base_url: str, key: str) -> Client:
        return Client()

    return ClientPool(make, clock=clock)


async def test_a_client_is_made_once_for_each_endpoint_and_key() -> None:
    clients = pool(Clock())
    async with clients.client("u", "k") as a, clients.client("u", "k") as b, clients.client("u", "other") as c:
        assert a is b
        assert a is not c


async def test_a_client_that_nobody_needs_any_more_is_closed() -> None:
    clock = Clock()
    clients = pool(clock)
    async with clients.client("u", "old") as old:
        pass
    clock.now = UNUSED_S + 1
    async with clients.client("u", "new") as new:
        pass
    assert old.closed
    assert not new.closed
    assert len(clients) == 1


async def test_a_client_in_use_stays_open() -> None:
    clock = Clock()
    clients = pool(clock)
    async with clients.client("u", "long") as long:
        clock.now = UNUSED_S + 1
        async with clients.client("u", "other"):
            pass
        assert not long.closed


async def test_all_are_closed_in_the_end() -> None:
    clients = pool(Clock())
    async with clients.client("u", "k") as client:
        pass
    await clients.aclose()
    assert client.closed
    assert len(clients) == 0
