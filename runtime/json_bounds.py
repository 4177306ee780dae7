"""How many values a JSON text may hold, told from its bytes before anything is made of them.

A parser makes an object of each value and a model tells of each wrong one: a megabyte of unknown fields costs seconds.
Long texts cost nothing like that, so it is the values that are bounded, not the bytes.
"""

import re

MOST_VALUES = 50_000
"""Members and elements of all objects and lists of a text together. So many take some 20 ms, also where all of them
are wrong."""

_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class TooManyValues(ValueError):
    """A JSON text holds more than `MOST_VALUES` values."""

    def __init__(self) -> None:
        super().__init__(f"it has more than {MOST_VALUES} values")


def check(data: bytes) -> None:
    """Raises TooManyValues. What is no JSON passes or not, and costs no more: 8 MB take some 30 ms."""
    if _at_most(data) <= MOST_VALUES:
        return
    # Commas and brackets may be those of texts, so these are left out. There are two texts to a value at most, its own
    # and its name; each has two quotes of its own, one of which may look escaped: "\\" ends in a backslash.
    if data.count(b'"') - data.count(b'\\"') > 4 * MOST_VALUES or _at_most(_TEXT.sub(b"", data)) > MOST_VALUES:
        raise TooManyValues


def _at_most(data: bytes) -> int:
    """Each value but the first follows a comma or is the first in a bracket."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")
