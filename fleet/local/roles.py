"""A role of the fleet as a child process: the same command and environment that an operator would give it.

A role does not open its port itself. It is given a socket that listens already, and that the supervisor keeps open for
as long as it lives. So no other program can take the port, not even while the role is started again, and whatever
answers there is the role. A connection that is made while no role runs waits in the socket's backlog.
"""

import math
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fleet.local import http
from fleet.local.process import Command, Process

_PROBE_TIMEOUT_S = 2


class Role:
    """One process of a role, which is ready when its /readyz says so."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        listener: socket.socket,
        log: Path,
        stop_within_s: float,
    ) -> None:
        """`env`: what this role needs, and no other role's secrets. `listener` stays the caller's to close."""
        argv = (sys.executable, "-P", "-m", "fleet", *arguments)
        self.name = name
        self.port: int = listener.getsockname()[1]
        self.process: Process | None = None
        self._command = Command(name, argv, log, env={**env, "LLM_HTTP_PORT": str(self.port)}, listener=listener)
        self._stop_within_s = stop_within_s

    async def start(self, *, timeout_s: float = math.inf) -> None:
        """Returns when the role is ready. Raises StartFailed."""
        self.process = Process(self._command)
        await self.process.wait_until(self._ready, timeout_s=timeout_s)

    async def stop(self) -> None:
        """Asks the process to stop, and kills it when it has not in time."""
        if self.process:
            await self.process.stop(timeout_s=self._stop_within_s)

    async def _ready(self) -> bool:
        try:
            answer = await http.ask(f"http://127.0.0.1:{self.port}/readyz", timeout_s=_PROBE_TIMEOUT_S)
        except OSError:
            return False
        return answer.status == 200


async def run_once(name: str, arguments: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
    """Runs a command that ends by itself. Raises StartFailed when its exit code is not 0."""
    process = Process(Command(name, (sys.executable, "-P", "-m", "fleet", *arguments), log, env=env))
    try:
        if await process.exited() != 0:
            raise process.failed()
    finally:
        await process.kill()
