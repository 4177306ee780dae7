"""The content blocks of a reply of Anthropic's, as they grow and as they go back with the next turn."""

from dataclasses import dataclass, field
from typing import Any

from workers.providers.anthropic.request import arguments_object
from workers.providers.shared.replies import reply_arguments

_SAYS_NONE = ("null", "{}")
"""Inputs that a further fragment replaces."""


@dataclass(slots=True)
class Block:
    """A content block as it grows."""

    index: int | None
    kind: str
    fields: dict[str, Any]
    """The fields of its beginning, and those that came whole since."""
    grown: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """What deltas added to the texts in `fields`, by field."""
    closed: bool = False
    call: int | None = None
    """The index of the tool call that it is; None when it is none, or not passed on yet."""
    texts: list[str] = field(default_factory=list[str])
    thoughts: list[str] = field(default_factory=list[str])
    signature: list[str] = field(default_factory=list[str])
    citations: list[Any] = field(default_factory=list[Any])
    input: list[str] = field(default_factory=list[str])
    held_back: int = 0
    """How many fragments of `input` have not been passed on."""
    says: str | None = ""
    """The text of `input`, white space at its end as one blank, for as long as it may become one of _SAYS_NONE.

    None once it cannot."""

    @property
    def says_none(self) -> bool:
        """Whether the fragments so far are no input."""
        return self.says is not None and self.says.rstrip() in ("", *_SAYS_NONE)

    def add_input(self, fragment: str) -> None:
        """Adds a fragment of a call's input. One that begins an object replaces a `null` or `{}` before it."""
        if self.held_back and self.says_none and fragment.lstrip().startswith("{"):
            self.input.clear()
            self.says = ""
        self.input.append(fragment)
        if self.says is None:
            return
        text = (self.says + fragment).lstrip()
        bare = text.rstrip()
        may_say_none = any(none.startswith(bare) for none in _SAYS_NONE)
        self.says = bare + " " * (bare != text) if may_say_none else None

    def grow(self, delta: dict[str, Any]) -> None:
        """Takes a delta of a kind that is not known here: texts are appended, everything else is replaced."""
        for name, value in delta.items():
            if name == "type":
                continue
            if isinstance(value, str) and isinstance(self.fields.get(name), str):
                self.grown.setdefault(name, []).append(value)
            else:
                self.grown.pop(name, None)
                self.fields[name] = value

    def get(self, name: str) -> Any:
        """A field with all that has come of it."""
        if more := self.grown.pop(name, None):
            self.fields[name] += "".join(more)
        return self.fields.get(name)

    def whole(self) -> dict[str, Any]:
        """The block as a reply in one piece would have had it."""
        block = {name: self.get(name) for name in self.fields}
        for name, parts in (("text", self.texts), ("thinking", self.thoughts), ("signature", self.signature)):
            if parts or name in block:
                block[name] = text_in(block.get(name)) + "".join(parts)
        if self.citations:
            before = block.get("citations")
            block["citations"] = [*(before if isinstance(before, list) else ()), *self.citations]
        if self.input:
            block["input"] = arguments_object(reply_arguments.of_value("".join(self.input)))
        return block


def blocks_in(content: Any) -> list[dict[str, Any]]:
    """The blocks of a message's content, which some servers write as a text."""
    match content:
        case str(text):
            return [{"type": "text", "text": text}]
        case [*blocks]:
            return [block for block in blocks if isinstance(block, dict)]
        case _:
            return []


def text_in(value: Any) -> str:
    """`value` if it is a text, else an empty one."""
    return value if isinstance(value, str) else ""


def id_in(given: Any) -> str:
    """The id of a call as a text: some servers number their calls."""
    return str(given) if type(given) is int else text_in(given)


def kind_of(fields: dict[str, Any]) -> str:
    """A block's type; where that is missing or odd, what its fields say."""
    if kind := text_in(fields.get("type")):
        return kind
    return "tool_use" if "name" in fields else "thinking" if "thinking" in fields else "text"


def is_special(block: dict[str, Any]) -> bool:
    """Whether a block holds more than the contract's message can, so that it must be kept for the next turn."""
    match block:
        case {"type": "text"}:
            return bool(block.get("citations"))
        case {"type": "tool_use", "caller": {"type": str(caller)}}:
            return bool(block.get("toolset_name")) or caller != "direct"
        case {"type": "tool_use"}:
            return bool(block.get("toolset_name"))
        case _:
            return True


def can_come_back(block: dict[str, Any]) -> bool:
    """Whether the API takes a block back: it refuses empty texts, thoughts without a signature, and calls without an
    id."""
    match block:
        case {"type": "text"}:
            return bool(text_in(block.get("text")))
        case {"type": "thinking"}:
            return bool(text_in(block.get("signature")))
        case {"type": "tool_use"}:
            return bool(block.get("id"))
        case _:
            return True
