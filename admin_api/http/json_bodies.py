"""Request bodies that are JSON in a stricter sense than Python's parser: JSON that PostgreSQL, NATS and other readers
take, too.
"""

from http import HTTPStatus

from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from runtime import json_bounds

_ESCAPED_NUL = b"\\u0000"
"""A NUL character can stand in JSON in this form only: from_json refuses an unescaped one."""


def strict(receive: Receive, *, most_values: int = json_bounds.MOST_VALUES) -> Receive:
    """Wraps `receive` so that the application gets a body in one piece once all of it is there and is strict JSON.

    The wrapped one raises a 422 HTTPException for NaN, lone surrogates, NUL characters, more than about 200 levels, and
    more than `most_values` values.
    """

    async def receive_all() -> Message:
        message = await receive()
        if message["type"] != "http.request":
            return message
        parts = [message.get("body", b"")]
        while message["type"] == "http.request" and message.get("more_body", False):
            message = await receive()
            parts.append(message.get("body", b""))
        if message["type"] != "http.request":
            return message
        body = b"".join(parts)
        if body:
            try:
                json_bounds.check(body, most=most_values)
                parsed = from_json(body, allow_inf_nan=False, cache_strings="keys")
            except json_bounds.TooManyValues as exc:
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, f"is not taken: {exc}") from exc
            except ValueError as exc:
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "is not JSON, or is nested too deeply") from exc
            # The escape may itself be escaped, as in "\\u0000", which is six harmless characters: only the values tell.
            if _ESCAPED_NUL in body and _has_nul(parsed):
                raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "has a NUL character")
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_all


def _has_nul(value: object) -> bool:
    pending = [value]
    while pending:
        match pending.pop():
            case str() as text if "\0" in text:
                return True
            case dict() as members:
                pending += [*members, *members.values()]
            case list() as items:
                pending += items
            case _:
                pass
    return False
