"""The body of a reply as events: a stream of them, or one JSON text where a stream was asked for.

Servers that do not stream, or that fail, answer with a single JSON text; it is one event at the end.
"""

from workers.providers.shared.http.sse import BOM, MAX_EVENT_BYTES, Decoder, Event, EventTooLarge


class ReplyBody:
    """The body of one reply."""

    def __init__(self) -> None:
        self._events = Decoder()
        self._json: list[bytes] | None = None
        """The body so far, when it is one JSON text; None when it is a stream of events."""
        self._size = 0
        self._begun = False
        self._mark = b""
        """The part of a byte order mark that has come."""

    @property
    def is_json(self) -> bool:
        """Whether it is one JSON text; False until something has come."""
        return self._json is not None

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises EventTooLarge."""
        if not self._begun:
            data = (self._mark + data).lstrip().removeprefix(BOM).lstrip()
            if BOM.startswith(data):
                self._mark = data
                return []
            self._begun = True
            if data.startswith((b"{", b"[")):
                self._json = []
        if self._json is None:
            return self._events.feed(data)
        self._size += len(data)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLarge(f"a reply of more than {MAX_EVENT_BYTES} bytes in one piece")
        self._json.append(data)
        return []

    def end(self) -> list[Event]:
        """What was still incomplete when the body ended; it may be cut."""
        if self._json is not None:
            return [Event("", b"".join(self._json))]
        return [*self._events.end(), *([Event("", stray)] if (stray := self._events.stray) else [])]
