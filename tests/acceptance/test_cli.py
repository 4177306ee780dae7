"""What a user reads when a command cannot do what was asked: one line, and exit code 1 or 2."""

import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.terminal.foreign_text import visible
from tests.acceptance.running import FLEET, clean_environment, run
from tests.ports import free_port

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


def test_up_refuses_a_ready_file_that_cannot_be_written(tmp_path: Path) -> None:
    where = str(tmp_path / "absent" / "ready.json")
    assert where in refusal("up", "--state", str(tmp_path / "state"), "--ready-file", where)


@pytest.mark.parametrize(
    ("arguments", "named", "about"),
    [
        (("nope",), "'nope'", "fleet"),
        (("chat", "hi", "--nope"), "--nope", "fleet chat"),
        (("chat", "hi"), "model", "fleet chat"),
        (("up", "--nats-port", "0"), "--nats-port", "fleet up"),
        (("usage", "report", "--from", "yesterday"), "yesterday", "fleet usage report"),
        (("keys", "import", "[/b]"), "from", "fleet keys import"),
        (("[/b]",), "[/b]", "fleet"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_says_where_help_is(
    arguments: tuple[str, ...], named: str, about: str
) -> None:
    ended = run(*arguments)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert named in ended.stderr
    assert ended.stderr.endswith(f"; see {about} --help\n")


@pytest.mark.parametrize("group", ["", "keys", "audit", "models"])
def test_a_group_without_a_command_shows_its_commands_and_nothing_else(group: str) -> None:
    ended = run(*filter(None, [group]))
    assert "Commands" in ended.stdout
    assert ended.stderr == ""


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"nats_url": "x"}'])
@pytest.mark.parametrize("arguments", [("status",), ("chat", "hi", "--model", "mock"), ("keys", "reseal")])
def test_names_a_ready_file_that_is_none(arguments: tuple[str, ...], content: str, tmp_path: Path) -> None:
    (tmp_path / "ready.json").write_text(content)
    assert str(tmp_path / "ready.json") in refusal(*arguments, "--state", str(tmp_path))


@pytest.mark.parametrize(
    "arguments", [("status",), ("chat", "hi", "--model", "mock"), ("keys", "import", "--from", "env")]
)
def test_looks_for_the_fleet_where_it_is_told_to(arguments: tuple[str, ...], tmp_path: Path, closed: str) -> None:
    elsewhere = {"NATS_URL": f"nats://{closed}", "LLM_ADMIN_URL": f"http://{closed}", "LLM_ADMIN_TOKEN": SECRET}
    said = refusal(*arguments, "--state", str(tmp_path), **elsewhere)
    assert f"fleet up --state {tmp_path}" in said


@pytest.mark.parametrize("url", ["[/b]", "http://[::bad", "127.0.0.1:8080", "nats://"])
def test_names_the_setting_that_is_no_address(url: str) -> None:
    assert "LLM_ADMIN_URL" in refusal("status", LLM_ADMIN_URL=url, LLM_ADMIN_TOKEN=SECRET)


@pytest.mark.parametrize("url", ["[/b]", "nats://[::bad", "nats://", "nats://127.0.0.1:4222,"])
@pytest.mark.parametrize(
    "command", [("worker", "--provider", "mock"), ("chat", "hi", "--model", "mock", "--tenant", "a")]
)
def test_names_the_nats_setting_that_is_no_address(command: tuple[str, ...], url: str) -> None:
    assert "NATS_URL: must be the address" in refusal(*command, NATS_URL=url, LLM_ENCRYPTION_KEY=KEY)


@pytest.mark.parametrize("name", ["ports.json", "secrets.json"])
def test_up_names_a_file_of_its_state_that_is_damaged(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{")
    assert str(tmp_path / name) in refusal("up", "--state", str(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        ("up", "--state", "{0}/file/below"),
        ("models", "create", "mine", "--file", "{0}/file", "--base-url", "http://127.0.0.1:1"),
        ("models", "create", "mine", "--file", "{0}", "--base-url", "http://127.0.0.1:1"),
    ],
)
def test_names_the_file_that_is_none_of_its_kind(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    said = refusal(*(argument.format(tmp_path) for argument in arguments))
    assert str(tmp_path) in said
    assert "Errno" not in said
    assert "codec" not in said


@pytest.mark.parametrize("prompt", [b"-", b"\xff"], ids=["standard input", "argument"])
def test_says_when_a_prompt_is_no_text(prompt: bytes, tmp_path: Path) -> None:
    ready = dict.fromkeys(("nats_url", "nats_user", "nats_password", "tenant"), "x")
    ready |= dict.fromkeys(("admin_url", "admin_token", "vault_addr"), "x")
    (tmp_path / "ready.json").write_text(json.dumps(ready))
    command = [FLEET.encode(), b"chat", prompt, b"--model", b"mock", b"--state", str(tmp_path).encode()]

    ended = subprocess.run(command, input=b"\xff\xfe", env=clean_environment(), capture_output=True, check=False)

    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.endswith(b"is no UTF-8 text\n")


@pytest.mark.parametrize("name", ["/absent\x1b[31m.csv", "/absent\x9b31m.csv", "/absent[/b].csv"])
def test_an_error_line_shows_control_characters_on_a_terminal_and_keeps_them_in_a_pipe(name: str) -> None:
    arguments = ("keys", "import", "--from", name)
    master, slave = os.openpty()
    try:
        on_terminal = subprocess.run([FLEET, *arguments], env=clean_environment(), stderr=slave, check=False)
        said = os.read(master, 10_000).decode()
    finally:
        os.close(master)
        os.close(slave)

    assert on_terminal.returncode == 1
    assert said.startswith(f"fleet: {visible(name)} ")
    assert "\x1b" not in said
    assert refusal(*arguments).startswith(f"fleet: {name} ")


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


def test_tenants_with_alike_names_have_passwords_of_their_own() -> None:
    printed = run("nats-config", "--tenant", "a-b", "--tenant", "a_b", "--tenant", "A-b", "--tenant=-rf").stdout
    variables = [line.removeprefix("#   ") for line in printed.splitlines() if line.startswith("#   ")]

    assert len(set(variables)) == len(variables)
    assert {"NATS_PASSWORD_AGENT_A_B", "NATS_PASSWORD_AGENT__RF"} < set(variables)


def test_explains_itself() -> None:
    assert {"up", "worker", "usage", "admin", "migrate", "status", "chat"} <= set(run("--help").stdout.split())
