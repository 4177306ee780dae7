"""`fleet up` as a user runs it: what is ready and when, what its processes get to see, and how it ends."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import psutil
import pytest

from fleet.simulator import Script, Simulator
from tests.acceptance.running import (
    FLEET,
    PATIENCE_S,
    RunningStack,
    clean_environment,
    is_gone,
    pools,
    run,
    running_stack,
    wait_for,
)

pytestmark = pytest.mark.slow

ROLES = {"worker-openai", "worker-mock", "usage", "admin", "nats", "vault", "postgres"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("it's [red] up")


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[RunningStack]:
    with running_stack(folder, *pools(mock=2, openai=1)) as running:
        yield running


def addresses_of(stack: RunningStack) -> dict[str, Any]:
    """Where everything is, and who may log in."""
    return {key: value for key, value in stack.ready.items() if key != "pids"}


def agents_of(stack: RunningStack) -> dict[str, dict[str, str]]:
    """The logins of tenants besides the demo's, by tenant."""
    return stack.ready.get("agents", {})


def environment_of(pid: int) -> dict[str, str]:
    return psutil.Process(pid).environ()


async def ask(ready: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """What an agent that knows only the contract does: raw NATS."""
    tenant, request_id = ready["tenant"], str(uuid4())
    client = await nats.connect(
        ready["nats_url"],
        user=ready["nats_user"],
        password=ready["nats_password"],
        inbox_prefix=f"_INBOX_{tenant}",
    )
    try:
        replies = await client.subscribe(f"llm.v1.reply.{tenant}.tester.{request_id}")
        request = {
            "id": request_id,
            "tenant": tenant,
            "agent": "tester",
            "model": "mock/echo",
            "messages": [{"role": "user", "content": text}],
        }
        await client.jetstream().publish(
            f"llm.v1.request.mock.interactive.{tenant}",
            json.dumps(request).encode(),
            headers={"Nats-Msg-Id": request_id},
        )
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] not in ("completed", "failed", "cancelled"):
            events.append(json.loads((await replies.next_msg(timeout=PATIENCE_S)).data))
        return events
    finally:
        await client.close()


def test_says_in_one_private_file_where_everything_is(stack: RunningStack, folder: Path) -> None:
    ready = stack.ready
    addresses = {"nats_url", "nats_user", "nats_password", "tenant", "admin_url", "admin_token", "database_url"}
    assert ready.keys() == addresses | {"vault_addr", "pids"}
    assert ready["tenant"] == "demo"
    assert ready["pids"].keys() >= ROLES
    assert len(ready["pids"]["worker-mock"]) == 2
    assert all(psutil.pid_exists(pid) for pids in ready["pids"].values() for pid in pids)
    assert stat.S_IMODE(stack.ready_file.stat().st_mode) == 0o600
    assert json.loads((folder / "state" / "ready.json").read_text()) == ready


def test_keeps_its_state_from_other_users(stack: RunningStack, folder: Path) -> None:
    assert stack.process.poll() is None
    state = folder / "state"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    secrets = (state / "secrets.json", state / "vault" / "secrets.json", state / "postgres" / "password")
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}


async def test_a_tenant_that_is_added_while_it_runs_can_log_in_and_is_served(stack: RunningStack) -> None:
    before = stack.pids("nats")
    stack.admin.post("tenants", {"slug": "added"})
    stack.admin.post("llm-providers", {"tenant": "added", "provider_type": "mock", "config": {}})

    wait_for(lambda: "added" in agents_of(stack))
    events = await ask(stack.ready | agents_of(stack)["added"] | {"tenant": "added"}, "hello")

    assert events[-1]["type"] == "completed"
    assert stack.pids("nats") == before
    said = run(
        "chat", "hello", "--model", "mock/echo", "--tenant", "added", "--state", str(stack.ready_file.parent / "state")
    )
    assert said.returncode == 0, said.stderr


async def test_serves_an_agent_that_knows_only_the_contract(stack: RunningStack) -> None:
    events = await ask(stack.ready, "four words in here")

    assert [event["type"] for event in events] == ["started", *["delta"] * (len(events) - 2), "completed"]
    said = "".join(event.get("text", "") for event in events if event["type"] == "delta")
    assert said == events[-1]["message"]["content"]
    assert "four words in here" in said


async def test_books_and_reports_what_was_used(stack: RunningStack, folder: Path) -> None:
    await ask(stack.ready, "to be booked")

    def booked() -> bool:
        return (
            stack.admin.get(f"usage?group_by=provider&tenant={stack.ready['tenant']}")["totals"]["request_count"] >= 1
        )

    await asyncio.to_thread(wait_for, booked)
    options = ("--by", "tenant,agent", "--tenant", stack.ready["tenant"], "--state", str(folder / "state"))
    report = await asyncio.to_thread(run, "usage", "report", *options)
    assert report.returncode == 0, report.stderr
    assert stack.ready["tenant"] in report.stdout


def test_gives_each_role_only_what_it_needs(stack: RunningStack) -> None:
    workers = [environment_of(pid) for role in ("worker-openai", "worker-mock") for pid in stack.pids(role)]
    for environment in workers:
        assert "DATABASE_URL" not in environment
        assert "LLM_ADMIN_TOKEN" not in environment
    usage, admin = environment_of(stack.pids("usage")[0]), environment_of(stack.pids("admin")[0])
    assert not {"VAULT_SECRET_ID", "LLM_ENCRYPTION_KEY", "LLM_ADMIN_TOKEN"} & usage.keys()
    credentials = [(e["NATS_USER"], e["VAULT_ROLE_ID"], e["VAULT_SECRET_ID"]) for e in (*workers[:2], admin)]
    assert all(len(set(column)) == 3 for column in zip(*credentials, strict=True))


@pytest.mark.parametrize("role", ["worker-mock", "usage", "admin", "nats", "vault", "postgres"])
async def test_starts_a_dead_part_again_and_says_so(stack: RunningStack, role: str) -> None:
    before = stack.pids(role)
    os.kill(before[0], 9)

    def replaced() -> bool:
        now = stack.pids(role)
        return len(now) == len(before) and before[0] not in now

    await asyncio.to_thread(wait_for, replaced)

    assert stack.pids(role)[1:] == before[1:]
    assert (await ask(stack.ready, "still there?"))[-1]["type"] == "completed"
    assert stack.admin.get("tenants/demo")["slug"] == "demo"


@pytest.mark.parametrize("role", ["worker-openai", "usage", "admin"])
def test_no_other_program_gets_the_port_of_a_part_that_died(stack: RunningStack, folder: Path, role: str) -> None:
    port = json.loads((folder / "state" / "ports.json").read_text())[role]
    before = stack.pids(role)
    os.kill(before[0], 9)

    def replaced() -> bool:
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port))
        return stack.pids(role) != before

    wait_for(replaced)

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE_S) as ready:
        assert ready.status == 200


def test_denies_no_role_what_it_needs(stack: RunningStack, folder: Path) -> None:
    assert stack.process.poll() is None
    logs = "".join(log.read_text() for log in (folder / "state" / "logs").glob("*.log*"))
    assert "violation" not in logs.lower()


def test_refuses_a_second_stack_on_the_same_folder(stack: RunningStack, folder: Path) -> None:
    second = run("up", "--state", str(folder / "state"))

    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"another stack (pid {stack.process.pid})" in second.stderr


def test_shows_its_pools(stack: RunningStack, folder: Path) -> None:
    def shows_both_workers_of_the_mock() -> bool:
        """A worker that was killed is shown until its entry expires, one that came back from its next word on."""
        shown = run("status", "--state", str(folder / "state"))
        assert shown.returncode == 0, shown.stderr
        return [line.split()[3] for line in shown.stdout.splitlines() if "│ mock" in line] == ["2"]

    wait_for(shows_both_workers_of_the_mock)
    assert stack.process.poll() is None


def test_what_it_says_to_try_works_as_it_stands_in_another_shell(stack: RunningStack, tmp_path: Path) -> None:
    _, _, said = stack.output.read_text().partition("Try, in another terminal")
    tries = [line for line in said.splitlines() if line.startswith("  ")]
    shells = [
        subprocess.run(["/bin/sh", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        for line in tries
        for env in ({}, {"NATS_URL": "nats://127.0.0.1:1", "LLM_ADMIN_URL": "http://127.0.0.1:1"})
    ]
    assert [shell.returncode for shell in shells] == [0] * 4, shells
    assert "You said: Hello" in shells[0].stdout
    assert "mock" in shells[2].stdout
    assert stack.process.poll() is None


def test_streams_a_chat(stack: RunningStack, folder: Path) -> None:
    answered = run("chat", "good morning", "--model", "mock/echo", "--state", str(folder / "state"))

    assert answered.returncode == 0, answered.stderr
    assert "good morning" in answered.stdout
    assert stack.process.poll() is None


@pytest.mark.parametrize("model", ["nobody/[/b]", "nobody/[redacted]"])
def test_names_a_model_that_reads_like_markup(stack: RunningStack, folder: Path, model: str) -> None:
    answered = run("chat", "good morning", "--model", model, "--state", str(folder / "state"))

    assert answered.returncode == 1
    assert answered.stderr.startswith("failed unknown_model")
    assert model in answered.stderr
    assert stack.process.poll() is None


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.mark.parametrize("env", [{}, ASCII, {"TERM": "dumb"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_any_terminal_will_do(stack: RunningStack, folder: Path, env: dict[str, str]) -> None:
    state = ("--state", str(folder / "state"))

    answered = run("chat", "dobrý den", "--model", "mock/echo", *state, env=env)
    tables = [run(*command, *state, env=env | {"COLUMNS": "60"}) for command in (("status",), ("usage", "report"))]

    assert answered.stdout == ("You said: dobr\\xfd den\n" if env == ASCII else "You said: dobrý den\n")
    assert [ended.returncode for ended in (answered, *tables)] == [0, 0, 0], (answered, *tables)
    assert not [ended for ended in tables if "…" in ended.stdout or "\\u" in ended.stdout]
    assert stack.process.poll() is None


async def test_ctrl_c_cancels_a_chat(stack: RunningStack, folder: Path) -> None:
    async with Simulator() as simulator:
        simulator.script("slow-model", Script(chunks=1000, between_s=0.05))
        config = {"base_url": simulator.base_url("openai"), "models": ["slow-model"]}
        provider = {"tenant": "demo", "provider_type": "openai", "api_key": "sk-simulated", "config": config}
        await asyncio.to_thread(stack.admin.post, "llm-providers", provider)
        chat = await asyncio.create_subprocess_exec(
            FLEET,
            *("chat", "go on", "--model", "openai/slow-model", "--state", str(folder / "state")),
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_hear_ctrl_c,
        )
        assert chat.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                said = await chat.stdout.readexactly(20)
                chat.send_signal(signal.SIGINT)
                rest, notes = await chat.communicate()
                while simulator.ledger.entries[-1].outcome != "hung_up":
                    await asyncio.sleep(0.05)
        finally:
            if chat.returncode is None:
                chat.kill()
                await chat.communicate()

    assert chat.returncode == 130
    assert (said + rest).endswith(b"\n")
    assert notes == b"cancelled\n"


def _hear_ctrl_c() -> None:
    """As in a terminal: what a shell starts in the background ignores it, and passes that on to these tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_fails_a_chat_in_one_line(stack: RunningStack, folder: Path) -> None:
    answered = run("chat", "good morning", "--model", "nobody/knows", "--state", str(folder / "state"))

    assert answered.returncode == 1
    assert answered.stdout == ""
    assert "Traceback" not in answered.stderr
    assert stack.process.poll() is None


def test_stops_in_time_comes_back_with_its_data_and_leaves_no_orphan_when_killed(tmp_path: Path) -> None:
    with running_stack(tmp_path, *pools(mock=1, openai=1)) as first:
        first.admin.post("tenants", {"slug": "acme"})
        wait_for(lambda: "acme" in agents_of(first))
        told = addresses_of(first)
        first.admin.post("tenants", {"slug": "late"})  # it may get its user in this run or in the next one
        everybody = first.everybody()

        assert first.stop() == 0

        wait_for(lambda: all(map(is_gone, everybody)))
        assert not first.ready_file.exists()

    with running_stack(tmp_path, *pools(mock=1, openai=1)) as second:
        told["agents"]["late"] = wait_for(lambda: agents_of(second).get("late"))
        assert addresses_of(second) == told
        assert [second.admin.get(f"tenants/{slug}")["slug"] for slug in ("acme", "late")] == ["acme", "late"]
        everybody = second.everybody()
        assert len(everybody) > len(ROLES)

        second.process.kill()
        second.process.wait()

        wait_for(lambda: all(map(is_gone, everybody)))
