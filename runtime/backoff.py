"""How long to wait after failures in a row: exponentially longer, up to a bound, with as much jitter as the caller
wants."""

_MOST_STEPS = 64
"""No pause needs more, and a float holds no power without end."""


def exponential_s(
    first_s: float, *, failures: int, longest_s: float, factor: float = 2.0, jitter: float = 1.0
) -> float:
    """Seconds to wait after `failures` failures in a row, of which there is at least one.

    It is `first_s` after the first failure, `factor` times as long after each further one, and `longest_s` at most;
    all of that multiplied by `jitter`, a number from 0 to 1 that the caller draws: `random()` for full jitter,
    `uniform(0.5, 1)` for half of it, and 1 (the default) for none.
    """
    return jitter * min(longest_s, first_s * factor ** min(failures - 1, _MOST_STEPS))
