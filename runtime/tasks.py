"""Background tasks: work that is repeated for ever, the certain end of a task, and what a group of them failed with."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

_AGAIN_S = 1.0

Sleep = Callable[[float], Awaitable[object]]
"""Waits for that many seconds, as `asyncio.sleep` and a clock's `sleep` do."""


async def every(
    period_s: float,
    work: Callable[[], Awaitable[float | None]],
    *,
    log: logging.Logger,
    failure_event: str,
    expected: tuple[type[Exception], ...] = (),
    first_after_s: float = 0.0,
    sleep: Sleep = asyncio.sleep,
) -> NoReturn:
    """Runs `work` again and again, with a pause of `period_s` after each round, until it is cancelled.

    A round may return the seconds until the next one in place of `period_s`, for example 0 when there is more to do.
    The first round begins after `first_after_s`.

    A round that fails ends neither the loop nor its role: `failure_event` is logged to `log`, as a warning with the
    error in one line if the error is one of `expected` (a server is away, the next round may succeed), and otherwise,
    because it is a bug, as an error with its traceback. Only a cancellation leaves the loop.

    Give the task a name and an owner, and end it with `end`:

        tasks.create_task(
            every(10.0, look, log=log, failure_event="look_failed", expected=(nats.errors.Error, TimeoutError)),
            name="look",
        )

    Unit tests pass the `sleep` of a driven clock; `tests/unit/runtime/test_tasks.py` shows how.
    """
    pause_s = first_after_s
    while True:
        await sleep(pause_s)
        pause_s = period_s
        try:
            chosen_s = await work()
        except expected as exc:
            log.warning(failure_event, extra={"error": f"{type(exc).__name__}: {exc}".removesuffix(": ")})
        except Exception:  # the top of a loop
            log.exception(failure_event)
        else:
            pause_s = period_s if chosen_s is None else chosen_s


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels until all are done; what they raised is dropped.

    Once is not enough: a cancellation that meets an answer is lost in Python 3.11's `wait_for`, and so in nats-py.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


def leaves(exc: BaseException) -> list[BaseException]:
    """The exceptions that a group and the groups within it hold; an exception that is no group is its own only leaf."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for part in exc.exceptions for leaf in leaves(part)]
    return [exc]
