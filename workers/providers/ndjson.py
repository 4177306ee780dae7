"""Newline-delimited JSON, read incrementally: bytes in as they arrive, whole lines out."""

from workers.providers.sse import EventTooLarge

MAX_LINE_BYTES = 32 * 1024 * 1024


class Lines:
    """Cuts one stream into its lines; empty ones are dropped."""

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes. Raises EventTooLarge."""
        head, newline, rest = data.rpartition(b"\n")
        if newline:
            lines = b"".join([*self._tail, head]).split(b"\n")
            self._tail, self._size = [], 0
        else:
            lines = []
        if rest:
            self._tail.append(rest)
            self._size += len(rest)
        if self._size > MAX_LINE_BYTES:
            raise EventTooLarge(f"a line of more than {MAX_LINE_BYTES} bytes")
        return [line for line in lines if line.strip()]

    def end(self) -> bytes:
        """The last line, when its newline is missing; it may be cut."""
        line = b"".join(self._tail)
        self._tail.clear()
        return line.strip()
