"""Imports what stays as long as the process, without Python's garbage collector looking through it again and again."""

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def for_good() -> Generator[None]:
    """Imports in the block take up to a fifth less time: modules make many objects, and next to no garbage. What is in
    memory at the end is never looked through again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
