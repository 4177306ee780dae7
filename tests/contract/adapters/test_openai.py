"""What only OpenAI's adapter does: its request, and the SDK as the oracle for it."""

from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic import JsonValue

from contracts.errors import InvalidRequest
from contracts.requests import CompletionRequest
from contracts.rpc import CountTokens
from fleet.simulator import Script, Simulator
from tests.contract.adapters.vendor import KEY, LOCAL, MODEL, Vendor
from workers.providers.openai.adapter import OpenAI, max_tokens_field

pytestmark = pytest.mark.parametrize("vendor", ["openai"], indirect=True)

EVERYTHING: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief.", "name": "boss"},
        {"role": "developer", "content": [{"type": "text", "text": "Really."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Čau"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ],
    "temperature": 0.2,
    "top_p": 0.9,
    "stop": ["\n\n", "END"],
    "seed": 7,
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "Answers.",
                "parameters": {"type": "object", "properties": {"x": {"type": "number"}}},
                "strict": True,
            },
        }
    ],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "reasoning_effort": "low",
}


async def sdk_body(simulator: Simulator, **arguments: Any) -> dict[str, Any]:
    """What the SDK itself sends."""
    async with AsyncOpenAI(api_key=KEY.get_secret_value(), base_url=simulator.base_url("openai"), max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(
            stream=True, stream_options={"include_usage": True, "include_obfuscation": False}, **arguments
        )
        async for _ in stream:
            pass
    return simulator.ledger.bodies[-1]


@pytest.mark.parametrize("fields", [{}, EVERYTHING], ids=["the least", "everything"])
async def test_sends_what_the_sdk_sends(vendor: Vendor, fields: dict[str, Any]) -> None:
    await vendor.complete(max_tokens=512, **fields)
    ours = vendor.body
    theirs = await sdk_body(
        vendor.simulator,
        **{"model": MODEL, "messages": [{"role": "user", "content": "Where is the station?"}], **fields},
        max_completion_tokens=512,
    )
    assert ours == theirs


async def test_further_options_win(vendor: Vendor) -> None:
    options = {"service_tier": "flex", "temperature": 1, "max_tokens": 9}
    await vendor.complete(max_tokens=512, temperature=0.1, provider_options={"openai": options})
    assert {name: vendor.body[name] for name in options} == options
    assert "max_completion_tokens" not in vendor.body


async def test_a_null_leaves_a_field_out_but_not_the_output_limit(vendor: Vendor) -> None:
    options = {"stream_options": None, "temperature": None, "max_completion_tokens": None}
    completion = await vendor.complete(max_tokens=512, temperature=0.1, provider_options={"openai": options})
    assert completion.message.content
    assert not {"stream_options", "temperature"} & vendor.body.keys()
    assert vendor.body["max_completion_tokens"] == 512


async def test_a_null_for_the_stream_asks_for_a_whole_reply(vendor: Vendor) -> None:
    completion = await vendor.complete(provider_options={"openai": {"stream": None}})
    assert completion.message.content
    assert not vendor.served.stream


async def test_what_is_for_us_does_not_reach_the_vendor(vendor: Vendor) -> None:
    await vendor.complete(model="llama-3", provider_options={"openai": {"reasoning_field": "reasoning"}})
    assert "reasoning_field" not in vendor.body


@pytest.mark.parametrize("model", [MODEL, "deepseek-v4", "mistral-large-latest", "gemini-3-flash"])
async def test_every_server_takes_a_history_with_calls_of_another_vendor(vendor: Vendor, model: str) -> None:
    call = {"id": f"functions.f:{'0' * 60}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history: list[dict[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "Go."}]},
        {"role": "assistant", "content": "", "tool_calls": []},
        {"role": "assistant", "content": None, "reasoning": "I should look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": [{"type": "text", "text": "a.txt"}]},
        {"role": "assistant", "content": "Done.", "reasoning": "It is there.", "tool_calls": []},
        {"role": "user", "content": "Again."},
    ]
    completion = await vendor.complete(model=model, messages=history, tool_choice="auto", parallel_tool_calls=True)
    assert completion.message.content


async def test_a_choice_that_is_left_out_is_a_warning(vendor: Vendor) -> None:
    completion = await vendor.complete(tool_choice="required")
    assert completion.finish.warnings == ("tool_choice was ignored, because the request has no tools",)


async def test_a_request_of_empty_answers_is_refused_before_a_call(vendor: Vendor) -> None:
    asked = vendor.call(messages=[{"role": "assistant", "content": ""}])
    with pytest.raises(InvalidRequest):
        vendor.adapter.check_supported(asked.request, model=MODEL)


async def test_options_of_other_vendors_stay_here(vendor: Vendor) -> None:
    await vendor.complete(provider_options={"anthropic": {"thinking": True}, "openai": {}})
    assert "thinking" not in vendor.body


@pytest.mark.parametrize(
    ("base_url", "model", "field"),
    [
        (None, "gpt-4o", "max_completion_tokens"),
        (None, "ft:anything", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "whatever", "max_completion_tokens"),
        ("https://gateway.example.org/v1", "gpt-5-mini", "max_completion_tokens"),
        ("https://gateway.example.org/v1", "openai/o3", "max_completion_tokens"),
        ("https://gateway.example.org/v1", "openai/gpt-oss-120b", "max_tokens"),
        ("https://notopenai.com/v1", "llama-3.3-70b", "max_tokens"),
        ("http://127.0.0.1:8000/v1", "qwen3", "max_tokens"),
    ],
)
async def test_the_output_limit_has_the_name_that_its_server_knows(
    vendor: Vendor, base_url: str | None, model: str, field: str
) -> None:
    target = vendor.target(base_url=base_url or "https://api.openai.com/v1")
    assert max_tokens_field(vendor.call(target=target, model=model)) == field


async def test_the_vendor_learns_the_request_id(vendor: Vendor) -> None:
    await vendor.complete(id="request-42")
    assert vendor.served.request_id == "request-42"


async def test_a_server_without_keys_gets_none(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-operator-0123456789")
    _, failure = await vendor.fails(target=vendor.target(key=None))
    assert "didn't provide an API key" in failure.message


async def test_the_operators_environment_does_not_reach_a_tenants_call(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-the-operator")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-the-operator")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    await vendor.complete()
    headers = vendor.simulator.ledger.headers[-1]
    assert "openai-organization" not in headers
    assert "openai-project" not in headers


async def test_an_end_without_done_or_usage_is_an_end(vendor: Vendor) -> None:
    body = 'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
    vendor.says(Script(body=body))
    completion = await vendor.complete()
    assert (completion.message.content, completion.finish.usage) == ("x", None)


async def test_a_connection_that_breaks_behind_the_end_does_not_matter(vendor: Vendor) -> None:
    body = 'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
    vendor.says(
        Script(body=body, cut_after_bytes=len(body) - 1, cut="close"),
        Script(body=body + " ", cut_after_bytes=len(body)),
    )
    await vendor.fails()
    assert (await vendor.complete()).message.content == "x"


async def test_an_error_with_status_200_is_one(vendor: Vendor) -> None:
    vendor.says(Script(body='{"error": {"message": "no", "code": "content_filter"}}', content_type="application/json"))
    _, failure = await vendor.fails()
    assert failure.code == "content_filtered"


@pytest.mark.parametrize("status", [400, None])
async def test_a_server_that_shows_the_input_does_not_spread_it(vendor: Vendor, status: int | None) -> None:
    prompt = "The patient, born in May, has been complaining of a headache for three weeks now, and sleeps badly."
    error: dict[str, JsonValue] = {
        "object": "error",
        "message": f"1 validation error: input={prompt!r}",
        "type": "BadRequestError",
        "code": 400,
    }
    vendor.says(Script(error=error, status=status, error_after_chunks=None if status else 0))
    _, failure = await vendor.fails(messages=[{"role": "user", "content": prompt}])
    assert failure.code == "invalid_request"
    assert "headache" not in failure.message


@pytest.mark.parametrize(
    ("model", "messages", "count"),
    [
        ("gpt-4o-mini", [{"role": "user", "content": "Say this is a test"}], 12),
        (
            "gpt-4o",
            [
                {"role": "system", "content": "You are a helpful assistant"},
                {"role": "user", "content": "Say hi in Portuguese"},
            ],
            20,
        ),
        ("gpt-5-nano", [{"role": "user", "content": "Hello!"}], 8),
    ],
)
async def test_tokens_are_counted_as_openai_bills_them(
    vendor: Vendor, model: str, messages: list[dict[str, Any]], count: int
) -> None:
    asked = CountTokens.model_validate({"model": f"openai/{model}", "messages": messages})
    counted = await vendor.adapter.count_tokens(asked, model=model, target=vendor.target())
    assert (counted.input_tokens, counted.exact) == (count, True)


async def test_what_openai_does_not_make_is_estimated(vendor: Vendor) -> None:
    asked = CountTokens.model_validate({"model": "openai/llama-3", "messages": [{"role": "user", "content": "Hi"}]})
    counted = await vendor.adapter.count_tokens(asked, model="llama-3", target=vendor.target())
    assert not counted.exact


async def test_nothing_in_the_vocabulary_is_unsupported(vendor: Vendor) -> None:
    request = CompletionRequest.model_validate(
        {"id": "r", "tenant": "t", "agent": "a", "model": f"openai/{MODEL}", **EVERYTHING}
    )
    OpenAI(LOCAL).check_supported(request, model=MODEL)
