"""Bodies with more mistakes than anybody reads."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from admin_api.app import create_app
from admin_api.configuration.providers import NewProvider
from admin_api.configuration.tenants import TenantChange
from admin_api.http.bodies import MOST_PROBLEMS, Body

MANY = 5000
UNKNOWN = {f"x{number}": 1 for number in range(MANY)}
PROVIDER = {"tenant": "acme", "provider_type": "openai"}


def descendants(model: type[Body]) -> Iterator[type[Body]]:
    for child in model.__subclasses__():
        yield child
        yield from descendants(child)


def test_every_endpoint_bounds_what_it_tells_of_its_body() -> None:
    paths = create_app().openapi()["paths"].values()
    bodies = {
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for path in paths
        for operation in path.values()
        if "requestBody" in operation
    }

    assert bodies
    assert bodies <= {model.__name__ for model in descendants(Body)}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (TenantChange, UNKNOWN),
        (TenantChange, {"limits": UNKNOWN}),
        (TenantChange, {"lowered": UNKNOWN}),
        (TenantChange, {"aliases": UNKNOWN}),
        (TenantChange, {"aliases": {f"x{number}": 1 for number in range(900)}}),
        (TenantChange, {"aliases": {"a": ["a b"] * MANY}}),
        (TenantChange, {"fallbacks": ["a b"] * MANY}),
        (TenantChange, {"prices": UNKNOWN}),
        (TenantChange, {"prices": {"m": UNKNOWN}}),
        (NewProvider, UNKNOWN),
        (NewProvider, PROVIDER | {"config": UNKNOWN}),
        (NewProvider, PROVIDER | {"config": {"endpoints": [{"x": 1}] * MANY}}),
        (NewProvider, PROVIDER | {"config": {"models": ["a b"] * MANY}}),
        (NewProvider, PROVIDER | {"api_keys": UNKNOWN}),
    ],
)
def test_a_hundred_mistakes_are_told_at_most(model: type[Body], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        model.model_validate(body)

    assert raised.value.error_count() <= MOST_PROBLEMS


def test_a_few_mistakes_are_told_one_by_one() -> None:
    with pytest.raises(ValidationError) as raised:
        TenantChange.model_validate({"one": 1, "two": 2, "limits": {"three": 3}})

    assert [error["loc"] for error in raised.value.errors()] == [("limits", "three"), ("one",), ("two",)]


def test_aliases_are_not_longer_than_the_audit_log_should_have_twice() -> None:
    aliases = {f"a{number}": ["m" * 200] * 4 for number in range(100)}

    with pytest.raises(ValidationError, match="at most 65536 characters in all"):
        TenantChange.model_validate({"aliases": aliases})
