"""The forms in which a text may hold a secret: with other characters between, escaped, encoded, reversed.

A text is decoded in every way that is known here, and what comes out is decoded again, so that the base64 of an
escaped secret is found, too. The work is bounded by the length of the text, which the caller bounds: 2,000 characters
take a few milliseconds. A secret that was encrypted, or described in words, is not found.
"""

import codecs
import html
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator

PART_CHARS = 8
"""So many letters and digits of a secret are a part of it. Fewer are found in texts that have nothing to do with it."""
_STEP = 2
"""The parts that are looked for begin at every second character, so a run of PART_CHARS + 1 is found for certain."""
_MOST_LAYERS = 3
"""How many encodings around each other are taken off."""

_ESCAPED = re.compile(
    r"(?:\\x|0x|%|=)([0-9a-f]{2})"  # \x73, 0x73, URLs, quoted-printable
    r"|(?:\\u|%u|u\+)([0-9a-f]{4})|\\u\{([0-9a-f]{1,5})\}"  # JSON, a code point, JavaScript
    r"|\\([0-7]{3})",
    re.IGNORECASE,
)
_BASES = (16, 16, 16, 8)
"""Of the numbers in the groups of _ESCAPED."""
_NO_LETTERS = re.compile(r"[^A-Za-z0-9]+")
_NUMBER = re.compile(r"\d{2,3}")
_READABLE = re.compile(rb"[\x20-\x7e]{%d,}" % PART_CHARS)


class _Alphabet(dict[int, str | None]):
    """The digits of an encoding as bits, for `str.translate`; what is no digit is left out."""

    def __init__(self, *digits: str) -> None:
        """`digits`: all of them in their order; several texts for digits that mean the same."""
        super().__init__(dict.fromkeys(range(128)))
        self.bits = (len(digits[0]) - 1).bit_length()
        for written in digits:
            self.update({ord(digit): f"{value:0{self.bits}b}" for value, digit in enumerate(written)})

    def __missing__(self, _char: int) -> None:
        return None


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BASE64 = _Alphabet(*(f"{_LETTERS}{_LETTERS.lower()}0123456789{others}" for others in ("+/", "-_")))
_OF_LETTERS = (
    _Alphabet("01"),
    _Alphabet("0123456789ABCDEF", "0123456789abcdef"),
    _Alphabet(f"{_LETTERS}234567", f"{_LETTERS.lower()}234567"),
    _BASE64,
)


def parts_of(secrets: Iterable[str]) -> frozenset[str]:
    """The parts of secrets that `holds` looks for; none of a secret that is shorter than a part."""
    found: set[str] = set()
    for secret in secrets:
        letters = _letters(secret).lower()
        for said in (letters, codecs.encode(letters, "rot13")):
            for form in (said, said[::-1]):
                starts = {*range(0, len(form) - PART_CHARS + 1, _STEP), len(form) - PART_CHARS}
                found.update(form[at : at + PART_CHARS] for at in starts if at >= 0)
    return frozenset(found)


def holds(text: str, parts: frozenset[str]) -> bool:
    """Whether a text holds one of the parts in any form."""
    return bool(parts) and any(
        not parts.isdisjoint(form[at : at + PART_CHARS] for at in range(len(form) - PART_CHARS + 1))
        for form in _forms(text)
    )


def _forms(text: str) -> Iterator[str]:
    """The letters and digits, in lower case, of a text and of all that it may be the encoding of."""
    layer = {text, _unescaped(text)}
    for number in range(_MOST_LAYERS + 1):
        inner: set[str] = set()
        for form in layer:
            letters = _letters(form)
            if len(letters) < PART_CHARS:
                continue
            yield letters.lower()
            if number == 0:
                inner.update((letters[::-1], *(letters[start::step] for step in (2, 3) for start in range(step))))
            if number < _MOST_LAYERS:
                inner.update(_decoded(form, letters))
        layer = inner


def _decoded(form: str, letters: str) -> Iterator[str]:
    """What a text may be the encoding of. `letters`: its letters and digits."""
    if (unescaped := _unescaped(form)) != form:
        yield unescaped
    numbers = _NUMBER.findall(form)
    if len(numbers) >= PART_CHARS:
        yield "".join(chr(code) for number in numbers if 32 <= (code := int(number)) < 127)
        yield "".join(chr(int(number, 8)) for number in numbers if not set(number) & {"8", "9"})
    for alphabet in _OF_LETTERS:
        yield from _of_digits(letters, alphabet)
    if len(letters) != len(form):
        yield from _of_digits(form, _BASE64)


def _of_digits(text: str, alphabet: _Alphabet) -> Iterator[str]:
    """The readable texts that digits stand for, wherever in a group of them the first byte begins."""
    if len(text) * alphabet.bits < 8 * PART_CHARS or len(bits := text.translate(alphabet)) < 8 * PART_CHARS:
        return
    number = int(bits, 2)
    for behind in range(0, 8, math.gcd(alphabet.bits, 8)):
        data = (number >> behind).to_bytes(len(bits) // 8 + 1)
        if readable := _READABLE.findall(data.replace(b"\0", b"")):  # UTF-16 has a zero beside each letter
            yield b" ".join(readable).decode("ascii")


def _unescaped(text: str) -> str:
    for _ in range(_MOST_LAYERS):
        before = text
        text = _ESCAPED.sub(_character, html.unescape(text) if "&" in text else text)
        if text == before:
            break
    return text


def _character(escaped: re.Match[str]) -> str:
    return next(chr(int(digits, base)) for digits, base in zip(escaped.groups(), _BASES, strict=True) if digits)


def _letters(text: str) -> str:
    """The letters and digits of a text. Signs that only look different (full width, bold, in circles) count as what
    they look like."""
    return _NO_LETTERS.sub("", text if text.isascii() else unicodedata.normalize("NFKD", text))
