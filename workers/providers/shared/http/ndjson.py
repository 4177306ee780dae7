"""Newline-delimited JSON, read incrementally: bytes in as they arrive, whole lines out.

A server that does not stream may answer with one JSON text that is spread over lines; it is one line, at the end.
"""

import json
import re

from workers.providers.shared.http.sse import EventTooLarge
from workers.providers.shared.json_text import MOST_BYTES_IN_A_ROW, MOST_IN_A_ROW, match_end

MAX_LINE_BYTES = 24 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"
_BLANK = re.compile(r"\s*+")


class Lines:
    """Cuts one stream into its lines; empty ones are dropped, and so is a byte order mark at the beginning."""

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        self._size = 0
        self._begun = False
        self._is_one_text = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes. Raises EventTooLarge."""
        head, newline, rest = data.rpartition(b"\n")
        if not newline or self._is_one_text:
            lines, rest = [], data
        else:
            lines = [line for line in b"".join([*self._tail, head]).split(b"\n") if line.strip()]
            self._tail, self._size = [], 0
            if lines and not self._begun:
                self._begun = True
                lines[0] = lines[0].removeprefix(_BOM)
                self._is_one_text = lines[0].strip() == b"{"
                if self._is_one_text:
                    lines, rest = [], b"\n".join([*lines, rest])
                elif not lines[0].strip():
                    del lines[0]
        if rest:
            self._tail.append(rest)
            self._size += len(rest)
        if self._size > MAX_LINE_BYTES:
            raise EventTooLarge(f"a line of more than {MAX_LINE_BYTES} bytes")
        return lines

    def end(self) -> bytes:
        """The last line, when its newline is missing; it may be cut."""
        line = b"".join(self._tail)
        self._tail.clear()
        return (line if self._begun else line.removeprefix(_BOM)).strip()


def json_texts(line: bytes) -> tuple[list[bytes], bytes]:
    """The JSON texts of a line that holds several, as servers write them that lose a newline, and what is none; at most
    MOST_IN_A_ROW in MOST_BYTES_IN_A_ROW."""
    if len(line) > MOST_BYTES_IN_A_ROW:
        return [], line
    text, decoder = line.decode(errors="replace").strip(), json.JSONDecoder(strict=False)
    found: list[bytes] = []
    at = 0
    while at < len(text) and len(found) < MOST_IN_A_ROW:
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        found.append(text[at:end].encode())
        at = match_end(_BLANK, text, end)
    return found, text[at:].encode()
