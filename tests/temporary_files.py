"""Where a run of the tests keeps its temporary files: in memory where there is room, else where the system says.

The servers of the tests make some thousand small files for each test and sync them to disk, which no test asks for but
what the servers promise does. On a disk a NATS server with its streams cost 0.14 s of processor time and 0.2 s of
waiting, in memory 0.02 s and 0.03 s; a PostgreSQL database made of a template 0.25 s and 0.35 s, in memory 0.02 s.
"""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil

MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 1024**3
"""Several times what a whole run has at once."""
_PREFIX = "fleet-tests-"


@contextmanager
def in_memory() -> Generator[None]:
    """Makes `tempfile`, and so pytest's own folders and the processes that are started, use memory, unless TMPDIR says
    where to. All of it is removed at the end; what a run that was killed has left is removed first."""
    if "TMPDIR" in os.environ or not _has_room(MEMORY):
        yield
        return
    for left in MEMORY.glob(f"{_PREFIX}[0-9]*"):
        if not psutil.pid_exists(int(left.name.removeprefix(_PREFIX))):
            shutil.rmtree(left, ignore_errors=True)
    folder = MEMORY / f"{_PREFIX}{os.getpid()}"
    folder.mkdir(mode=0o755)  # PostgreSQL runs as somebody else when we are root
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = None
        del os.environ["TMPDIR"]
        shutil.rmtree(folder, ignore_errors=True)


def _has_room(folder: Path) -> bool:
    """Whether there is memory to write to below `folder`, and to run programs from, as tests of installations do."""
    try:
        system = os.statvfs(folder)
    except OSError:
        return False
    free = min(system.f_bavail * system.f_frsize, psutil.virtual_memory().available)
    return os.access(folder, os.W_OK) and not system.f_flag & os.ST_NOEXEC and free >= ROOM_BYTES
