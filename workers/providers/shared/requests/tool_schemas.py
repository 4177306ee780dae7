"""The parameters of a tool as the schema of an object, in the one form that all vendors take.

Frameworks and MCP servers write a tool without parameters as null, `{}`, `{"type": "object"}`, or with `null` for what
it has none of. OpenAI refuses an object without `properties`, a `required` that is null and a schema without a type;
Anthropic the last one, too; Groq a `required` where there are no properties.
"""

from collections.abc import Mapping
from typing import Any

from workers.providers.shared.requests.options import present

_COMPOSED = frozenset({"$ref", "allOf", "anyOf", "oneOf"})


def object_schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """A tool's parameters in that form."""
    schema = present(parameters or {})
    schema.setdefault("type", "object")
    if not _COMPOSED & schema.keys():
        schema.setdefault("properties", {})
    if not (schema.get("properties") or schema.get("required")):
        schema.pop("required", None)
    return schema


def is_without_parameters(schema: Mapping[str, Any]) -> bool:
    """Whether a schema that `object_schema` made says no more than that it is one of an object."""
    return schema.get("properties") == {} and schema.keys() <= {"type", "properties"}
