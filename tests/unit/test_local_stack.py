"""The local stack's decisions, and what it keeps in its folder."""

import json
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from fleet.local.process import PortTaken
from fleet.local.stack import Stack, Wishes, pool_sizes
from fleet.local.state import State, StateInUse, default_folder
from fleet.local.supervisor import wait_before_restart
from tests import compose
from workers.settings import WorkerSettings


@pytest.mark.parametrize(("failures", "wait_s"), [(1, 0.1), (2, 0.2), (5, 1.6), (8, 10.0), (100, 10.0)])
def test_waits_longer_after_each_death_up_to_a_limit(failures: int, wait_s: float) -> None:
    assert wait_before_restart(failures) == pytest.approx(wait_s)


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


@pytest.mark.parametrize(("given", "granted"), [(None, 3), ("", 3), ("0", 0), ("0.5", 0.5), ("3", 3), ("60", 3)])
def test_workers_drain_for_as_long_as_a_stack_that_stops_in_time_can_wait(
    given: str | None, granted: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given is not None:
        monkeypatch.setenv("LLM_DRAIN_GRACE_S", given)
    state = State(tmp_path)
    with state.locked():
        assert Stack(state, Wishes(pools={}), say=lambda _: None).drain_s == granted


def test_a_drain_that_is_no_time_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_DRAIN_GRACE_S", "a minute")
    state = State(tmp_path)
    with state.locked(), pytest.raises(ValidationError, match="llm_drain_grace_s"):
        Stack(state, Wishes(pools={}), say=lambda _: None)


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


def test_takes_a_port_by_opening_it_and_keeps_it_for_the_next_run(tmp_path: Path) -> None:
    state = State(tmp_path)
    with state.locked():
        port = state.listener("admin").getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))
    again = State(tmp_path)
    with again.locked():
        assert again.listener("admin").getsockname()[1] == port


def test_takes_another_port_when_that_of_the_last_run_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        (tmp_path / "ports.json").write_text(json.dumps({"admin": taken, "nats": taken}))
        state = State(tmp_path)
        with state.locked():
            assert state.listener("admin").getsockname()[1] != taken
            assert state.port("nats") != taken


@pytest.mark.parametrize("take", [State.port, State.listener])
def test_names_a_port_that_was_asked_for_and_is_taken(take: Callable[..., object], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {taken} for admin is taken by another program"):
            take(State(tmp_path), "admin", wanted=taken)


def test_keeps_the_log_of_the_run_before(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.log("nats").write_text("yesterday")

    fresh = state.log("nats")

    assert fresh.read_text() == ""
    assert fresh.with_suffix(".log.1").read_text() == "yesterday"


def test_keeps_its_state_where_the_desktop_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "fleet"
