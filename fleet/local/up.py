"""`fleet up`: one stack in the foreground, until a signal says stop."""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from fleet.local.stack import Stack, Wishes
from fleet.local.state import State, home_folder
from fleet.terminal.foreign_text import in_one_line
from runtime import logs, role
from runtime.settings import LogSettings
from runtime.tasks import end

_ELSEWHERE = {"NATS_URL", "LLM_ADMIN_URL"}
"""Variables that lead commands to another fleet, before they look for one on this machine."""


def main(folder: Path, wishes: Wishes) -> int:
    """Runs a stack until a signal says stop; returns the exit code.

    Raises StateInUse, PortTaken, StartFailed, AdminRefused; what fails while parts start side by side comes in a group.
    """

    async def start(stop: asyncio.Event) -> None:
        logs.configure(LogSettings(llm_log_format="plain"))
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, stop.set)
        # Names of folders are among what is said.
        console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
        await run(State(folder), wishes, stop=stop, console=console)

    return role.run(start)


async def run(state: State, wishes: Wishes, *, stop: asyncio.Event, console: Console) -> None:
    """Starts the stack, says on `console` what to try, keeps it running until `stop` is set, and ends everything."""
    with state.locked():
        stack = Stack(state, wishes, say=lambda line: console.print(f"  {line}"))
        console.print(f"Starting the fleet in {in_one_line(str(state.folder))}")
        try:
            with console.status("starting …"):
                started = await until(stop, stack.start())
            if started:
                ready = in_one_line(str(state.ready_file))
                console.print(f"Ready. Admin API: {stack.admin_url} · addresses and tokens: {ready}")
                console.print("Try, in another terminal (Ctrl-C here stops everything):")
                for hint in hints(state.folder, wishes):
                    console.print(f"  {hint}")
                await until(stop, stack.keep_running())
        finally:
            with console.status("stopping …"):
                await stack.stop()
            console.print("Stopped.")


def hints(folder: Path, wishes: Wishes) -> Iterator[str]:
    """Commands to try, as they work in any shell: with the path of this program, and with the folder unless they look
    there by themselves."""
    program = Path(sys.argv[0]).absolute()
    fleet = [str(program)] if program.name == "fleet" else [sys.executable, "-m", "fleet"]
    found = folder == home_folder() and not _ELSEWHERE & os.environ.keys()
    where = [] if found else ["--state", str(folder)]
    if wishes.pools.get("mock"):
        yield shlex.join([*fleet, "chat", "Hello", "--model", "mock/echo", *where])
    yield shlex.join([*fleet, "status", *where])


async def until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether `work` came to its end before `stop` was set. What it raises is raised."""
    working = asyncio.create_task(work, name="work until stop")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
            return True
        return False
    finally:
        await end(working, stopping)
