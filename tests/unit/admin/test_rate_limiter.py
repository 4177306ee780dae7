"""How often something may happen."""

from admin_api.http.rate_limiter import RateLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_may_use_up_the_limit_and_not_more() -> None:
    limiter = RateLimiter(limit=3, period_s=60, clock=Clock())

    quotas = [limiter.take("a") for _ in range(4)]

    assert [quota.allowed for quota in quotas] == [True, True, True, False]
    assert [quota.remaining for quota in quotas] == [2, 1, 0, 0]
    assert [quota.retry_after_s for quota in quotas] == [0, 0, 20, 20]
    assert quotas[-1].reset_s == 60


def test_what_is_used_up_comes_back_evenly() -> None:
    clock = Clock()
    limiter = RateLimiter(limit=3, period_s=60, clock=clock)
    for _ in range(3):
        limiter.take("a")

    clock.now += 20
    assert [limiter.take("a").allowed for _ in range(2)] == [True, False]
    clock.now += 3600
    assert [limiter.take("a").allowed for _ in range(4)] == [True, True, True, False]


def test_at_most_twice_the_limit_in_any_period() -> None:
    clock = Clock()
    limiter = RateLimiter(limit=5, period_s=10, clock=clock)
    allowed: list[float] = []
    for _ in range(400):
        if limiter.take("a").allowed:
            allowed.append(clock.now)
        clock.now += 0.25

    within = max(sum(1 for at in allowed if start <= at < start + 10) for start in allowed)
    assert within <= 10
    assert len(allowed) == 5 + 400 * 0.25 / 10 * 5 - 1


def test_keys_do_not_share_a_limit() -> None:
    limiter = RateLimiter(limit=1, clock=Clock())

    assert [limiter.take(key).allowed for key in ("a", "b", "a")] == [True, True, False]


def test_peeking_uses_nothing_up() -> None:
    limiter = RateLimiter(limit=1, clock=Clock())

    assert [limiter.peek("a").allowed for _ in range(3)] == [True] * 3
    limiter.take("a")
    assert not limiter.peek("a").allowed


def test_remembers_so_many_keys_and_no_more() -> None:
    limiter = RateLimiter(limit=1, keys=100, clock=Clock())
    for number in range(10_000):
        limiter.take(str(number))

    assert limiter.take("0").allowed
    assert not limiter.take("9999").allowed
    assert len(limiter) == 100
