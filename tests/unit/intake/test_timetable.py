"""When what is given back unstarted comes again."""

import pytest

from tests.driven_clock import DrivenClock
from workers.intake.timetable import BYTES_AGAIN_PER_S, COME_AGAIN_PER_S, LATEST_S, SOONEST_S, Timetable


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
def timetable(clock: DrivenClock) -> Timetable:
    return Timetable(clock)


def test_one_request_comes_again_soon(timetable: Timetable) -> None:
    assert SOONEST_S <= timetable.delay_s("a", size=100) < 2 * SOONEST_S


def test_a_flood_comes_again_at_a_pace_and_in_order(timetable: Timetable) -> None:
    delays = [timetable.delay_s("a", size=100) for _ in range(5000)]

    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(5000 / COME_AGAIN_PER_S, abs=0.5)
    assert max(delays.count(each) for each in set(delays)) <= 0.1 * COME_AGAIN_PER_S + 1


def test_large_requests_come_again_more_slowly(timetable: Timetable) -> None:
    delays = [timetable.delay_s("a", size=7_000_000) for _ in range(50)]

    assert delays[-1] == pytest.approx(50 * 7_000_000 / BYTES_AGAIN_PER_S, abs=0.5)


def test_a_tenant_does_not_wait_for_another_ones_flood(timetable: Timetable) -> None:
    for _ in range(5000):
        timetable.delay_s("a", size=100)

    assert timetable.delay_s("b", size=100) < 2 * SOONEST_S


def test_tenants_share_the_pace(timetable: Timetable) -> None:
    delays = [timetable.delay_s(tenant, size=100) for _ in range(1000) for tenant in ("a", "b")]

    assert delays[-1] == pytest.approx(2000 / COME_AGAIN_PER_S, abs=0.5)


def test_nothing_waits_for_ever(timetable: Timetable, clock: DrivenClock) -> None:
    assert max(timetable.delay_s("a", size=7_000_000) for _ in range(1000)) <= LATEST_S + 0.1
    clock.pass_by(LATEST_S)

    assert timetable.delay_s("a", size=100) < 2 * SOONEST_S
