"""The local stack's decisions, and what it keeps in its folder."""

import asyncio
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from fleet.local.stack import pool_sizes
from fleet.local.state import State, StateInUse, default_folder
from fleet.local.supervisor import together, wait_before_restart
from tests import compose
from workers.settings import WorkerSettings


@pytest.mark.parametrize(("failures", "wait_s"), [(1, 0.1), (2, 0.2), (5, 1.6), (8, 10.0), (100, 10.0)])
def test_waits_longer_after_each_death_up_to_a_limit(failures: int, wait_s: float) -> None:
    assert wait_before_restart(failures) == pytest.approx(wait_s)


async def test_ends_what_loses_a_cancellation() -> None:
    started, lost = asyncio.Event(), asyncio.Event()

    async def deaf() -> None:
        """As nats-py in Python 3.11, when an answer and the cancellation come in the same moment."""
        with suppress(asyncio.CancelledError):
            started.set()
            await asyncio.Event().wait()
        lost.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(together({"deaf": deaf()}))
    await started.wait()
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert lost.is_set()


async def test_ends_the_rest_when_one_fails() -> None:
    ended = asyncio.Event()

    async def goes_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fails() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await together({"goes on": goes_on(), "fails": fails()})
    assert ended.is_set()


@pytest.mark.parametrize(
    ("wanted", "sizes"),
    [
        ([], {"openai": 1, "mock": 1}),
        (["openai=3"], {"openai": 3, "mock": 1}),
        (["openai=3", "mock=0"], {"openai": 3, "mock": 0}),
    ],
)
def test_runs_one_worker_for_each_adapter_unless_told_otherwise(wanted: list[str], sizes: dict[str, int]) -> None:
    assert pool_sizes(["openai", "mock"], wanted) == sizes


@pytest.mark.parametrize("wish", ["nobody=1", "openai", "openai=", "openai=-1", "openai=x", "a b=1"])
def test_refuses_pools_that_cannot_be(wish: str) -> None:
    with pytest.raises(ValueError, match=r"--workers|token"):
        pool_sizes(["openai", "mock"], [wish])


def test_containers_of_workers_are_given_the_time_that_a_worker_takes() -> None:
    workers = [service for name, service in compose.read()["services"].items() if name.startswith("worker")]
    graces = [float(worker["stop_grace_period"].removesuffix("s")) for worker in workers]
    assert min(graces) >= WorkerSettings.model_fields["llm_drain_grace_s"].default + 15


def test_keeps_a_secret_that_it_made(tmp_path: Path) -> None:
    made = State(tmp_path / "state").secret("token", lambda: "first")

    assert made == State(tmp_path / "state").secret("token", lambda: "second") == "first"
    assert stat.S_IMODE((tmp_path / "state" / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_gives_its_folder_to_one_stack_at_a_time(tmp_path: Path) -> None:
    state = State(tmp_path)
    with state.locked(), pytest.raises(StateInUse, match=str(tmp_path)), State(tmp_path).locked():
        pass
    with state.locked():
        pass


def test_keeps_the_log_of_the_run_before(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.log("nats").write_text("yesterday")

    fresh = state.log("nats")

    assert fresh.read_text() == ""
    assert fresh.with_suffix(".log.1").read_text() == "yesterday"


def test_keeps_its_state_where_the_desktop_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "fleet"
