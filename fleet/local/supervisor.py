"""Keeps the parts of a stack running: what dies is started again, at once the first time, more patiently after that."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from fleet.local.process import Process, StartFailed
from runtime.backoff import exponential_s
from runtime.broker import Unreachable
from runtime.tasks import end

log = logging.getLogger(__name__)

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0
STABLE_AFTER_S = 30.0
"""A part that ran for so long before it died begins again with the shortest wait."""


class Part(Protocol):
    """A server or a role."""

    @property
    def process(self) -> Process | None:
        """The process of the last start; None before the first."""
        ...

    async def start(self) -> None:
        """Returns when it answers. Raises StartFailed."""
        ...

    async def stop(self) -> None:
        """Ends the process, if there is one. Safe to repeat."""
        ...


def wait_before_restart(failures: int) -> float:
    """How many seconds to wait after that many deaths in a row."""
    return exponential_s(FIRST_WAIT_S, failures=failures, longest_s=LONGEST_WAIT_S)


async def keep_running(name: str, part: Part, *, on_restart: Callable[[], None]) -> None:
    """Runs until cancelled; the part was started before. `on_restart` is called when it answers again."""
    failures = 0
    while process := part.process:
        since = time.monotonic()
        code = await process.exited()
        failures = 1 if time.monotonic() - since > STABLE_AFTER_S else failures + 1
        wait_s = wait_before_restart(failures)
        log.warning("part_died", extra={"part": name, "code": code, "restart_in_s": round(wait_s, 1)})
        await asyncio.sleep(wait_s)
        while not await _starts(name, part):
            failures += 1
            await asyncio.sleep(wait_before_restart(failures))
        log.warning("part_restarted", extra={"part": name})
        on_restart()


async def together(work: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Runs all of it, by the names of its tasks, until it is cancelled or one fails, whose exception is raised; then
    ends the rest.

    In place of a TaskGroup, which cancels its tasks once and then waits: one that asks NATS may lose that cancellation
    (see `end`), and the stack would never stop.
    """
    tasks = [asyncio.create_task(each, name=name) for name, each in work.items()]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await end(*tasks)


async def _starts(name: str, part: Part) -> bool:
    """Starts the part. Whether it answers now; otherwise nothing of it runs, and the log says why."""
    try:
        await part.start()
    except (StartFailed, Unreachable) as exc:
        log.error("part_did_not_start", extra={"part": name, "error": str(exc)})
    except Exception:
        log.exception("part_did_not_start", extra={"part": name})
    else:
        return True
    await part.stop()
    return False
