"""A child process ends with its supervisor, and PostgreSQL runs below a folder that is its owner's alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest

from fleet.local.process import Command, Process, StartFailed
from fleet.local.servers import PostgresServer

SUPERVISOR = """
import sys, time
from pathlib import Path
from fleet.local.process import Command, Process
child = Process(Command("sleeper", ("/bin/sleep", "60"), Path(sys.argv[1])))
print(child.pid, flush=True)
time.sleep(60)
"""

ACCEPTS_ONCE = """
from runtime.listener import listen
connection, _ = listen("127.0.0.1", 0).accept()
connection.sendall(b"accepted")
"""
COPIES_ITS_ENVIRONMENT = """
import os, subprocess, sys
from runtime.listener import listen
print(listen("127.0.0.1", 0).getsockname()[1], flush=True)
again = "from runtime.listener import listen; print(listen('127.0.0.1', 0).getsockname()[1])"
sys.exit(subprocess.call([sys.executable, "-P", "-c", again]))
"""


def test_child_dies_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout
        child = psutil.Process(int(supervisor.stdout.readline()))
        supervisor.kill()
        supervisor.wait()

    psutil.wait_procs([child], timeout=60)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


async def test_tells_a_programs_last_words_when_it_does_not_start(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    process = Process(Command("shell", ("/bin/sh", "-c", "echo the disk is full; exit 3"), tmp_path / "log"))

    with pytest.raises(StartFailed, match=r"shell ended with code 3: the disk is full \(log: "):
        await process.wait_until(never)


async def test_child_gets_the_environment_that_it_was_given_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEBODY_ELSES_SECRET", "x")
    log = tmp_path / "log"
    process = Process(Command("env", ("/usr/bin/env",), log, env={"OURS": "1"}))

    assert await process.exited() == 0

    names = {line.partition("=")[0] for line in log.read_text().splitlines()}
    assert "OURS" in names
    assert "SOMEBODY_ELSES_SECRET" not in names


@pytest.mark.parametrize("user", ["", "nobody"] if os.geteuid() == 0 else [""])
async def test_child_accepts_from_the_socket_that_it_was_given_and_leaves_it_open(tmp_path: Path, user: str) -> None:
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        argv = (sys.executable, "-P", "-c", ACCEPTS_ONCE)
        for _ in range(2):
            child = Process(Command("child", argv, log, listener=listener, user=user))
            with socket.create_connection(listener.getsockname()) as connection:
                assert connection.recv(100) == b"accepted"
            assert await child.exited() == 0, log.read_text()


async def test_a_socket_is_not_for_a_process_that_only_has_the_same_environment(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        child = Process(Command("child", (sys.executable, "-P", "-c", COPIES_ITS_ENVIRONMENT), log, listener=listener))
        assert await child.exited() == 0, log.read_text()
    ours, theirs = log.read_text().split()
    assert int(ours) == port != int(theirs)


async def test_postgresql_runs_below_a_folder_that_only_its_owner_may_enter(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    server = PostgresServer(private / "postgres", durable=False)
    await server.start()
    try:
        assert server.process is not None
        uid = psutil.Process(server.process.pid).uids().real
        assert uid != 0
        assert os.geteuid() in (0, uid)
        connection = await asyncpg.connect(await server.ensure_database("fleet"))
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    finally:
        await server.stop()
