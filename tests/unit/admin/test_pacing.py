"""How often something may happen."""

from admin_api.http.rate_limiter import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_may_use_up_the_limit_and_not_more() -> None:
    pace = Pace(limit=3, period_s=60, clock=Clock())

    turns = [pace.take("a") for _ in range(4)]

    assert [turn.granted for turn in turns] == [True, True, True, False]
    assert [turn.remaining for turn in turns] == [2, 1, 0, 0]
    assert [turn.wait_s for turn in turns] == [0, 0, 20, 20]
    assert turns[-1].reset_s == 60


def test_turns_come_back_evenly() -> None:
    clock = Clock()
    pace = Pace(limit=3, period_s=60, clock=clock)
    for _ in range(3):
        pace.take("a")

    clock.now += 20
    assert [pace.take("a").granted for _ in range(2)] == [True, False]
    clock.now += 3600
    assert [pace.take("a").granted for _ in range(4)] == [True, True, True, False]


def test_no_longer_than_the_limit_in_any_period() -> None:
    clock = Clock()
    pace = Pace(limit=5, period_s=10, clock=clock)
    granted: list[float] = []
    for _ in range(400):
        if pace.take("a").granted:
            granted.append(clock.now)
        clock.now += 0.25

    within = max(sum(1 for at in granted if start <= at < start + 10) for start in granted)
    assert within <= 10
    assert len(granted) == 5 + 400 * 0.25 / 10 * 5 - 1


def test_keys_do_not_share_turns() -> None:
    pace = Pace(limit=1, clock=Clock())

    assert [pace.take(key).granted for key in ("a", "b", "a")] == [True, True, False]


def test_a_look_uses_nothing_up() -> None:
    pace = Pace(limit=1, clock=Clock())

    assert [pace.look("a").granted for _ in range(3)] == [True] * 3
    pace.take("a")
    assert not pace.look("a").granted


def test_remembers_so_many_keys_and_no_more() -> None:
    pace = Pace(limit=1, keys=100, clock=Clock())
    for number in range(10_000):
        pace.take(str(number))

    assert pace.take("0").granted
    assert not pace.take("9999").granted
    assert len(pace) == 100
