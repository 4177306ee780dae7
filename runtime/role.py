"""How a role runs: one event loop, signals that mean stop, and one clear line when it cannot start."""

import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop
from pydantic import ValidationError

from contracts.streams import JetStreamError, StreamMismatch
from runtime.broker import Unreachable
from runtime.settings import explain
from runtime.tasks import end, leaves

log = logging.getLogger(__name__)

CANNOT_START = 1
_OPEN_FILES = 65_536
_GC_THRESHOLDS = 20_000, 10, 50
"""How many new objects make the collector look through the youngest generation, and how often through the others."""


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> int:
    """Runs `main(stop)` until it returns; SIGTERM and SIGINT set `stop`. Returns the exit code."""

    async def with_signals() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, stop.set)
        await main(stop)

    # A core file, this process' memory, would hold the keys that are in it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _allow_open_files()
    try:
        uvloop.run(with_signals())
    except ValidationError as exc:
        return _refuse(explain(exc))
    except (Unreachable, StreamMismatch, JetStreamError) as exc:
        return _refuse(str(exc))
    except BaseExceptionGroup as group:
        known, unknown = group.split((Unreachable, StreamMismatch, JetStreamError))
        if unknown or known is None:
            raise
        return _refuse("; ".join(str(exc) for exc in leaves(known)))
    return 0


def _allow_open_files() -> None:
    """As many as the system lets this process have: each stream has a connection, and 1,024 is a common default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def is_set_up() -> None:
    """Says that what is in memory now stays there: the collector looks through what comes after it only, and less often
    than Python's defaults, because requests and batches make many objects and nearly no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


async def first_of(*waits: Awaitable[Any]) -> None:
    """Returns when the first of these is done, and cancels the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(*tasks)


def _refuse(why: str) -> int:
    print(f"fleet: {why}", file=sys.stderr, flush=True)  # noqa: T201 - the line that an operator sees
    return CANNOT_START
