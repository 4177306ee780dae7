"""What a configuration offers."""

from typing import Any

import pytest

from admin_api.operations.models import offered
from contracts.providers import ProviderConfig

PLAIN = {"name": "plain"}
A = {"name": "a", "deployments": {"m1": "d", "m2": "d"}}
B = {"name": "b", "deployments": {"m2": "d", "m3": "d"}}


@pytest.mark.parametrize(
    ("config", "models"),
    [
        ({}, None),
        ({"base_url": "https://llm.example.com"}, None),
        ({"models": ["m1", "m2"]}, ["m1", "m2"]),
        ({"endpoints": [A, B]}, ["m1", "m2", "m3"]),
        ({"endpoints": [A, PLAIN]}, None),
        ({"endpoints": [A], "models": ["m2", "m9"]}, ["m2"]),
        ({"endpoints": [A, PLAIN], "models": ["m2", "m9"]}, ["m2", "m9"]),
        ({"endpoints": [{"name": "none", "deployments": {}}]}, []),
    ],
)
def test_what_a_configuration_offers(config: dict[str, Any], models: list[str] | None) -> None:
    assert offered(ProviderConfig.model_validate(config)) == models
