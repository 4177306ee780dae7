"""What a server of OpenAI's format wants to see again of an assistant's message, beside its text and its calls.

| field | of |
|---|---|
| the name under which reasoning came | servers that refuse a tool turn without it (DeepSeek, Kimi, GLM) |
| `reasoning_details` | OpenRouter: signatures and encrypted reasoning of the model behind it |
| `thinking_blocks` | LiteLLM: Claude's signed thinking |
| `reasoning_opaque` | GitHub Copilot |
| `extra_content` | Gemini's thought signature of a text |
"""

from typing import Any

from pydantic import JsonValue

_TEXTS = ("text", "summary", "thinking")
_ENDS = ("signature", "data")


class WantedBack:
    """Gathers the fields from a reply's deltas."""

    def __init__(self) -> None:
        self.reasoning_field: str | None = None
        self._lists: dict[str, _Items] = {}
        self._fields: dict[str, JsonValue] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found beside the name of the reasoning's field."""
        return not (self._lists or self._fields)

    def add_items(self, field: str, items: Any) -> None:
        if items and isinstance(items, list):
            self._lists.setdefault(field, _Items()).add(items)

    def add_field(self, field: str, value: Any) -> None:
        if not value:
            return
        known = self._fields.get(field)
        if isinstance(known, dict) and isinstance(value, dict):
            known.update(value)
        else:
            self._fields[field] = value

    def kept(self, tool_calls: list[JsonValue]) -> dict[str, JsonValue] | None:
        """What the server will want back, as request.py reads it; None when there is nothing.

        `tool_calls`: what is wanted back of each call.
        """
        lists: dict[str, JsonValue] = {field: items.joined() for field, items in self._lists.items()}
        kept: dict[str, JsonValue] = {
            "reasoning_field": self.reasoning_field,
            "message": {field: value for field, value in (lists | self._fields).items() if value},
            "tool_calls": tool_calls,
        }
        return {name: value for name, value in kept.items() if value} or None


class _Items:
    """Objects that come in fragments.

    A fragment has the type and the `index` of its object. One without an index continues the last object; but where
    several come together, only the first of them does.
    """

    def __init__(self) -> None:
        self._items: list[_Item] = []
        self._by_index: dict[tuple[Any, Any], _Item] = {}

    def add(self, fragments: list[Any]) -> None:
        """`fragments`: those that came together."""
        for place, fragment in enumerate(fragments):
            if not isinstance(fragment, dict):
                continue
            kind, index = str(fragment.get("type")), fragment.get("index")
            if isinstance(index, int):
                item = self._by_index.get((kind, index))
            else:
                last = self._items[-1] if self._items else None
                item = last if last and place == 0 and last.goes_on_with(fragment) else None
            if item is None:
                item = _Item()
                self._items.append(item)
                if isinstance(index, int):
                    self._by_index[kind, index] = item
            item.add(fragment)

    def joined(self) -> list[JsonValue]:
        return [item.joined() for item in self._items]


class _Item:
    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}

    def goes_on_with(self, fragment: dict[str, Any]) -> bool:
        """Whether a fragment that names no object is one of this: of its type, and this has not been signed."""
        is_open = not any(self._fields.get(end) for end in _ENDS)
        has_its_id = fragment.get("id") in (None, self._fields.get("id"))
        return is_open and has_its_id and self._fields.get("type") == fragment.get("type")

    def add(self, fragment: dict[str, Any]) -> None:
        for name, value in fragment.items():
            if name in _TEXTS and isinstance(value, str):
                self._texts.setdefault(name, []).append(value)
                self._fields.setdefault(name, "")
            elif value or name not in self._fields:
                self._fields[name] = value

    def joined(self) -> JsonValue:
        return {**self._fields, **{name: "".join(texts) for name, texts in self._texts.items()}}
