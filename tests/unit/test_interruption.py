"""Interrupting a task, but only where it may be interrupted."""

import asyncio

import pytest

from workers.interruption import Interrupted, Interruption, Reason


async def test_a_scope_is_left_at_once() -> None:
    interruption, inside = Interruption(), asyncio.Event()

    async def work() -> None:
        async with interruption.scope():
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    interruption.request(Reason.CANCELLED)

    with pytest.raises(Interrupted) as caught:
        await task
    assert caught.value.reason is Reason.CANCELLED


async def test_code_outside_a_scope_runs_on() -> None:
    interruption = Interruption()
    interruption.request(Reason.DRAINING)
    await asyncio.sleep(0)

    with pytest.raises(Interrupted):
        async with interruption.scope():
            raise AssertionError("the scope must not be entered")


async def test_a_cancellation_from_outside_stays_one() -> None:
    interruption, inside = Interruption(), asyncio.Event()

    async def work() -> None:
        async with interruption.scope():
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_task_can_wait_again_afterwards() -> None:
    interruption, inside = Interruption(), asyncio.Event()

    async def work() -> str:
        try:
            async with interruption.scope():
                inside.set()
                await asyncio.Event().wait()
        except Interrupted:
            await asyncio.sleep(0)
        return "booked"

    task = asyncio.create_task(work())
    await inside.wait()
    interruption.request(Reason.CANCELLED)

    assert await task == "booked"


async def test_the_first_reason_counts() -> None:
    interruption = Interruption()
    interruption.request(Reason.CANCELLED)
    interruption.request(Reason.DRAINING)

    assert interruption.reason is Reason.CANCELLED


async def test_a_request_in_the_turn_in_which_the_scope_would_have_ended_leaves_nothing_behind() -> None:
    interruption, inside, go_on = Interruption(), asyncio.Event(), asyncio.Event()

    async def work() -> str:
        try:
            async with interruption.scope():
                inside.set()
                await go_on.wait()
        except Interrupted:
            await asyncio.sleep(0)
            return "interrupted"
        return "went on"

    task = asyncio.create_task(work())
    await inside.wait()
    go_on.set()
    interruption.request(Reason.CANCELLED)

    assert await task == "interrupted"


async def test_an_interruption_that_was_lost_comes_again() -> None:
    """As in `wait_for` of Python 3.11, when an answer is there at the same time."""
    interruption, inside, lost = Interruption(again_s=0), asyncio.Event(), asyncio.Event()

    async def work() -> str:
        try:
            async with interruption.scope():
                inside.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    lost.set()
                await asyncio.Event().wait()
        except Interrupted:
            await asyncio.sleep(0)
            return "can wait again"
        return "was not interrupted"

    task = asyncio.create_task(work())
    await inside.wait()
    interruption.request(Reason.CANCELLED)

    assert await asyncio.wait_for(task, 20) == "can wait again"
    assert lost.is_set()
