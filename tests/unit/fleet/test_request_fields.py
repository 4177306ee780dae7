"""What the client's keyword arguments take is what a request has."""

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel, JsonValue

from contracts.requests import CompletionRequest, RequestFields

PARAMETERS = {"id", "tenant", "agent", "model", "messages", "deadline"}
"""Fields that the client's own parameters say."""
MODEL = get_type_hints(CompletionRequest, include_extras=True)
FIELDS = get_type_hints(RequestFields)
ALSO = {"stop": {str}}
"""What a validator takes besides."""


def shape(annotation: Any) -> frozenset[Any]:
    """What may be given: classes and literals as they are, a list as ("list", …), whatever is an object as "object"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return shape(arguments[0])
    if origin in (Union, types.UnionType):
        return frozenset().union(*map(shape, arguments))
    if origin is Literal:
        return frozenset(arguments)
    if origin in (tuple, Sequence):
        return frozenset({("list", shape(arguments[0]))})
    if origin in (dict, Mapping):
        inner = arguments[1]
        return frozenset({"object"} if inner in (Any, JsonValue) else {("object of", shape(inner))})
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return frozenset({annotation, "object"})
    return frozenset({annotation})


def test_every_field_can_be_given_by_name() -> None:
    assert set(FIELDS) == set(CompletionRequest.model_fields) - PARAMETERS


@pytest.mark.parametrize("field", FIELDS)
def test_its_type_is_that_of_the_request(field: str) -> None:
    assert shape(FIELDS[field]) == shape(MODEL[field]) | ALSO.get(field, set())
