"""JSON Schemas as Anthropic's API enforces them: what it has no form for is told to the model in descriptions.

As `transform_schema` of the SDK does it (anthropic 2.12.0), which takes a second to import; a test holds both to the
same.
"""

from typing import Any, cast

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null", None})


def enforceable(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` as the API accepts it; as it is when that would change its meaning."""
    if _has_open_objects(schema):
        return schema
    try:
        return _fitted(schema)
    except (ValueError, TypeError, AttributeError):
        return schema


def _has_open_objects(schema: object) -> bool:
    """Whether an object takes keys that are not listed, which the API would close."""
    if isinstance(schema, list):
        return any(map(_has_open_objects, schema))
    if not isinstance(schema, dict):
        return False
    return bool(schema.get("additionalProperties")) or any(map(_has_open_objects, schema.values()))


def _fitted(schema: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError, TypeError or AttributeError for what is no schema, or says nothing."""
    left = {**schema}
    fitted: dict[str, Any] = {}
    if (definitions := left.pop("$defs", None)) is not None:
        fitted["$defs"] = {name: _fitted(definition) for name, definition in definitions.items()}
    if (ref := left.pop("$ref", None)) is not None:
        return {**fitted, "$ref": ref}
    kind = left.pop("type", None)
    variants = {name: left.pop(name, None) for name in ("anyOf", "oneOf", "allOf")}
    literals = left.get("enum")
    if isinstance(literals, list) and literals and all(map(_is_primitive, literals)):
        fitted["enum"] = left.pop("enum")
    if "const" in left and _is_primitive(left["const"]):
        fitted["const"] = left.pop("const")
    is_literal = bool(fitted.keys() & {"enum", "const"})
    kind = None if is_literal else kind
    given = next((name for name, listed in variants.items() if isinstance(listed, list)), None)
    if given:
        listed = cast("list[dict[str, Any]]", variants[given])
        fitted["allOf" if given == "allOf" else "anyOf"] = [_fitted(variant) for variant in listed]
    elif kind is not None:
        fitted["type"] = kind
    elif not is_literal:
        raise ValueError("a schema that says nothing")
    for name in ("description", "title"):
        if (words := left.pop(name, None)) is not None:
            fitted[name] = words
    if kind not in _TYPES:
        raise ValueError("no type of JSON Schema")
    _fit_members(kind, left, fitted)
    if left:
        told = ", ".join(f"{name}: {value}" for name, value in left.items())
        description = fitted.get("description")
        fitted["description"] = f"{{{told}}}" if description is None else description + f"\n\n{{{told}}}"
    return fitted


def _fit_members(kind: str | None, left: dict[str, Any], fitted: dict[str, Any]) -> None:
    """Moves from `left` to `fitted` what the API enforces of a type."""
    match kind:
        case "object":
            fitted["properties"] = {name: _fitted(member) for name, member in left.pop("properties", {}).items()}
            left.pop("additionalProperties", None)
            fitted["additionalProperties"] = False
            if (required := left.pop("required", None)) is not None:
                fitted["required"] = required
        case "string":
            if form := left.pop("format", None):
                (fitted if form in _FORMATS else left)["format"] = form
        case "array":
            if (items := left.pop("items", None)) is not None:
                fitted["items"] = _fitted(items)
            if (least := left.pop("minItems", None)) is not None:
                (fitted if least in (0, 1) else left)["minItems"] = least
        case _:
            pass


def _is_primitive(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)
