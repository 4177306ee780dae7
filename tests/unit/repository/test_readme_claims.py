"""What README says of every provider is true of every provider."""

import re
from typing import Any

import pytest

from contracts.requests import CompletionRequest
from runtime.egress import Egress
from tests.documents import README, section
from workers.providers import registry

MODELS = {
    "openai": "gpt-5",
    "azure": "gpt-5",
    "anthropic": "claude-sonnet-4-5",
    "google": "gemini-3-pro",
    "ollama": "qwen3:8b",
    "mock": "echo",
}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"name": "answer", "schema": {"type": "object", "properties": {"sky": {"type": "string"}}}}
FEATURES: dict[str, dict[str, Any]] = {
    "streaming": {"stream": True},
    "tools": {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]},
    "images": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}]},
    "JSON schemas": {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
    "reasoning": {"reasoning_effort": "high"},
}


def test_the_features_of_all_are_those_that_are_tried_here() -> None:
    said = re.search(r"All of them: (.*), usage as the vendor states it", section(README, "Status"))
    assert said, "README says what all providers can do; say it in the words of this test"
    assert said[1].split(", ") == list(FEATURES)
    assert MODELS.keys() == set(registry.available())


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("provider", registry.available())
def test_no_provider_refuses_what_all_can_do(provider: str, feature: str) -> None:
    request = CompletionRequest.model_validate(
        {
            "id": "r1",
            "tenant": "acme",
            "agent": "tester",
            "model": f"{provider}/{MODELS[provider]}",
            "messages": [{"role": "user", "content": "Hi"}],
            **FEATURES[feature],
        }
    )

    registry.load(provider, Egress()).check_supported(request, model=MODELS[provider])
