"""Files that only their owner may read."""

import os
from pathlib import Path


def private_folder(path: Path) -> Path:
    """Makes the folder `path`, if it is missing, and lets only its owner in. Returns it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


def write_private(path: Path, text: str) -> None:
    """Replaces `path` atomically by a file for its owner only."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    fresh.replace(path)
