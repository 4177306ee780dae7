"""The OpenAPI document names the bearer scheme and the problem responses."""

from typing import Any

import pytest

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
    from admin_api.app import create_app

    return create_app().openapi()


def test_has_every_endpoint(document: dict[str, Any]) -> None:
    paths = {path: set(operations) for path, operations in document["paths"].items()}

    assert paths == dict(SECURED) | {"/healthz": {"get"}, "/readyz": {"get"}, "/metrics": {"get"}}


def test_everything_below_api_needs_a_bearer_token(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation.get("security") == ([{"bearer": []}] if path.startswith("/api/") else None)


def expected_problems(operation: dict[str, Any]) -> set[str]:
    """The statuses that follow from what a request of the operation consists of."""
    statuses = {"500"}
    parameters = operation.get("parameters", ())
    if operation.get("security"):
        statuses |= {"401", "403", "429", "503"}
    if parameters or "requestBody" in operation:
        statuses |= {"422"}
    if any(parameter["in"] == "path" for parameter in parameters):
        statuses |= {"404"}
    if "requestBody" in operation:
        statuses |= {"404", "409", "413"}
    return statuses


def test_every_operation_documents_its_problems(document: dict[str, Any]) -> None:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            problems = {
                status: response["content"]
                for status, response in operation["responses"].items()
                if not status.startswith("2") and (path, status) != ("/readyz", "503")
            }
            where = f"{method} {path}"
            assert set(problems) - {"409"} == expected_problems(operation) - {"409"}, where
            assert ("409" in problems) >= ("requestBody" in operation), where
            assert all(content == problem for content in problems.values()), where


def test_problems_have_one_schema(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    assert {"ProblemDetails", "FieldProblem"} <= set(schemas)
    assert "HTTPValidationError" not in schemas


def test_a_key_goes_in_and_never_out(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    assert "api_key" in schemas["NewProvider"]["properties"]
    assert "api_key" not in schemas["ProviderView"]["properties"]
