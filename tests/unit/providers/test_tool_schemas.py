"""The parameters of a tool, as frameworks write them and as all vendors take them."""

from typing import Any

import pytest

from workers.providers.shared.requests.tool_schemas import is_without_parameters, object_schema

NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
ONE: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        {},
        {"type": "object"},
        {"properties": {}},
        {"type": None, "properties": None, "required": None},
        {"type": "object", "properties": {}, "required": []},
    ],
)
def test_no_parameters_have_one_form(parameters: dict[str, Any] | None) -> None:
    assert object_schema(parameters) == NOTHING
    assert is_without_parameters(object_schema(parameters))


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [
        (ONE, ONE),
        ({"properties": ONE["properties"]}, ONE),
        ({**ONE, "required": None}, ONE),
        ({**ONE, "required": []}, {**ONE, "required": []}),
        ({**NOTHING, "additionalProperties": True}, {**NOTHING, "additionalProperties": True}),
        ({"anyOf": [ONE, NOTHING]}, {"anyOf": [ONE, NOTHING], "type": "object"}),
        ({"$ref": "#/$defs/A", "$defs": {"A": ONE}}, {"$ref": "#/$defs/A", "$defs": {"A": ONE}, "type": "object"}),
    ],
)
def test_what_is_said_of_parameters_stays(parameters: dict[str, Any], schema: dict[str, Any]) -> None:
    assert object_schema(parameters) == schema
    assert not is_without_parameters(schema)
