"""How much of what is scarce each tenant and agent may have."""

import math

import pytest

from workers.intake.asker import Asker
from workers.intake.capacity import Capacity
from workers.intake.puller import shares_of_bytes
from workers.intake.shares import Shares

A, MB = Asker("a", "x"), 1024**2


def fill(shares: Shares, *askers: Asker, amount: int = 1) -> list[int]:
    """They take turns until none of them may take more. Returns what each has."""
    has = [0] * len(askers)
    while any(may := [shares.may_take(asker, amount) for asker in askers]):
        for number, asker in enumerate(askers):
            if may[number] and shares.may_take(asker, amount):
                shares.take(asker, amount)
                has[number] += amount
    return has


@pytest.mark.parametrize(("slots", "most"), [(1, 1), (4, 4), (7, 7), (8, 6), (64, 55), (256, 220), (2500, 2149)])
def test_one_agent_alone_has_nearly_all_slots(slots: int, most: int) -> None:
    assert fill(Capacity(slots).shares(), A) == [most]


@pytest.mark.parametrize("slots", [8, 64, 256, 2500])
def test_another_agent_of_the_same_tenant_has_a_slot_whatever_the_first_one_does(slots: int) -> None:
    shares = Capacity(slots).shares()
    fill(shares, A)

    assert shares.may_take(Asker("a", "chat"))


@pytest.mark.parametrize("slots", [8, 64, 256, 2500])
def test_another_tenant_has_a_slot_whatever_ten_thousand_agents_of_the_first_one_do(slots: int) -> None:
    shares = Capacity(slots).shares()
    crowd = fill(shares, *(Asker("a", f"n{number}") for number in range(10_000)))

    assert sum(crowd) == math.ceil(slots * 7 / 8)
    assert fill(shares, Asker("b", "x"))[0] >= slots // 10


def test_the_more_tenants_take_all_they_can_the_less_each_has_and_something_stays_free() -> None:
    shares = Capacity(256).shares()
    has = fill(shares, *(Asker(f"t{number}", "x") for number in range(10)))

    assert max(has) - min(has) <= 1
    assert shares.may_take(Asker("quiet", "x"))


def test_agents_gain_their_tenant_little() -> None:
    crowd = [Asker("a", f"n{number}") for number in range(50)]
    has = fill(Capacity(256).shares(), *(asker for each in crowd for asker in (each, Asker("b", "x"))))

    assert sum(has[1::2]) >= sum(has[::2]) * 0.8


def test_what_is_given_back_is_free_again() -> None:
    shares = Capacity(8).shares()
    taken = fill(shares, A)[0]
    for _ in range(taken):
        shares.give_back(A)

    assert shares.taken == 0
    assert fill(shares, A) == [taken]


def test_a_tenant_has_a_quarter_of_the_bytes_at_most_and_leaves_some_to_its_other_agents() -> None:
    shares = shares_of_bytes(256 * MB)
    large = fill(shares, A, amount=7 * MB)[0]

    assert 40 * MB < large < 64 * MB
    assert shares.may_take(Asker("a", "chat"), 100_000)


@pytest.mark.parametrize("held", [0, 60])
def test_the_largest_request_of_who_has_nothing_fits_when_it_is_free(held: int) -> None:
    shares = shares_of_bytes(64 * MB)
    shares.take(A, held * MB)

    assert shares.may_take(Asker("b", "x"), 8 * MB) is (held == 0)
