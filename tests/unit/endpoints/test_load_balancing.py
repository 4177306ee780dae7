"""Which of several endpoints is called first."""

import random
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import pytest

from contracts.providers import Endpoint
from workers.endpoints.load_balancing import LoadBalancer
from workers.endpoints.names import EndpointId

HEAVY, LIGHT, SPARE = (
    Endpoint(name="heavy", weight=3),
    Endpoint(name="light", weight=1),
    Endpoint(name="spare", weight=0),
)


def name(endpoint: Endpoint) -> EndpointId:
    return EndpointId("acme", "openai", endpoint.name)


def first(balance: LoadBalancer, *endpoints: Endpoint) -> Endpoint:
    return balance.order([(name(e), e) for e in endpoints])[0]


@pytest.fixture
def balance() -> LoadBalancer:
    return LoadBalancer(random.Random(7))


@contextmanager
def calling(balance: LoadBalancer, endpoint: EndpointId) -> Generator[None]:
    balance.begin(endpoint)
    try:
        yield
    finally:
        balance.end(endpoint)


def test_idle_endpoints_come_first_as_often_as_they_weigh(balance: LoadBalancer) -> None:
    chosen = Counter(first(balance, HEAVY, LIGHT, SPARE).name for _ in range(4000))

    assert chosen["spare"] == 0
    assert 2.5 < chosen["heavy"] / chosen["light"] < 3.5


def test_an_endpoint_without_weight_comes_last(balance: LoadBalancer) -> None:
    assert balance.order([(name(e), e) for e in (SPARE, LIGHT, HEAVY)])[-1] is SPARE


def test_the_one_with_the_least_in_flight_for_its_weight_comes_first(balance: LoadBalancer) -> None:
    with ExitStack() as calls:
        for _ in range(2):
            calls.enter_context(calling(balance, name(HEAVY)))
        assert first(balance, HEAVY, LIGHT) is LIGHT

        calls.enter_context(calling(balance, name(LIGHT)))
        assert first(balance, HEAVY, LIGHT) is HEAVY


def test_calls_at_the_same_time_spread_as_the_weights_say(balance: LoadBalancer) -> None:
    with ExitStack() as calls:
        for _ in range(40):
            calls.enter_context(calling(balance, name(first(balance, HEAVY, LIGHT))))
        assert {e.name: balance.in_flight(name(e)) for e in (HEAVY, LIGHT)} == {"heavy": 30, "light": 10}


def test_a_slow_endpoint_gets_less(balance: LoadBalancer) -> None:
    twin = Endpoint(name="twin", weight=1)
    with calling(balance, name(LIGHT)), calling(balance, name(twin)):
        balance.observe_latency(name(LIGHT), 4.0)
        balance.observe_latency(name(twin), 0.2)

    chosen = Counter(first(balance, LIGHT, twin).name for _ in range(2000))

    assert chosen["twin"] > 8 * chosen["light"]
    assert chosen["light"] > 0, "it is still looked at, so that it can recover"


def test_latency_is_a_moving_average(balance: LoadBalancer) -> None:
    twin = Endpoint(name="twin", weight=1)
    with calling(balance, name(LIGHT)), calling(balance, name(twin)):
        balance.observe_latency(name(twin), 0.5)
        balance.observe_latency(name(LIGHT), 60.0)
        for _ in range(40):
            balance.observe_latency(name(LIGHT), 0.5)

    chosen = Counter(first(balance, LIGHT, twin).name for _ in range(2000))

    assert 0.8 < chosen["twin"] / chosen["light"] < 1.25
