"""The parts of a reply of Gemini's, as they came, and as they go back with the next turn."""

import re
from collections.abc import Set
from typing import Any

import msgspec
from pydantic import JsonValue

from contracts.events import ToolCallDelta
from workers.providers.shared.json_text import NO_JSON, decode_any

_MEDIA = frozenset({"inlineData", "fileData"})
_MOST_NAMED, _MOST_NAME_CHARS = 10, 64
"""How many names of a server's own one warning holds, and how long they may be."""
_BESIDE_CONTENT = frozenset({"thought", "thoughtSignature", "partMetadata", "videoMetadata", "mediaResolution"})


class RawParts:
    """The parts of an event's candidates with all their fields. The event is decoded once, when they are wanted.

    An object in place of a list is its only item, as FieldwiseDecoder takes it.
    """

    def __init__(self, data: bytes | msgspec.Raw) -> None:
        self._data = data
        self._candidates: list[Any] | None = None

    def of_candidate(self, position: int) -> list[Any]:
        """The parts of the candidate at `position`, which must have some."""
        candidates = self._candidates
        if candidates is None:
            given = decode_any(self._data)["candidates"]
            self._candidates = candidates = [given] if isinstance(given, dict) else given
        parts = candidates[position]["content"]["parts"]
        return [parts] if isinstance(parts, dict) else parts


class KeptParts:
    """The parts of a reply as the next turn needs them."""

    def __init__(self) -> None:
        self._parts: list[dict[str, JsonValue]] = []
        self._text: list[str] = []
        """The text since the last part, in fragments."""
        self._needed = False
        self._of_its_tools: set[str] = set()
        self._media: set[str] = set()

    def add_text(self, text: str) -> None:
        if text:
            self._text.append(text)

    def add(self, part: dict[str, JsonValue]) -> bool:
        """Adds a part that is more than text, and returns whether it is kept. Media is only named in a warning, and a
        summary of thoughts is left out unless it is signed."""
        kinds = part.keys() - _BESIDE_CONTENT
        if kinds & _MEDIA:
            _name({_kind_of_media(part)}, to=self._media)
            return False
        others = kinds - {"text", "functionCall"}
        is_signed = bool(part.get("thoughtSignature"))
        if not (others or is_signed or "functionCall" in kinds):
            return False
        self._end_text()
        self._parts.append(part)
        _name(others, to=self._of_its_tools)
        self._needed = self._needed or bool(others) or is_signed
        return True

    def drop(self) -> None:
        """Forgets the parts so far: there are more than may be kept."""
        self._parts.clear()
        self._text.clear()

    def kept(self) -> dict[str, JsonValue] | None:
        """What the model wants back; None when the message says it all."""
        self._end_text()
        return {"google": {"parts": [*self._parts]}} if self._needed else None

    def warnings(self, provider: str) -> tuple[str, ...]:
        """What of the parts agents do not see, a sentence each."""
        made = f"{provider} made {', '.join(sorted(self._media))}, which is not passed on"
        used = f"{provider} used tools of its own ({', '.join(sorted(self._of_its_tools))}); see provider_data"
        return (*((made,) if self._media else ()), *((used,) if self._of_its_tools else ()))

    def _end_text(self) -> None:
        if self._text:
            self._parts.append({"text": "".join(self._text)})
            self._text.clear()


def _name(names: Set[str], *, to: set[str]) -> None:
    """Adds names that go into a warning. They are the server's own, so no more and no longer ones are kept than a
    warning can hold."""
    for name in sorted(names):
        if len(to) < _MOST_NAMED:
            to.add(name[:_MOST_NAME_CHARS])


def _kind_of_media(part: dict[str, JsonValue]) -> str:
    for kind in _MEDIA:
        match part.get(kind):
            case {"mimeType": str(media_type)}:
                return re.split(r"[;\s]", media_type[:_MOST_NAME_CHARS], maxsplit=1)[0]
            case _:
                pass
    return "media"


def answerable(part: dict[str, Any], call: ToolCallDelta | None) -> dict[str, Any]:
    """A part as the next turn can send it back: without a call that agents did not get (None), and with a call's name
    and arguments in the form that the API takes."""
    made = part["functionCall"]
    rest = {name: value for name, value in part.items() if name != "functionCall"}
    if call is None:
        return {"text": "", **rest}
    if not (made.get("name") and isinstance(made["name"], str)):
        made = {**made, "name": call.name}
    if not isinstance(made.get("args", {}), dict):
        try:
            args = decode_any((call.arguments or "").encode())
        except NO_JSON:
            args = {}
        made = {**made, "args": args if isinstance(args, dict) else {}}
    return {**rest, "functionCall": made}
