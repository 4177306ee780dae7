"""How many values a JSON text may hold, told from its bytes before anything is made of them.

A parser makes an object of each value and a model tells of each wrong one: a megabyte of unknown fields costs seconds.
Long texts cost nothing like that, so it is the values that are bounded, not the bytes.
"""

import re

MOST_VALUES = 50_000
"""Members and elements of all objects and lists of a text together. So many take some 20 ms, also where all of them
are wrong."""

_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A text with its quotes, also one that never ends: else what is behind its quote would be read once for each quote."""


class TooManyValues(ValueError):
    """A JSON text holds more values than it may."""

    def __init__(self, most: int) -> None:
        super().__init__(f"it has more than {most} values")


def check(data: bytes, *, most: int = MOST_VALUES) -> None:
    """Raises TooManyValues for more than `most` values.

    What is no JSON passes or not, and costs no more: 8 MB take some 30 ms.
    """
    if len(data) <= most or _at_most(data) <= most:  # each value takes a byte at least
        return
    # Commas and brackets may be those of texts, so these are left out. There are two texts to a value at most, its own
    # and its name; each has two quotes of its own, one of which may look escaped: "\\" ends in a backslash.
    if data.count(b'"') - data.count(b'\\"') > 4 * most or _at_most(_TEXT.sub(b"", data)) > most:
        raise TooManyValues(most)


def _at_most(data: bytes) -> int:
    """Each value but the first follows a comma or is the first in a bracket."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")
