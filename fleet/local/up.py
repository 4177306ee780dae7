"""`fleet up`: one stack in the foreground, until a signal says stop."""

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console

from fleet.local.stack import Stack, Wishes
from fleet.local.state import State
from runtime import logs, role
from runtime.settings import LogSettings
from runtime.tasks import end


def main(folder: Path, wishes: Wishes) -> int:
    """Raises StateInUse, PortTaken, StartFailed, AdminRefused; those of a running start come in a group."""

    async def start(stop: asyncio.Event) -> None:
        logs.configure(LogSettings(llm_log_format="plain"))
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, stop.set)
        await run(State(folder), wishes, stop=stop, console=Console())

    return role.run(start)


async def run(state: State, wishes: Wishes, *, stop: asyncio.Event, console: Console) -> None:
    """Returns when `stop` is set and everything has ended."""
    with state.locked():
        stack = Stack(state, wishes, say=lambda line: console.print(f"  {line}", highlight=False, soft_wrap=True))
        console.print(f"Starting the fleet in {state.folder}", highlight=False, soft_wrap=True)
        try:
            with console.status("starting …"):
                started = await until(stop, stack.start())
            if started:
                console.print(
                    f"Ready. Admin API: {stack.admin_url} · addresses and tokens: {state.ready_file}\n"
                    'Try: fleet chat "Hello" --model mock/echo · fleet status · Ctrl-C stops everything',
                    highlight=False,
                    soft_wrap=True,
                )
                await until(stop, stack.keep_running())
        finally:
            with console.status("stopping …"):
                await stack.stop()
            console.print("Stopped.")


async def until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether `work` came to its end before `stop` was set. What it raises is raised."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
            return True
        return False
    finally:
        await end(working, stopping)
