"""The arguments of a call in a history, for vendors that take them as an object."""

from typing import Any

import msgspec

from workers.providers.shared.json_text import NO_JSON, refuse_too_many

_decode = msgspec.json.Decoder().decode


def as_object(text: str, *, otherwise: str) -> dict[str, Any]:
    """The object that `text` holds: an empty one for no arguments (a blank text, `null`).

    A model can write anything: what is no object is kept as it is, under the name `otherwise`.
    """
    if not text.strip():
        return {}
    try:
        refuse_too_many(text.encode(errors="replace"))
        value = _decode(text)
    except NO_JSON:
        return {otherwise: text}
    if value is None:
        return {}
    return value if isinstance(value, dict) else {otherwise: text}
