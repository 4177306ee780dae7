"""Secrets that are known, and the search for them in whatever a running stack leaves behind."""

import random
import string
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.disguises import DISGUISES

SHOWN = 12
"""So many characters in a row of a secret are a leak."""


@dataclass(frozen=True)
class Bird:
    """Secrets of one kind: they all begin and end the same, so that one search finds every one of them."""

    head: str
    tail: str

    @classmethod
    def new(cls) -> "Bird":
        return cls(_letters(SHOWN), _letters(SHOWN))

    def secret(self, middle: str = "") -> str:
        """Another one each time."""
        return f"{self.head}{middle}{_letters(8)}{self.tail}"

    def forms(self) -> dict[bytes, str]:
        return forms(self.head) | forms(self.tail)

    def disguises(self) -> dict[bytes, str]:
        """What a hostile vendor may make of it, in each form that looks the same whatever stands around."""
        return {
            disguised(end).encode(): name
            for end in (self.head, self.tail)
            for name, disguised in DISGUISES.items()
            if disguised(end) in disguised(f"a{end}b")
        }


def forms(text: str) -> dict[bytes, str]:
    """The ways in which `text` may stand in a file or an answer, and what to call each."""
    raw = text.encode()
    found = {raw: "plain", raw.hex().encode(): "hex", raw.hex().upper().encode(): "HEX", quote(text).encode(): "quoted"}
    for encode in (b64encode, urlsafe_b64encode):
        for before in range(3):
            # Only the characters that are made of these bytes alone, wherever they begin within a group of three.
            encoded = encode(bytes(before) + raw).rstrip(b"=")
            begin, end = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
            found[encoded[begin:end]] = "base64"
    return found


def leaks(needles: Mapping[bytes, str], content: bytes, where: str) -> Iterator[str]:
    """What is found, without repeating it."""
    for needle, form in needles.items():
        if (at := content.find(needle)) >= 0:
            yield f"{where}: {form} at byte {at}"


def files(folders: Iterable[Path]) -> Iterator[tuple[Path, bytes]]:
    """What lies there now; a file that goes meanwhile is none."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                try:
                    yield path, path.read_bytes()
                except FileNotFoundError:
                    continue


def _letters(count: int) -> str:
    return "".join(random.choices(string.ascii_letters + string.digits, k=count))
