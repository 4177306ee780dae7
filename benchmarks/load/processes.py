"""Processes on cores of their own, what they used, and what others used of the machine meanwhile. Linux."""

import asyncio
import os
import time
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from fleet.local.process import Command, Process

STOP_WITHIN_S = 30
_OURS = ("NATS_", "VAULT_", "LLM_", "DATABASE_URL", "OPENAI_", "DEFAULT_", "XDG_STATE_HOME")
"""How variables begin that would change what is measured."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where what is measured runs, and where everything else does: the same core when there is but one."""

    measured: int
    others: int
    all: frozenset[int]

    @classmethod
    def of_this_process(cls) -> "Cores":
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[min(1, len(allowed) - 1)], frozenset(allowed))


@dataclass(frozen=True, slots=True)
class Used:
    """By some processes: CPU since they began, user and system, and memory now."""

    cpu_s: float = 0
    rss_mb: float = 0


@contextmanager
def running_on(cores: Collection[int]) -> Generator[None]:
    """What is started meanwhile runs there, and this thread too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def move(pids: Iterable[int], core: int) -> None:
    """Moves all threads of these processes."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), {core})


def start(
    name: str, argv: Sequence[str], *, cores: Collection[int], folder: Path, env: Mapping[str, str] | None = None
) -> Process:
    """A process that ends with this one; what it prints is in `<folder>/<name>.log`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}
    with running_on(cores):
        return Process(Command(name, tuple(argv), folder / f"{name}.log", env={**inherited, **(env or {})}))


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that came from it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def used(processes: Iterable[psutil.Process]) -> Used:
    """By all threads of processes that are there."""
    cpu_s = rss_mb = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess), process.oneshot():
            times = process.cpu_times()
            cpu_s += times.user + times.system
            rss_mb += process.memory_info().rss / 1e6
    return Used(cpu_s, rss_mb)


def stolen_s() -> float:
    """What the hypervisor took away since the machine was started, over all cores."""
    return getattr(psutil.cpu_times(), "steal", 0.0)


def used_by_others_s() -> float:
    """CPU seconds of every process that did not come from this one, with their children that have ended."""
    own = {process.pid for process in tree(os.getpid())}
    total = 0.0
    for process in psutil.process_iter():
        if process.pid not in own:
            with suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
    return total


async def quiet(*, patience_s: float, share: float = 0.06, seconds: int = 2) -> bool:
    """Waits until nobody else has used more than a share of one core for some seconds; whether that came."""
    give_up, calm = time.monotonic() + patience_s, 0
    while calm < seconds:
        if time.monotonic() > give_up:
            return False
        before, begun = used_by_others_s(), time.monotonic()
        await asyncio.sleep(1)
        busy = (used_by_others_s() - before) / (time.monotonic() - begun)
        calm = calm + 1 if busy < share else 0
    return True
