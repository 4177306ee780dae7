"""What a user reads when a command cannot do what was asked: one line, and exit code 1."""

import base64
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.local.process import free_port
from tests.acceptance.running import run

SECRET = "do-not-repeat-this"
KEY = base64.b64encode(bytes(32)).decode()
SHORT_KEY = base64.b64encode(b"only 16 bytes...").decode()


@pytest.fixture
def closed() -> str:
    """An address where nobody listens."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def refusal(*arguments: str, **env: str) -> str:
    """The one line."""
    ended = run(*arguments, env=env)
    assert ended.returncode == 1, ended
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("fleet: ")
    assert SECRET not in ended.stderr
    return ended.stderr


def test_worker_names_the_nats_address_that_does_not_answer(closed: str) -> None:
    env = {"NATS_URL": f"nats://{closed}", "NATS_USER": "x", "NATS_PASSWORD": SECRET, "LLM_ENCRYPTION_KEY": KEY}
    assert closed in refusal("worker", "--provider", "mock", **env)


def test_worker_names_the_vault_address_that_does_not_answer(nats_url: str, closed: str) -> None:
    env = {"NATS_URL": nats_url, "VAULT_ADDR": f"http://{closed}", "VAULT_TOKEN": SECRET, "LLM_ENCRYPTION_KEY": KEY}
    assert closed in refusal("worker", "--provider", "mock", **env)


def test_worker_names_the_setting_that_is_missing() -> None:
    assert "LLM_ENCRYPTION_KEY: must be base64 of 32 bytes" in refusal("worker", "--provider", "mock")
    assert "DATABASE_URL: is not set" in refusal("usage")


@pytest.mark.parametrize("command", [("worker", "--provider", "mock"), ("admin",)])
@pytest.mark.parametrize(
    "wrong",
    [{"LLM_ENCRYPTION_KEY": ""}, {"LLM_ENCRYPTION_KEY": SHORT_KEY}, {"LLM_ENCRYPTION_KEY_PREVIOUS": f"{KEY},{SECRET}"}],
)
def test_a_sealing_key_that_is_none_is_refused_and_not_repeated(
    command: tuple[str, ...], wrong: dict[str, str]
) -> None:
    said = refusal(*command, **{"LLM_ENCRYPTION_KEY": KEY, "DATABASE_URL": "postgresql://nowhere/fleet", **wrong})
    assert next(iter(wrong)) in said
    assert "fleet keys generate" in said
    assert SHORT_KEY not in said


def test_worker_lists_the_providers_when_it_does_not_know_one() -> None:
    assert "openai" in refusal("worker", "--provider", "nobody")


@pytest.mark.parametrize("command", ["usage", "admin", "migrate"])
def test_names_the_database_address_that_does_not_answer(command: str, nats_url: str, closed: str) -> None:
    env = {
        "NATS_URL": nats_url,
        "DATABASE_URL": f"postgresql://fleet:{SECRET}@{closed}/fleet",
        "LLM_ENCRYPTION_KEY": KEY,
        "LLM_HTTP_PORT": str(free_port()),
    }
    assert closed in refusal(command, **env)


@pytest.mark.parametrize("command", ["usage", "admin", "migrate"])
def test_names_the_database_setting_when_it_is_missing(command: str) -> None:
    assert "DATABASE_URL" in refusal(command, LLM_ENCRYPTION_KEY=KEY)


@pytest.mark.parametrize("arguments", [("status",), ("chat", "hi", "--model", "mock")])
def test_says_how_to_start_a_fleet_when_there_is_none(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert "fleet up" in refusal(*arguments, XDG_STATE_HOME=str(tmp_path))


def test_status_names_the_admin_address_that_does_not_answer(closed: str) -> None:
    assert closed in refusal("status", LLM_ADMIN_URL=f"http://{closed}", LLM_ADMIN_TOKEN=SECRET)


def test_chat_names_the_nats_address_that_does_not_answer(closed: str) -> None:
    env = {"NATS_URL": f"nats://{closed}", "NATS_USER": "agent-demo", "NATS_PASSWORD": SECRET}
    assert closed in refusal("chat", "hi", "--model", "mock", **env)


def test_up_refuses_a_port_that_is_taken(taken_port: int, tmp_path: Path) -> None:
    arguments = ("up", "--state", str(tmp_path / "state"), "--nats-port", str(taken_port))
    assert str(taken_port) in refusal(*arguments)


@pytest.mark.parametrize("wish", ["nobody=1", "openai", "openai=many"])
def test_up_refuses_pools_that_cannot_be(wish: str, tmp_path: Path) -> None:
    assert wish in refusal("up", "--state", str(tmp_path / "state"), "--workers", wish)


def test_makes_sealing_keys_of_32_bytes() -> None:
    keys = [run("keys", "generate").stdout for _ in range(2)]
    assert [len(base64.b64decode(key)) for key in keys] == [32, 32]
    assert keys[0] != keys[1]


def test_prints_the_asyncapi_document() -> None:
    assert json.loads(run("asyncapi").stdout)["asyncapi"].startswith("3.")


def test_prints_a_configuration_that_a_nats_server_takes(tmp_path: Path) -> None:
    printed = run("nats-config", "--tenant", "acme", "--tenant", "other-one", "--store-dir", str(tmp_path)).stdout
    config = tmp_path / "nats.conf"
    config.write_text(printed)
    variables = [line.removeprefix("#   ") for line in printed.splitlines() if line.startswith("#   ")]
    assert "NATS_PASSWORD_AGENT_OTHER_ONE" in variables

    checked = subprocess.run(
        [str(Path(sys.executable).with_name("nats-server")), "-t", "-c", str(config)],
        env=dict.fromkeys(variables, "a-password"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stderr


def test_refuses_two_tenants_whose_passwords_would_share_a_variable() -> None:
    assert "environment variable" in refusal("nats-config", "--tenant", "a-b", "--tenant", "a_b")


def test_explains_itself() -> None:
    assert {"up", "worker", "usage", "admin", "migrate", "status", "chat"} <= set(run("--help").stdout.split())
