"""`fleet up` with every vendor simulated: the same conversation with a tool call, on each of them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from contracts.events import Completed, Delta
from fleet.client import Client
from fleet.simulator import Script, ScriptedToolCall, Simulator
from tests.acceptance.running import PATIENCE_S, RunningStack, running_stack
from workers.providers import registry

pytestmark = pytest.mark.slow

MODELS = {
    "openai": "gpt-4o-mini",
    "azure": "gpt-4o-mini",
    "anthropic": "claude-sonnet-4-5",
    "google": "gemini-2.5-flash",
    "ollama": "llama3.2",
}
VENDORS = [provider for provider in registry.available() if provider != "mock"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningStack]:
    folder: Path = tmp_path_factory.mktemp("vendors")
    with running_stack(folder) as stack:
        yield stack


@pytest.fixture
async def vendor() -> AsyncGenerator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def client(stack: RunningStack) -> AsyncGenerator[Client]:
    ready = stack.ready
    async with Client(
        ready["nats_url"],
        tenant=ready["tenant"],
        agent="tester",
        user=ready["nats_user"],
        password=ready["nats_password"],
    ) as client:
        yield client


async def use(stack: RunningStack, provider: str, base_url: str) -> str:
    """Configures the provider through the admin API; its id."""
    body: dict[str, Any] = {"tenant": "demo", "provider_type": provider, "config": {"base_url": base_url}}
    if provider != "ollama":
        body["api_key"] = "key-of-the-test-0123456789"
    return (await asyncio.to_thread(stack.admin.post, "llm-providers", body))["id"]


@pytest.mark.parametrize("provider", VENDORS)
async def test_a_conversation_with_a_tool_call(
    stack: RunningStack, vendor: Simulator, client: Client, provider: str
) -> None:
    provider_id = await use(stack, provider, vendor.base_url(provider))
    model = MODELS[provider]
    vendor.script(
        model,
        Script(tool_calls=(ScriptedToolCall(name="get_weather", arguments={"city": "Paris"}),)),
        Script(text="It rains in Paris: 7 °C ☔."),
    )
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You know the weather."},
        {"role": "user", "content": "How is the weather in Paris?"},
    ]

    asked = await client.complete(f"{provider}/{model}", messages, tools=[WEATHER], deadline_s=120)
    assert asked.finish_reason == "tool_calls"
    assert asked.message.tool_calls
    call = asked.message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}

    messages += [
        asked.message.model_dump(mode="json"),
        {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "rain", "celsius": 7}'},
    ]
    events = [event async for event in client.stream(f"{provider}/{model}", messages, tools=[WEATHER], deadline_s=120)]

    answered = events[-1]
    assert isinstance(answered, Completed)
    assert answered.finish_reason == "stop"
    assert answered.message.content == "It rains in Paris: 7 °C ☔."
    assert "".join(e.text or "" for e in events if isinstance(e, Delta)) == answered.message.content
    assert answered.provider == provider
    served = vendor.ledger.of_model(model)
    assert [(entry.input_tokens, entry.output_tokens) for entry in served] == [
        (done.usage.input_tokens, done.usage.output_tokens) for done in (asked, answered)
    ]
    await booked(stack, provider_id, requests=2, tokens=sum(entry.output_tokens or 0 for entry in served))


async def booked(stack: RunningStack, provider_id: str, *, requests: int, tokens: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            usage = await asyncio.to_thread(stack.admin.get, f"llm-providers/{provider_id}/usage")
            if usage["totals"]["request_count"] == requests:
                break
            await asyncio.sleep(0.1)
    assert usage["totals"]["completion_tokens"] == tokens
    assert usage["totals"]["error_count"] == 0
