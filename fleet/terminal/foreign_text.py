"""What models, vendors, tenants and file names say, printed without letting it do anything.

A terminal obeys escape sequences: they move its cursor, change its title, write into its clipboard. So a control
character of a foreign text is shown there as what it is, `\\x1b`. What is piped stays as it was written. rich, beside
that, reads `[bold]` and `:smile:` in a `str` as orders: give it a `Text`.
"""

import sys
from typing import TextIO

_SHOWN = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    ord("\n"): "\n",
    ord("\t"): "\t",
    ord("\r"): "",  # half of a line's end, and alone it only hides what stands before it
}
_SHOWN_IN_A_LINE = _SHOWN | {ord("\n"): "\\n", ord("\t"): "\\t"}


def visible(text: str) -> str:
    """`text` with no control character in it but line ends and tabs."""
    return text.translate(_SHOWN)


def in_one_line(text: str) -> str:
    """`text` with no control character in it at all, for the cell of a table."""
    return text.translate(_SHOWN_IN_A_LINE)


def for_stream(text: str, stream: TextIO) -> str:
    """`text` as it may be written to `stream`: made visible on a terminal, unchanged in a pipe."""
    return visible(text) if stream.isatty() else text


def say(line: str, *, err: bool = False) -> None:
    """Writes a line to stdout, or to stderr, so that it does nothing on a terminal but appear."""
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{for_stream(line, stream)}\n")
    stream.flush()
