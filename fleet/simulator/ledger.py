"""What the simulator served: the other half of every test about bills, retries and hang-ups."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

_KEPT = 100_000
"""How many entries; the oldest are dropped."""
_BODIES_KEPT = 100
_KEY_HEADERS = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key"})


@dataclass(slots=True)
class Entry:
    """One completion that was asked for. Times are seconds since the epoch."""

    vendor: str
    path: str
    model: str
    request_id: str | None
    """The caller's name for it, from the vendor's header; None when there was none."""
    key_fingerprint: str | None
    """runtime.sealing's fingerprint of the key, which itself is never kept; None when the request had no key."""
    stream: bool
    at: float = field(default_factory=time.time)
    status: int | None = None
    """The HTTP status of the answer; None before it was sent."""
    input_tokens: int | None = None
    """As the answer stated; None when it stated no usage."""
    output_tokens: int | None = None
    chunks_sent: int = 0
    bytes_sent: int = 0
    """How many bytes of the answer's body were sent, before compression."""
    outcome: Literal["open", "finished", "failed", "cut", "hung_up"] = "open"
    ended_at: float | None = None
    """When it was over; for `hung_up`, when the caller went away."""


class Ledger:
    """The last entries, and the bodies and headers of the last requests."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque(maxlen=_KEPT)
        self.bodies: deque[dict[str, Any]] = deque(maxlen=_BODIES_KEPT)
        """The bodies of the last requests, for tests of what is sent."""
        self.headers: deque[dict[str, str]] = deque(maxlen=_BODIES_KEPT)
        """Their headers by lower-case name, without those that hold a key."""

    def open(self, entry: Entry, body: dict[str, Any], headers: Mapping[str, str]) -> Entry:
        """Takes an entry, which goes on changing until its request is over."""
        self.entries.append(entry)
        self.bodies.append(body)
        self.headers.append({name: value for name, value in headers.items() if name not in _KEY_HEADERS})
        return entry

    def of_model(self, model: str) -> list[Entry]:
        """The entries of one model, the oldest first."""
        return [entry for entry in self.entries if entry.model == model]

    def clear(self) -> None:
        self.entries.clear()
        self.bodies.clear()
        self.headers.clear()

    def to_list(self) -> list[dict[str, Any]]:
        """The entries as `GET /_sim/ledger` shows them."""
        return [asdict(entry) for entry in self.entries]
