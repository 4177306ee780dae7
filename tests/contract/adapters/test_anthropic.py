"""What only Anthropic's adapter does: its request, the SDK as the oracle for it, and the turns that it continues."""

from typing import Any

import pytest
from anthropic import AsyncAnthropic
from pydantic import SecretStr

from contracts.errors import ErrorCode
from contracts.rpc import CountTokens
from fleet.simulator import Script, ScriptedToolCall, ScriptedUsage, Simulator
from tests.contract.adapters.vendor import KEY, Vendor

pytestmark = pytest.mark.parametrize("vendor", ["anthropic"], indirect=True)

MODEL = "claude-sonnet-4-5"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}
QUESTION = {"role": "user", "content": "How is the weather in Paris?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Knows the sky.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
EVERYTHING: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Really."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Čau"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"P"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "user", "content": "So?"},
    ],
    "max_tokens": 512,
    "stop": ["END"],
    "tools": [WEATHER],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
}
EVERYTHING_TO_THE_SDK: dict[str, Any] = {
    "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Really."}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Čau"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "P"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "rain"},
                {"type": "text", "text": "So?"},
            ],
        },
    ],
    "max_tokens": 512,
    "stop_sequences": ["END"],
    "tools": [
        {
            "name": "weather",
            "description": "Knows the sky.",
            "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
        }
    ],
    "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
}
THE_LEAST_TO_THE_SDK: dict[str, Any] = {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Where is the station?"}]}],
    "max_tokens": 64_000,
}


async def sdk_body(simulator: Simulator, **arguments: Any) -> dict[str, Any]:
    """What the SDK itself sends."""
    base_url = simulator.base_url("anthropic")
    async with AsyncAnthropic(api_key=KEY.get_secret_value(), base_url=base_url, max_retries=0) as sdk:
        async for _ in await sdk.messages.create(stream=True, **arguments):
            pass
    return simulator.ledger.bodies[-1]


@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("fields", "to_the_sdk"),
    [({}, THE_LEAST_TO_THE_SDK), (EVERYTHING, EVERYTHING_TO_THE_SDK)],
    ids=["the least", "everything"],
)
async def test_sends_what_the_sdk_sends(vendor: Vendor, fields: dict[str, Any], to_the_sdk: dict[str, Any]) -> None:
    await vendor.complete(**fields)
    ours, headers = vendor.body, vendor.simulator.ledger.headers[-1]
    assert ours == await sdk_body(vendor.simulator, model=MODEL, **to_the_sdk)
    assert headers["anthropic-version"] == vendor.simulator.ledger.headers[-1]["anthropic-version"]


async def test_a_tool_turn_goes_on_with_its_thoughts(vendor: Vendor) -> None:
    vendor.says(
        Script(
            reasoning="I need the weather — ☔?",
            text="Let me look.",
            tool_calls=(
                ScriptedToolCall(name="weather", arguments={"city": "Paris"}),
                ScriptedToolCall(name="weather"),
            ),
        ),
        Script(text="It rains."),
    )
    asked = await vendor.complete(messages=[QUESTION], tools=[WEATHER], reasoning_effort="low")
    assert asked.message.tool_calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in asked.message.tool_calls]
    answered = await vendor.complete(
        messages=[QUESTION, asked.message.model_dump(mode="json"), *results], tools=[WEATHER], reasoning_effort="low"
    )
    assert answered.message.content == "It rains."
    assert [block["type"] for block in vendor.body["messages"][1]["content"]] == [
        "thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    assert vendor.body["messages"][1]["content"][0]["thinking"] == "I need the weather — ☔?"
    assert answered.finish.warnings == ()


async def test_a_tool_turn_of_another_vendor_goes_on_without_thoughts(vendor: Vendor) -> None:
    calls = [{"id": "functions.weather:0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
    turn = {"role": "assistant", "content": None, "tool_calls": calls, "provider_data": {"google": {"content": ["x"]}}}
    result = {"role": "tool", "tool_call_id": "functions.weather:0", "content": "rain"}
    completion = await vendor.complete(messages=[QUESTION, turn, result], tools=[WEATHER], reasoning_effort="low")
    assert "thinking" not in vendor.body
    assert "another vendor" in completion.finish.warnings[0]


async def test_what_has_no_place_is_left_out_with_a_warning(vendor: Vendor) -> None:
    completion = await vendor.complete(temperature=0.2, top_p=0.9, seed=7, stop=["\n\n", "END"])
    assert not {"temperature", "top_p", "seed"} & set(vendor.body)
    assert vendor.body["stop_sequences"] == ["END"]
    assert [warning.split(";")[0] for warning in completion.finish.warnings] == [
        "anthropic takes no temperature",
        "anthropic takes no top_p",
        "anthropic takes no seed",
        "anthropic does not stop at white space",
    ]


async def test_caches_where_it_is_told_to(vendor: Vendor) -> None:
    options = {"cache": ["system", "tools", "last_user"], "cache_ttl": "1h", "service_tier": "auto"}
    await vendor.complete(messages=EVERYTHING["messages"], tools=[WEATHER], provider_options={"anthropic": options})
    marker = {"type": "ephemeral", "ttl": "1h"}
    assert [block.get("cache_control") for block in vendor.body["system"]] == [None, marker]
    assert vendor.body["tools"][-1]["cache_control"] == marker
    assert vendor.body["messages"][-1]["content"][-1]["cache_control"] == marker
    assert str(vendor.body).count("cache_control") == 3
    assert vendor.body["service_tier"] == "auto"
    assert not {"cache", "cache_ttl"} & set(vendor.body)


async def test_cached_input_is_part_of_the_input(vendor: Vendor) -> None:
    usage = {"input_tokens": 4, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 1000, "output_tokens": 5}
    message = (
        '{"type":"message","id":"m","model":"x","content":[{"type":"text","text":"x"}],"stop_reason":"end_turn",'
        f'"usage":{str(usage).replace(chr(39), chr(34))}}}'
    )
    vendor.says(Script(body=message, content_type="application/json"))
    found = (await vendor.complete()).finish.usage
    assert found
    assert (found.input_tokens, found.cache_write_tokens, found.cache_read_tokens) == (1104, 100, 1000)


async def test_the_last_usage_counts(vendor: Vendor) -> None:
    """The first one, at the start of a message, says one output token."""
    vendor.says(Script(text="x", usage=ScriptedUsage(output_tokens=250)))
    usage = (await vendor.complete()).finish.usage
    assert usage
    assert usage.output_tokens == 250


async def test_further_options_win(vendor: Vendor) -> None:
    options = {"max_tokens": 9, "betas": ["one-2026-01-01", "two"], "output_config": {"effort": "max"}}
    await vendor.complete(
        max_tokens=512, response_format=EVERYTHING["response_format"], provider_options={"anthropic": options}
    )
    assert vendor.body["max_tokens"] == 9
    assert set(vendor.body["output_config"]) == {"effort", "format"}
    assert vendor.simulator.ledger.headers[-1]["anthropic-beta"] == "one-2026-01-01,two"
    assert "betas" not in vendor.body


async def test_options_of_other_vendors_stay_here(vendor: Vendor) -> None:
    await vendor.complete(provider_options={"openai": {"service_tier": "flex"}})
    assert "service_tier" not in vendor.body


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
async def test_the_base_url_may_end_with_the_version(vendor: Vendor, ending: str) -> None:
    base_url = vendor.simulator.base_url("anthropic") + ending
    assert (await vendor.complete(target=vendor.target(base_url=base_url))).message.content


async def test_the_vendor_learns_the_request_id(vendor: Vendor) -> None:
    await vendor.complete(id="request-42")
    assert vendor.served.request_id == "request-42"


async def test_the_operators_environment_does_not_reach_a_tenants_call(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-of-the-operator-0123456789")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token-of-the-operator-0123456789")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-of-the-operator: secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    await vendor.complete()
    assert "x-of-the-operator" not in vendor.simulator.ledger.headers[-1]
    _, failure = await vendor.fails(target=vendor.target(key=None))
    assert failure.code == ErrorCode.AUTHENTICATION_FAILED


async def test_overload_inside_a_stream_is_overload(vendor: Vendor) -> None:
    """Its status is 200."""
    vendor.says(Script(text="one two three", error="overloaded", error_after_chunks=1))
    said, failure = await vendor.fails()
    assert (said, failure.code, failure.retryable) == ("one", ErrorCode.OVERLOADED, True)


@pytest.mark.parametrize("error", ["insufficient_quota", "low_credit", "billing_error"])
async def test_a_spent_budget_is_not_worth_a_retry(vendor: Vendor, error: str) -> None:
    vendor.says(Script(error=error, headers={"retry-after": "3600"}))
    _, failure = await vendor.fails()
    assert (failure.code, failure.retryable, failure.retry_after_s) == (ErrorCode.QUOTA_EXHAUSTED, False, None)


async def test_waits_for_the_limit_that_is_used_up(vendor: Vendor) -> None:
    headers = {
        "anthropic-ratelimit-requests-remaining": "7",
        "anthropic-ratelimit-requests-reset": "2999-01-01T00:00:00Z",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2001-01-01T00:00:00Z",
    }
    vendor.says(Script(error="rate_limit_exceeded", headers=headers))
    _, failure = await vendor.fails()
    assert failure.retry_after_s == 0


async def test_tokens_are_counted_by_the_vendor(vendor: Vendor) -> None:
    asked = {"model": f"anthropic/{MODEL}", "messages": EVERYTHING["messages"], "tools": [WEATHER]}
    counted = await vendor.adapter.count_tokens(CountTokens.model_validate(asked), model=MODEL, target=vendor.target())
    assert counted.exact
    assert counted.input_tokens > 0


async def test_an_error_with_status_200_is_one(vendor: Vendor) -> None:
    body = '{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'
    vendor.says(Script(body=body, content_type="application/json"))
    _, failure = await vendor.fails()
    assert failure.code == ErrorCode.OVERLOADED


async def test_no_key_of_a_tenant_stays_in_a_text(vendor: Vendor) -> None:
    key = SecretStr("sk-ant-api03-Zx81kQpvL0aa93Jw72mmDf55")
    error: dict[str, Any] = {"error": {"type": "authentication_error", "message": f"bad {key.get_secret_value()[-9:]}"}}
    vendor.says(Script(error=error, status=401))
    _, failure = await vendor.fails(target=vendor.target(key=key))
    assert "mmDf55" not in failure.message
