"""What a local stack decides before any of its parts runs, with the ports that it takes."""

import json
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import ValidationError

from fleet.deploy.nats_config import JetStreamKeys
from fleet.local.process import PortTaken
from fleet.local.stack import Stack, Wishes
from fleet.local.state import State
from fleet.local.vault_api import VaultApi, VaultRefused
from tests.web import serving


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


def test_the_key_of_nats_files_stays_until_the_environment_has_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No two keys are ever forgotten that files may still be encrypted with."""
    monkeypatch.delenv("NATS_JETSTREAM_KEY", raising=False)
    state = State(tmp_path)
    own = state.jetstream_keys()
    assert own.previous == ""
    assert own.key not in repr(own)
    state.jetstream_key_holds()
    assert State(tmp_path).jetstream_keys() == own

    monkeypatch.setenv("NATS_JETSTREAM_KEY", "another")
    assert State(tmp_path).jetstream_keys() == JetStreamKeys("another", own.key)
    monkeypatch.setenv("NATS_JETSTREAM_KEY", "a third")
    assert State(tmp_path).jetstream_keys() == JetStreamKeys("another", own.key), "the change has not ended"
    state.jetstream_key_holds()
    assert State(tmp_path).jetstream_keys() == JetStreamKeys("a third", "another")
    monkeypatch.delenv("NATS_JETSTREAM_KEY")
    state.jetstream_key_holds()
    assert State(tmp_path).jetstream_keys() == JetStreamKeys("a third")
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600


async def test_an_empty_answer_of_vault_is_none_yet() -> None:
    async def nothing(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/v1/sys/mounts", nothing)
    async with serving(app) as port:
        with pytest.raises(VaultRefused, match="empty answer") as refused:
            await VaultApi(f"http://127.0.0.1:{port}").data("sys/mounts")

    assert refused.value.status == 503
