"""Reading the JSON bodies of requests: each format states the fields that it reads, and refuses a body that lacks them
or has other types.

So a format can use a body without looking at each type again, and a wrong one never becomes an error of the simulator.
"""

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import from_json


class BadBody(Exception):
    """A body that is not a JSON object, or whose fields are missing or of other types; a vendor answers it with 400."""

    def __init__(self, message: str, *, path: tuple[str | int, ...] = (), is_missing: bool = False) -> None:
        super().__init__(message)
        self.message = message
        """What is wrong with the value at `path`. Without a path a vendor says only that the body is no JSON object."""
        self.path = path
        """The names and positions that lead to the wrong value; empty: the body is no JSON object."""
        self.is_missing = is_missing
        """Whether the value is missing, rather than wrong."""

    @property
    def place(self) -> str:
        """The path as JavaScript writes it: `messages[0].role`."""
        return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".")


class Form(BaseModel):
    """The fields of an object that a format reads, with their types. Further fields are let through."""

    model_config = ConfigDict(strict=True)


OR_TEXT = BeforeValidator(lambda content: [] if isinstance(content, str) else content)
"""Annotates a list that may also be a text. A union would report the errors of both, of which one misleads."""


def read_body(data: bytes, form: type[Form], **known: Any) -> dict[str, Any]:
    """The body of a request, with all its fields as they were sent, in which `form` has found nothing wrong. `known`
    takes the place of what was sent under these names. Raises BadBody."""
    try:
        body: Any = from_json(data)
    except ValueError as exc:
        raise BadBody(str(exc)) from None
    if isinstance(body, dict):
        body |= known
    try:
        form.model_validate(body)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        # pydantic's own words for what is no object name our class, which is nothing to a caller.
        message = "Input should be an object" if first["type"] == "model_type" else first["msg"]
        raise BadBody(message, path=first["loc"], is_missing=first["type"] == "missing") from None
    return body
