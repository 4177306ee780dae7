"""Token counts as vendors state them, before anybody believes them."""

from typing import Annotated

import msgspec

MAX_PARTS = 100
"""The most parts of a usage: compactions and other models in one call are a few. Each is priced, and kept with the
record."""
MAX_COUNT = 10**10
"""The most tokens that a count can mean: no reply and no prompt comes near it."""
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
"""A count without which an answer says nothing: with another number it is no answer."""


def plausible(count: int | None) -> int | None:
    """`count`; None when it cannot be a number of tokens. Servers send -1 and 2^64-1 for what they did not count."""
    return count if count is not None and 0 <= count <= MAX_COUNT else None
