"""A child process that cannot outlive us: started through `launch.py`, in its own session, its output in a file."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fleet.local import launch
from fleet.terminal.foreign_text import in_one_line
from runtime.tasks import end

POLL_S = 0.02
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")

Ready = Callable[[], Coroutine[Any, Any, bool]]
"""Asks a program that was started whether it can be used now."""


class StartFailed(Exception):
    """A program did not come up. The message names it, the last line of its log and where that is."""


class PortTaken(StartFailed):
    """Another program has the port. The message names the port and whose it should be."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. The environment is exactly `env` and what every program needs of ours (PATH, locale)."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: Path | None = None
    user: str = ""
    """Whom to become, when we are root and the program refuses to be; see launch.py."""
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends it when this process dies."""
    listener: socket.socket | None = None
    """An open socket that it accepts connections from, see launch.py; None when it opens its own."""


class Process:
    """One run of a command. Start it from the main thread: the death signal comes when the thread dies that forked the
    child, which in any other thread may be long before the process does (prctl(2), PR_SET_PDEATHSIG)."""

    def __init__(self, command: Command) -> None:
        self.command = command
        inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        launcher = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(command.death_signal)))
        passed = (command.listener.fileno(),) if command.listener else ()
        listener = str(passed[0]) if passed else ""
        with command.log.open("ab") as log:
            self._child = subprocess.Popen(
                [*launcher, command.user, listener, "--", *command.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**inherited, **command.env},
                cwd=command.cwd or command.log.parent,
                start_new_session=True,
                pass_fds=passed,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._child.poll()

    def send(self, sig: signal.Signals) -> None:
        if self.alive:
            self._child.send_signal(sig)

    async def exited(self) -> int:
        """Waits for the end, and says how it ended; see `returncode`."""
        while (code := self._child.poll()) is None:  # noqa: ASYNC110 - nothing but the kernel knows
            await asyncio.sleep(POLL_S)
        return code

    async def stop(self, *, timeout_s: float = 10) -> None:
        """Asks it to stop; kills it when it has not within `timeout_s`."""
        self.send(self.command.stop_signal)
        try:
            async with asyncio.timeout(timeout_s):
                await self.exited()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        self.send(signal.SIGKILL)
        await self.exited()

    async def wait_until(self, ready: Ready, *, timeout_s: float = 30) -> None:
        """Returns when `ready()` says yes. Raises StartFailed when it exits first or takes too long."""
        deadline = time.monotonic() + timeout_s
        while not await self._answers_itself(ready):
            if not self.alive:
                raise self.failed()
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.command.name} did not answer within {timeout_s:g} s: {self.last_line()}")
            await asyncio.sleep(POLL_S)

    async def _answers_itself(self, ready: Ready) -> bool:
        """Whether `ready()` says yes while the program runs: once it has ended, it may be another one that answers."""
        asked = asyncio.create_task(ready(), name=f"ask {self.command.name}")
        ended = asyncio.create_task(self.exited(), name=f"end of {self.command.name}")
        try:
            await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
            return self.alive and asked.done() and asked.result()
        finally:
            await end(asked, ended)

    def failed(self) -> StartFailed:
        """The error of a program that has ended although it should run."""
        return StartFailed(f"{self.command.name} ended with code {self.returncode}: {self.last_line()}")

    def last_line(self) -> str:
        """The last line of its log, and where the rest is."""
        lines = self.command.log.read_text(errors="replace").strip().splitlines()
        return f"{in_one_line(lines[-1][:500]) if lines else 'it said nothing'} (log: {self.command.log})"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_is_free(port: int) -> bool:
    """Whether a server could listen at this TCP port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def read_json(path: Path) -> Any:
    """The JSON in a file of the state folder. Raises FileNotFoundError, and StartFailed when it is none."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise StartFailed(f"{path} is damaged; restore it, or start with another folder by --state") from None
