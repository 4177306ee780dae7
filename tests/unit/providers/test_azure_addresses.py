"""Where Azure's models are called, and what each API is given."""

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from contracts.errors import NoProvider
from contracts.providers import Endpoint, EntraCredentials, Timeouts
from contracts.requests import CompletionRequest
from workers.providers.azure.addresses import base_url, chat_url, max_tokens_field, models_url
from workers.providers.base import Call, Target

HOST = "https://res.openai.azure.com"


@pytest.mark.parametrize(
    ("given", "version", "chat", "models"),
    [
        (HOST, None, f"{HOST}/openai/v1/chat/completions", f"{HOST}/openai/v1/models"),
        (f"{HOST}/", None, f"{HOST}/openai/v1/chat/completions", f"{HOST}/openai/v1/models"),
        (f"{HOST}/openai", None, f"{HOST}/openai/v1/chat/completions", f"{HOST}/openai/v1/models"),
        (f"{HOST}/openai/v1/", None, f"{HOST}/openai/v1/chat/completions", f"{HOST}/openai/v1/models"),
        (f"{HOST}/openai/v1", "preview", f"{HOST}/openai/v1/chat/completions", f"{HOST}/openai/v1/models"),
        (HOST, "2024-10-21", f"{HOST}/openai/deployments/my:gpt%2F4o/chat/completions", f"{HOST}/openai/models"),
        (f"{HOST}/openai/", "v", f"{HOST}/openai/deployments/my:gpt%2F4o/chat/completions", f"{HOST}/openai/models"),
        (
            f"{HOST}/openai/deployments/given",
            "2024-10-21",
            f"{HOST}/openai/deployments/given/chat/completions",
            f"{HOST}/openai/models",
        ),
        (f"{HOST}/models", "2024-05-01-preview", f"{HOST}/models/chat/completions", "/info"),
        ("https://gateway.example.org/a", None, "https://gateway.example.org/a/openai/v1/chat/completions", None),
        ("http://models", None, "http://models/openai/v1/chat/completions", None),
    ],
)
def test_an_address_leads_to_its_api(given: str, version: str | None, chat: str, models: str | None) -> None:
    endpoint = Endpoint(base_url=given, api_version=version, deployments={"gpt-4o": "my:gpt/4o"})
    query = f"?api-version={version}" if version else ""
    assert chat_url(endpoint, "gpt-4o") == f"{chat}{query}"
    assert models is None or models_url(endpoint) == models


def test_an_endpoint_needs_an_address() -> None:
    with pytest.raises(NoProvider, match="has no base_url"):
        base_url(Endpoint())


@pytest.mark.parametrize(
    ("model", "endpoint", "field"),
    [
        ("gpt-4o", {}, "max_completion_tokens"),
        ("anything", {}, "max_completion_tokens"),
        ("model-router", {}, "max_completion_tokens"),
        ("computer-use-preview", {}, "max_completion_tokens"),
        ("Mistral-Medium-3", {}, "max_tokens"),
        ("Ministral-3B", {}, "max_tokens"),
        ("Llama-4-Maverick-17B-128E-Instruct-FP8", {}, "max_tokens"),
        ("DeepSeek-V3.2", {}, "max_tokens"),
        ("Phi-4-mini-instruct", {}, "max_tokens"),
        ("grok-4", {}, "max_tokens"),
        ("Cohere-command-a", {}, "max_tokens"),
        ("Kimi-K2-Thinking", {}, "max_tokens"),
        ("gpt-oss-120b", {}, "max_tokens"),
        ("fast", {"deployments": {"fast": "Codestral-2501"}}, "max_tokens"),
        ("gpt-4o", {"deployments": {"gpt-4o": "was-llama"}}, "max_completion_tokens"),
        ("gpt-4o", {"api_version": "2024-10-21"}, "max_tokens"),
        ("o4-mini", {"api_version": "2025-01-01-preview"}, "max_completion_tokens"),
        ("o4-mini", {"api_version": "2025-01-01-preview", "deployments": {"o4-mini": "x"}}, "max_completion_tokens"),
        ("fast", {"api_version": "2025-01-01-preview", "deployments": {"fast": "gpt-5-mini"}}, "max_completion_tokens"),
        ("grok-4", {"api_version": "2024-05-01-preview", "base_url": f"{HOST}/models"}, "max_tokens"),
    ],
)
def test_the_output_limit_has_the_name_that_its_api_knows(model: str, endpoint: dict[str, Any], field: str) -> None:
    request = CompletionRequest.model_validate(
        {"id": "r", "tenant": "t", "agent": "a", "model": "azure", "messages": [{"role": "user", "content": "x"}]}
    )
    target = Target(Endpoint.model_validate({"base_url": HOST, **endpoint}), Timeouts(), None)
    assert max_tokens_field(Call(request=request, model=model, target=target, time_left_s=1)) == field


def test_credentials_keep_their_secret_to_themselves() -> None:
    credentials = EntraCredentials(tenant_id="t", client_id="c", client_secret=SecretStr("s3cret"))
    assert "s3cret" not in repr(credentials) + str(credentials) + credentials.to_json().decode()


@pytest.mark.parametrize("authority", ["http://login.example.org", "https://user@login.example.org", "ftp://x", ""])
def test_a_secret_goes_to_no_authority_in_the_clear(authority: str) -> None:
    with pytest.raises(ValidationError):
        EntraCredentials(tenant_id="t", client_id="c", client_secret=SecretStr("s"), authority=authority)
