"""Work that is repeated, and tasks that are ended for certain."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from runtime import tasks
from runtime.tasks import end, every

log = logging.getLogger(__name__)


class Away(Exception):
    """A server that does not answer."""


class Rounds:
    """Drives `every` through its pauses without waiting: each one is written down, and the last one ends the loop."""

    def __init__(self, *, pauses: int) -> None:
        self.paused_s: list[float] = []
        self._most = pauses

    async def sleep(self, pause_s: float) -> None:
        self.paused_s.append(pause_s)
        if len(self.paused_s) == self._most:
            raise asyncio.CancelledError

    async def run(self, work: Callable[[], Awaitable[float | None]], *, first_after_s: float = 0.0) -> None:
        with pytest.raises(asyncio.CancelledError):
            await every(
                10.0,
                work,
                log=log,
                failure_event="look_failed",
                expected=(Away,),
                first_after_s=first_after_s,
                sleep=self.sleep,
            )


async def test_work_is_repeated_with_a_pause_after_each_round() -> None:
    rounds = Rounds(pauses=3)
    seen: list[int] = []

    async def work() -> None:
        seen.append(len(rounds.paused_s))

    await rounds.run(work)

    assert rounds.paused_s == [0.0, 10.0, 10.0]
    assert seen == [1, 2]


async def test_the_first_round_may_begin_later() -> None:
    rounds = Rounds(pauses=2)

    async def work() -> None: ...

    await rounds.run(work, first_after_s=4.0)

    assert rounds.paused_s == [4.0, 10.0]


async def test_a_round_may_say_when_the_next_one_begins() -> None:
    rounds = Rounds(pauses=4)
    answers: list[float | None] = [0.0, 2.5, None]

    async def work() -> float | None:
        return answers.pop(0)

    await rounds.run(work)

    assert rounds.paused_s == [0.0, 0.0, 2.5, 10.0]


async def test_an_expected_failure_is_a_warning_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    failures = [Away("PostgreSQL is away"), Away()]

    async def work() -> None:
        raise failures.pop(0)

    await Rounds(pauses=3).run(work)

    assert [(r.getMessage(), r.levelname, vars(r)["error"], r.exc_info) for r in caplog.records] == [
        ("look_failed", "WARNING", "Away: PostgreSQL is away", None),
        ("look_failed", "WARNING", "Away", None),
    ]


async def test_a_bug_is_logged_with_its_traceback_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rounds = Rounds(pauses=3)

    async def work() -> None:
        raise ZeroDivisionError

    await rounds.run(work)

    assert rounds.paused_s == [0.0, 10.0, 10.0]
    assert [(r.getMessage(), r.levelname) for r in caplog.records] == [("look_failed", "ERROR")] * 2
    assert all(r.exc_info and r.exc_info[0] is ZeroDivisionError for r in caplog.records)


async def test_a_cancelled_round_ends_the_loop() -> None:
    working = asyncio.Event()

    async def work() -> None:
        working.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(every(0.0, work, log=log, failure_event="look_failed"))
    await working.wait()
    await end(task)

    assert task.cancelled()


async def test_ends_a_task_that_loses_its_first_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_AGAIN_S", 0)
    lost = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost.set()  # as `wait_for` does when an answer is there at the same time
        await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)

    await end(task)

    assert lost.is_set()
    assert task.cancelled()


async def test_drops_what_a_task_raises_at_its_end() -> None:
    async def work() -> None:
        raise ValueError

    await end(asyncio.create_task(work()))


async def test_nothing_to_end_is_fine() -> None:
    await end()
