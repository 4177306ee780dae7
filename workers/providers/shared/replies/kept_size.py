"""How much of a reply may be kept that is not passed on as it comes: what the vendor wants back, and what is held until
it is certain. It ends up in one message to an agent, so that more of it is of no use."""

MOST_KEPT_BYTES = 8 * 1024**2
_CONTAINER_BYTES = 32
"""What an object or a list counts beside its text: two characters take a hundred bytes of memory."""


class KeptSize:
    """Of one reply."""

    def __init__(self) -> None:
        self._bytes = 0

    @property
    def is_too_large(self) -> bool:
        return self._bytes > MOST_KEPT_BYTES

    def add(self, text: bytes) -> None:
        """Takes a JSON text from which something is kept."""
        self._bytes += len(text) + _CONTAINER_BYTES * (text.count(b"{") + text.count(b"["))
