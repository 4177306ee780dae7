"""The OpenAPI document names the bearer scheme and the problem responses."""

from typing import Any

import pytest

from admin_api.app import create_app

SECURED = [
    ("/api/v1/tenants", {"get", "post"}),
    ("/api/v1/tenants/{slug}", {"get", "put"}),
    ("/api/v1/llm-providers", {"get", "post"}),
    ("/api/v1/llm-providers/{provider_id}", {"get", "put", "delete"}),
    ("/api/v1/llm-providers/{provider_id}/test", {"post"}),
    ("/api/v1/llm-providers/{provider_id}/usage", {"get"}),
    ("/api/v1/models", {"get"}),
    ("/api/v1/usage", {"get"}),
    ("/api/v1/tokens", {"get", "post"}),
    ("/api/v1/tokens/{token_id}", {"delete"}),
    ("/api/v1/alerts", {"get"}),
    ("/api/v1/alerts/{alert_id}/acknowledge", {"post"}),
    ("/api/v1/webhooks", {"get", "post"}),
    ("/api/v1/webhooks/{webhook_id}", {"delete"}),
    ("/api/v1/webhooks/{webhook_id}/test", {"post"}),
    ("/api/v1/audit", {"get"}),
    ("/api/v1/dead-letters", {"get"}),
    ("/api/v1/dead-letters/{seq}", {"get", "delete"}),
    ("/api/v1/dead-letters/{seq}/replay", {"post"}),
    ("/api/v1/fleet", {"get"}),
]


@pytest.fixture
def document() -> dict[str, Any]:
    return create_app().openapi()


def test_has_every_endpoint(document: dict[str, Any]) -> None:
    paths = {path: set(operations) for path, operations in document["paths"].items()}

    assert paths == dict(SECURED) | {"/healthz": {"get"}, "/readyz": {"get"}, "/metrics": {"get"}}


def test_everything_below_api_needs_a_bearer_token(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation.get("security") == ([{"bearer": []}] if path.startswith("/api/") else None)


def test_problems_are_documented(document: dict[str, Any]) -> None:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    responses = document["paths"]["/api/v1/llm-providers"]["post"]["responses"]

    assert set(responses) == {"201", "401", "403", "404", "409", "413", "422", "429", "500", "503"}
    assert responses["422"]["content"] == problem
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_a_key_goes_in_and_never_out(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    assert "api_key" in schemas["NewProvider"]["properties"]
    assert "api_key" not in schemas["ProviderView"]["properties"]
