"""What the simulator served: the other half of every test about bills, retries and hang-ups."""

import hashlib
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

_KEPT = 100_000
_BODIES_KEPT = 100
_KEY_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})


@dataclass(slots=True)
class Entry:
    """One request. Times are seconds since the epoch."""

    vendor: str
    path: str
    model: str
    request_id: str | None
    """What the caller named it, in the vendor's header."""
    key_fingerprint: str | None
    """First 8 hex digits of the key's SHA-256; the key itself is never kept."""
    stream: bool
    at: float = field(default_factory=time.time)
    status: int | None = None
    input_tokens: int | None = None
    """As stated; None when no usage was stated."""
    output_tokens: int | None = None
    chunks_sent: int = 0
    bytes_sent: int = 0
    outcome: Literal["open", "finished", "failed", "cut", "hung_up"] = "open"
    ended_at: float | None = None
    """When it was over; for `hung_up`, when the caller went away."""


class Ledger:
    def __init__(self) -> None:
        self.entries: deque[Entry] = deque(maxlen=_KEPT)
        self.bodies: deque[dict[str, Any]] = deque(maxlen=_BODIES_KEPT)
        """What was asked last, for tests of the request."""
        self.headers: deque[dict[str, str]] = deque(maxlen=_BODIES_KEPT)
        """With which headers, but for those that hold a key."""

    def open(self, entry: Entry, body: dict[str, Any], headers: Mapping[str, str]) -> Entry:
        self.entries.append(entry)
        self.bodies.append(body)
        self.headers.append({name: value for name, value in headers.items() if name not in _KEY_HEADERS})
        return entry

    def of_model(self, model: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.model == model]

    def clear(self) -> None:
        self.entries.clear()
        self.bodies.clear()
        self.headers.clear()

    def to_list(self) -> list[dict[str, Any]]:
        return [asdict(entry) for entry in self.entries]


def fingerprint(key: str | None) -> str | None:
    return hashlib.sha256(key.encode()).hexdigest()[:8] if key else None
