"""JSON Schemas of the wire types, made from the models, so that they cannot say anything else.

What others write for us is described as we read it (defaults may be left out); what we write, as we write it (every
field that is always there is required). Field descriptions come from the docstrings beside the fields.
"""

import ast
import inspect
import json
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from types import MappingProxyType
from typing import Any, cast

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from contracts.attempts import Begun, Unmade
from contracts.budget import Hold
from contracts.control import Cancel, Handover, Resume
from contracts.errors import Error
from contracts.events import EVENT, Cancelled, Completed, Delta, Failed, Retrying, Started
from contracts.health import OpenCircuit
from contracts.notices import AlertNotice, ConfigNotice, TrialNotice
from contracts.providers import PublishedProvider, PublishedTenant, SealedKey, WorkerPresence
from contracts.requests import CompletionRequest
from contracts.rpc import CostEstimate, CountTokens, EstimateCost, Health, HealthCheck, Models, Refusal, TokenCount
from contracts.usage import UsageRecord
from contracts.wire import StrictWireModel, WireModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"

WIRE_TYPES: Mapping[str, type[WireModel]] = MappingProxyType(
    {
        "request": CompletionRequest,
        "event-started": Started,
        "event-delta": Delta,
        "event-retrying": Retrying,
        "event-completed": Completed,
        "event-failed": Failed,
        "event-cancelled": Cancelled,
        "error": Error,
        "cancel": Cancel,
        "resume": Resume,
        "handover": Handover,
        "attempt-begun": Begun,
        "attempt-unmade": Unmade,
        "rpc-count-tokens": CountTokens,
        "rpc-count-tokens-answer": TokenCount,
        "rpc-estimate-cost": EstimateCost,
        "rpc-estimate-cost-answer": CostEstimate,
        "rpc-models-answer": Models,
        "rpc-health": HealthCheck,
        "rpc-health-answer": Health,
        "rpc-refusal": Refusal,
        "usage-record": UsageRecord,
        "kv-provider": PublishedProvider,
        "kv-tenant": PublishedTenant,
        "kv-worker": WorkerPresence,
        "kv-circuit": OpenCircuit,
        "kv-hold": Hold,
        "notice-alert": AlertNotice,
        "notice-config": ConfigNotice,
        "notice-test": TrialNotice,
        "sealed-key": SealedKey,
    }
)
"""What is a message, a stored value or a header of its own, by the name that its documents have."""


def documents() -> dict[str, dict[str, Any]]:
    """Every schema by its name; each stands for itself."""
    found = {
        name: model.model_json_schema(schema_generator=Schema, mode=mode(model)) for name, model in WIRE_TYPES.items()
    }
    found["event"] = EVENT.json_schema(schema_generator=Schema, mode="serialization") | {"title": "Event"}
    return {name: {"$schema": DIALECT, **schema} for name, schema in sorted(found.items())}


def components(models: Iterable[type[WireModel]]) -> tuple[dict[type[WireModel], str], dict[str, Any]]:
    """The name of each model's schema, and all schemas by name, with references for `#/components/schemas`."""
    chosen = list(models)
    inputs: list[tuple[type[WireModel], JsonSchemaMode, TypeAdapter[Any]]] = [
        (model, mode(model), TypeAdapter(model)) for model in chosen
    ]
    refs, schemas = TypeAdapter.json_schemas(
        inputs, schema_generator=Schema, ref_template="#/components/schemas/{model}"
    )
    names = {model: refs[model, mode(model)]["$ref"].rsplit("/", 1)[-1] for model in chosen}
    return names, schemas["$defs"]


def mode(model: type[WireModel]) -> JsonSchemaMode:
    return "validation" if issubclass(model, StrictWireModel) else "serialization"


def text(document: Mapping[str, Any]) -> str:
    """A document as it is kept in a file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


class Schema(GenerateJsonSchema):
    """pydantic's generator, with the fields' docstrings, and within what JSON Schema 7 and 2020-12 share."""

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        if self.mode == "serialization":
            return field.get("serialization_exclude_if") is None
        return super().field_is_required(field, total)

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        about = _docstrings(schema["cls"])
        fields: dict[str, dict[str, Any]] = made.get("properties", {})
        for name in fields.keys() & about.keys():
            fields[name]["description"] = about[name]
        if self.mode == "serialization":
            made.pop("additionalProperties", None)  # readers ignore what a later version adds
            for name, field in fields.items():
                if name not in made["required"] and "anyOf" in field:
                    # A field that is left out when it has no value is never written as null.
                    del field["default"]
                    choices = [choice for choice in field.pop("anyOf") if choice != {"type": "null"}]
                    field.update(choices[0] if len(choices) == 1 else {"anyOf": choices})
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:
        """A title that repeats the field's name says nothing."""
        return False

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """The tag has a default where an instance is made, but on the wire it must be there."""
        made = super().tagged_union_schema(schema)
        tag = made.pop("discriminator")["propertyName"]
        for choice in made["oneOf"]:
            required = self.resolve_ref_schema(choice).setdefault("required", [])
            if tag not in required:
                required.insert(0, tag)
        return made

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        """A fixed tuple is an array of a fixed length: `prefixItems` is unknown to JSON Schema 7."""
        made = super().tuple_schema(schema)
        if "prefixItems" in made:
            made["items"] = {"anyOf": made.pop("prefixItems")}
        return made


@cache
def _docstrings(cls: type[BaseModel]) -> dict[str, str]:
    """The strings that stand below the fields of `cls` and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, WireModel):
            continue
        body = cast("ast.ClassDef", ast.parse(inspect.getsource(base)).body[0]).body
        for field, after in pairwise(body):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(about))):
                    found[name] = inspect.cleandoc(about)
                case _:
                    pass
    return found


if __name__ == "__main__":
    from pathlib import Path

    folder = Path("docs/schemas")
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in documents().items():
        (folder / f"{name}.json").write_text(text(document))
