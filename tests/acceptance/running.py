"""`fleet up` as a user runs it, seen from outside: its ready file, its processes, its end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
from pydantic import SecretStr

from contracts.subjects import Provider
from fleet.admin_client import AdminApi

T = TypeVar("T")

FLEET = str(Path(sys.executable).with_name("fleet"))
START_WITHIN_S = 180
STOP_WITHIN_S = 60
"""Four times what `fleet up` promises, for a machine that does other things as well."""
PATIENCE_S = 90.0
"""How long a test waits for what comes sooner or later."""


def clean_environment(**more: str) -> dict[str, str]:
    """What a user has before setting anything up."""
    ours = ("NATS_", "VAULT_", "LLM_", "DATABASE_URL", "OPENAI_", "DEFAULT_", "XDG_STATE_HOME")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)} | more


def pools(**workers: int) -> tuple[str, ...]:
    """The options with which `fleet up` starts so many workers of these providers, and none of the others."""
    return tuple(part for name in Provider for part in ("--workers", f"{name}={workers.get(name, 0)}"))


def run(
    *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(**(env or {}))
    return subprocess.run(
        [FLEET, *arguments], env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


class RunningStack:
    def __init__(self, process: subprocess.Popen[bytes], ready_file: Path, output: Path) -> None:
        self.process = process
        self.ready_file = ready_file
        self.output = output

    @property
    def ready(self) -> dict[str, Any]:
        return json.loads(self.ready_file.read_text())

    @property
    def admin(self) -> AdminApi:
        return AdminApi(self.ready["admin_url"], SecretStr(self.ready["admin_token"]))

    def pids(self, role: str) -> list[int]:
        return self.ready["pids"][role]

    def everybody(self) -> list[psutil.Process]:
        """The supervisor and all that came from it."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_WITHIN_S)


@contextmanager
def running_stack(folder: Path, *options: str, env: Mapping[str, str] | None = None) -> Generator[RunningStack]:
    ready_file, output = folder / "ready-file.json", folder / "output.txt"
    ready_file.unlink(missing_ok=True)
    with output.open("wb") as out:
        process = subprocess.Popen(
            [FLEET, "up", "--state", str(folder / "state"), "--ready-file", str(ready_file), *options],
            env=clean_environment(**(env or {})),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    stack = RunningStack(process, ready_file, output)
    try:
        wait_for(lambda: ready_file.exists() or process.poll() is not None, within_s=START_WITHIN_S)
        assert process.poll() is None, output.read_text()
        yield stack
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(condition: Callable[[], T], *, within_s: float = PATIENCE_S) -> T:
    """Its first true answer."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)
    return found


def is_gone(process: psutil.Process) -> bool:
    """Ended; whether its new parent has noticed is not our business."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
