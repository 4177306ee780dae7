"""Ending tasks for certain."""

import asyncio

import pytest

from runtime import tasks
from runtime.tasks import end


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
