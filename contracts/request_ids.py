"""Ids of requests: a new one, and when one says that it was made.

An agent may choose any token. `new` makes a UUID of version 7 (RFC 9562, section 5.7), whose first 48 bits are the time
in milliseconds: ids sort by their time, and the fleet need not look on its disk whether one that was made a moment ago
was used an hour ago.
"""

import os
import re
import time
from datetime import UTC, datetime
from uuid import UUID

_VERSION_7 = re.compile(r"([0-9a-f]{8})-?([0-9a-f]{4})-?7[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}", re.IGNORECASE)


def new() -> str:
    """An id that nobody else has."""
    bits = time.time_ns() // 1_000_000 << 80 | 7 << 76 | 2 << 62
    return str(UUID(int=bits | int.from_bytes(os.urandom(10)) & ~(15 << 76 | 3 << 62)))


def made_at(request_id: str) -> datetime | None:
    """When the id says that it was made; None when it says no time."""
    if (found := _VERSION_7.fullmatch(request_id)) is None:
        return None
    return datetime.fromtimestamp(int(found[1] + found[2], 16) / 1000, UTC)
