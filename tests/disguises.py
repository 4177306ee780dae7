"""How a vendor may write a key that it says back, so that a search for the key as it is finds nothing."""

import base64
import codecs
from collections.abc import Callable
from urllib.parse import quote

ZERO_WIDTH = "\u200b"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _hex(text: str) -> str:
    return text.encode().hex()


def _each(written: str, between: str = "") -> Callable[[str], str]:
    return lambda key: between.join(written.format(ord(char)) for char in key)


DISGUISES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "lower": str.lower,
    "upper": str.upper,
    "swapped": str.swapcase,
    "reversed": lambda key: key[::-1],
    "hex": _hex,
    "HEX": lambda key: _hex(key).upper(),
    "hex:": lambda key: key.encode().hex(":"),
    "hex-": lambda key: "-".join(_hex(key)),
    "hex of reversed": lambda key: _hex(key[::-1]),
    "reversed hex": lambda key: _hex(key)[::-1],
    "hex of UTF-16": lambda key: key.encode("utf-16-le").hex(),
    "0x": _each("0x{:02x}", ", "),
    "base64": _base64,
    "base64 after one": lambda key: _base64(f"x{key}"),
    "base64 after two": lambda key: base64.urlsafe_b64encode(f"xy{key}".encode()).decode(),
    "base64 of base64": lambda key: _base64(_base64(key)),
    "base64 of hex": lambda key: _base64(_hex(key)),
    "base64 of reversed": lambda key: _base64(key[::-1]),
    "reversed base64": lambda key: _base64(key)[::-1],
    "spaced base64": lambda key: " ".join(_base64(key)),
    "base32": lambda key: base64.b32encode(key.encode()).decode(),
    "percent": _each("%{:02X}"),
    "percent twice": lambda key: quote(_each("%{:02X}")(key)),
    "quoted-printable": _each("={:02X}"),
    "JSON": _each("\\u{:04x}"),
    "JSON twice": _each("\\\\u{:04x}"),
    "JavaScript": _each("\\u{{{:x}}}"),
    "\\x": _each("\\x{:02x}"),
    "octal": _each("\\{:03o}"),
    "entities": _each("&#{};"),
    "entities in hex": _each("&#x{:X};"),
    "entities twice": _each("&amp;#{};"),
    "code points": _each("U+{:04X}", " "),
    "decimals": _each("{}", ", "),
    "octals": _each("{:03o}", " "),
    "bits": _each("{:08b}", " "),
    "spaced": " ".join,
    "dashed": "-".join,
    "dotted": ".".join,
    "lines": "\n".join,
    "with a letter between": "x".join,
    "with two letters between": "ab".join,
    "in fours": lambda key: " ".join(key[at : at + 4] for at in range(0, len(key), 4)),
    "zero width": ZERO_WIDTH.join,
    "zero width in JSON": "\\u200b".join,
    "struck out": "\u0336".join,
    "full width": lambda key: "".join(chr(ord(char) + 0xFEE0) for char in key),
    "rot13": lambda key: codecs.encode(key, "rot13"),
    "base64 of rot13": lambda key: _base64(codecs.encode(key, "rot13")),
}
"""By name: what is made of a key of printable ASCII."""
