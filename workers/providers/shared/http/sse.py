"""Server-sent events, read incrementally: bytes in as they arrive, whole events out.

Source: WHATWG HTML, "9.2.6 Interpreting an event stream". Lines end in LF, CR or CRLF, and a read may end anywhere,
also inside a character or a CRLF. Comments, `id` and `retry` are skipped. `data` stays bytes for the JSON decoder.

Three things differ from the standard, because vendors' events are JSON and their servers get them wrong:
- Events that are parted by one line end in place of two are still events: no JSON text has a `}` before a `{`.
- An event of blank data is a keep-alive and left out, unless it has a name: then it may be an error.
- Some servers break a stream off with an error that is no event: JSON on bare lines, which `Decoder.stray` collects.
  Older llama-servers write `error: {…}`, which becomes an event of that name.
"""

from typing import NamedTuple

MAX_EVENT_BYTES = 24 * 1024 * 1024
"""Though a message to an agent holds 8 MB: six bytes of JSON may stand for one of a text, and Gemini sends images of
13 MB and more."""
MAX_EVENT_LINES = 100_000
"""The most lines of data of one event: they are counted again with each read, and empty ones have no bytes to count."""
MAX_STRAY_BYTES = 64 * 1024
BOM = b"\xef\xbb\xbf"
KEEP_ALIVES = frozenset({"ping", "keepalive", "keep-alive", "heartbeat"})
"""Names of events that say nothing, whatever a gateway puts into them; some send the word as the data."""

_BEGINS_JSON = b'{}[]" \t'
"""How a line begins that starts or continues JSON: no name of a field begins like that."""
_OPENS = (b"{", b"[")
_CLOSES = (b"}", b"]")


class Event(NamedTuple):
    name: str
    """The value of the `event` field; empty when there was none."""
    data: bytes


class EventTooLarge(ValueError):
    """An event, or a list in one, is larger than can be read. Another try would end the same, and cost as much."""


class Decoder:
    """Turns the bytes of one stream into its events."""

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        """The line that has not ended yet."""
        self._size = 0
        """Bytes that are held back: the unfinished line and the data of the unfinished event."""
        self._name = ""
        self._data: list[bytes] = []
        self._after_cr = False
        self._begun = False
        self._stray: list[bytes] = []
        self._stray_size = 0

    @property
    def stray(self) -> bytes:
        """The lines that look like JSON in place of a field, as one text."""
        return b"\n".join(self._stray)

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes. Raises EventTooLarge."""
        if (event := self._one_event(data)) is not None:
            return [event]
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\n" not in data and b"\r" not in data:
            self._keep(data)
            return []
        rest = b""
        if b"\r" not in data:
            lines = data.split(b"\n")
            rest = lines.pop()
        else:
            lines = data.splitlines()
            if data.endswith(b"\r"):
                self._after_cr = True
            elif not data.endswith(b"\n"):
                rest = lines.pop()
        if self._tail:  # of megabytes, perhaps: it is copied once
            lines[0] = b"".join([*self._tail, lines[0]])
            self._tail.clear()
        if not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(BOM)
        events = self._interpret(lines)
        self._size = sum(map(len, self._data))
        self._keep(rest)
        return events

    def _one_event(self, data: bytes) -> Event | None:
        """What nearly every read of a stream brings: one event of one line, whole."""
        if (
            data.startswith(b"data: {")
            and data.find(b"\n") == len(data) - 2
            and data.endswith(b"}\n\n")
            and self._begun
            and not (self._tail or self._data or self._name or self._after_cr)
            and b"\r" not in data
        ):
            return Event("", data[6:-2])
        return None

    def end(self) -> list[Event]:
        """The event that lacks only its blank line; servers leave it out at the end of a stream."""
        line = b"".join(self._tail)
        self._tail.clear()
        return self._interpret([line if self._begun else line.removeprefix(BOM), b""])

    def _keep(self, data: bytes) -> None:
        if data:
            self._tail.append(data)
            self._size += len(data)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event of more than {MAX_EVENT_BYTES} bytes")
        if len(self._data) > MAX_EVENT_LINES:
            raise EventTooLarge(f"an event of more than {MAX_EVENT_LINES} lines")

    def _interpret(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            if line.startswith(b"data:"):
                data = line[6:] if line.startswith(b"data: ") else line[5:]
                if self._data:
                    self._continue(data, events)
                else:
                    self._data.append(data)
            elif not line:
                if self._data:
                    self._complete(events)
                if self._name:
                    self._name = ""
            elif line.startswith(b"event:"):
                if self._name and self._is_closed():
                    self._complete(events)
                self._name = line[6:].decode(errors="replace").removeprefix(" ")
            elif line.startswith(b"error:"):
                if self._data:
                    self._complete(events)
                self._name = "error"
                self._data.append(line[6:].strip())
            elif line == b"data":
                self._data.append(b"")
            elif line[0] in _BEGINS_JSON and self._stray_size < MAX_STRAY_BYTES:
                self._stray.append(line)
                self._stray_size += len(line)
        return events

    def _continue(self, data: bytes, events: list[Event]) -> None:
        """Takes a further line of data: of this event, or of the next one when no empty line parts them."""
        bare = data.strip()
        if not bare:
            return
        if bare.startswith(_OPENS) and self._is_closed():
            self._complete(events)
            self._name = ""
        self._data.append(data)

    def _is_closed(self) -> bool:
        """Whether the data so far ends like a JSON object or list, or like `[DONE]`."""
        return bool(self._data) and self._data[-1].rstrip().endswith(_CLOSES)

    def _complete(self, events: list[Event]) -> None:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data.clear()
        if (data and not data.isspace()) or self._name:
            events.append(Event(self._name, data))
