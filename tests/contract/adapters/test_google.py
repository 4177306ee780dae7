"""What only Google's adapter does: its request with the SDK as the oracle, its URLs, and Gemini's own oddities."""

import asyncio
import json
import re
from typing import Any

import httpx2
import pytest
from google.genai import Client, types
from pydantic import JsonValue, SecretStr

from contracts.errors import ErrorCode, InvalidRequest, ModelNotFound, ProviderUnavailable
from contracts.providers import Endpoint
from contracts.rpc import CountTokens
from fleet.simulator import Script, ScriptedToolCall, Simulator
from fleet.simulator.google import MODELS
from fleet.simulator.tcp import listening
from tests.contract.adapters.vendor import KEY, PATIENT, Vendor
from workers.providers.base import Target
from workers.providers.google import adapter as google
from workers.providers.google.adapter import versioned_url

pytestmark = pytest.mark.parametrize("vendor", ["google"], indirect=True)

MODEL = "gemini-3.8-flash"
SCHEMA = {"type": "object", "properties": {"x": {"type": "number"}}, "additionalProperties": False}
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
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
            "provider_data": {
                "google": {
                    "parts": [
                        {"text": "Let me see."},
                        {"functionCall": {"id": "c1", "name": "f", "args": {"x": 1}}, "thoughtSignature": "c2ln"},
                    ]
                }
            },
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ],
    "max_tokens": 512,
    "temperature": 0.2,
    "top_p": 0.9,
    "stop": ["\n\n", "END"],
    "seed": 7,
    "tools": [{"type": "function", "function": {"name": "f", "description": "Answers.", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    "reasoning_effort": "low",
}
SAME_FOR_THE_SDK: dict[str, Any] = {
    "contents": [
        types.Content(
            role="user",
            parts=[
                types.Part(text="Čau"),
                types.Part.from_bytes(data=b"\x89PNG\r\n\x1a\n", mime_type="image/png"),
                types.Part.from_uri(file_uri="https://example.org/a.png"),
            ],
        ),
        types.Content(
            role="model",
            parts=[
                types.Part(text="Let me see."),
                types.Part(
                    function_call=types.FunctionCall(id="c1", name="f", args={"x": 1}), thought_signature=b"sig"
                ),
            ],
        ),
        types.Content(
            role="user",
            parts=[types.Part(function_response=types.FunctionResponse(id="c1", name="f", response={"output": "42"}))],
        ),
    ],
    "config": types.GenerateContentConfig(
        system_instruction=[types.Part(text="Be brief."), types.Part(text="Really.")],
        max_output_tokens=512,
        temperature=0.2,
        top_p=0.9,
        stop_sequences=["\n\n", "END"],
        seed=7,
        tools=[
            types.Tool(
                function_declarations=[
                    types.FunctionDeclaration(name="f", description="Answers.", parameters_json_schema=SCHEMA)
                ]
            )
        ],
        tool_config=types.ToolConfig(
            function_calling_config=types.FunctionCallingConfig(
                mode=types.FunctionCallingConfigMode.ANY, allowed_function_names=["f"]
            )
        ),
        response_mime_type="application/json",
        response_json_schema=SCHEMA,
        thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_level=types.ThinkingLevel.LOW),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        automatic_continuation=False,
    ),
}


async def ask_with_sdk(simulator: Simulator, **arguments: Any) -> None:
    """The SDK itself sends and reads."""
    async with httpx2.AsyncClient() as http:
        options = types.HttpOptions(base_url=simulator.base_url("google"), httpx_async_client=http)
        sdk = Client(vertexai=False, api_key=KEY.get_secret_value(), http_options=options)
        try:
            async for _ in await sdk.aio.models.generate_content_stream(model=MODEL, **arguments):
                pass
        finally:
            await sdk.aio.aclose()
            sdk.close()


def camel(value: Any) -> Any:
    """The SDK writes some names as in Python; the API takes both forms (proto3's JSON mapping)."""
    match value:
        case dict():
            return {re.sub(r"_(.)", lambda found: found[1].upper(), name): camel(v) for name, v in value.items()}
        case list():
            return [camel(item) for item in value]
        case _:
            return value


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"contents": "Where is the station?"}),
        (EVERYTHING, SAME_FOR_THE_SDK),
    ],
    ids=["the least", "everything"],
)
async def test_sends_what_the_sdk_sends(vendor: Vendor, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    ledger = vendor.simulator.ledger
    await vendor.complete(model=MODEL, **ours)
    await ask_with_sdk(vendor.simulator, **theirs)
    assert ledger.bodies[0] == camel(ledger.bodies[1])
    first, second = ledger.entries
    assert (first.path, first.stream, first.key_fingerprint) == (second.path, second.stream, second.key_fingerprint)
    of_us, of_them = ledger.headers
    assert of_us["content-type"] == of_them["content-type"]


async def test_further_options_win_and_leave_the_rest(vendor: Vendor) -> None:
    options = {
        "generationConfig": {"topK": 5, "temperature": 1, "thinkingConfig": {"thinkingBudget": 99}},
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "cachedContent": "cachedContents/1",
    }
    await vendor.complete(
        max_tokens=512,
        temperature=0.1,
        reasoning_effort="low",
        provider_options={"google": options, "openai": {"n": 2}},
    )
    assert vendor.body["generationConfig"] == {
        "maxOutputTokens": 512,
        "temperature": 1,
        "topK": 5,
        "thinkingConfig": {"includeThoughts": True, "thinkingBudget": 99},
    }
    assert vendor.body["safetySettings"] == options["safetySettings"]
    assert vendor.body["cachedContent"] == "cachedContents/1"
    assert "n" not in vendor.body


@pytest.mark.parametrize(
    ("base_url", "api_version", "model", "url"),
    [
        (None, None, "gemini-2.5-flash", "https://generativelanguage.googleapis.com/v1"),
        (None, None, "gemini-flash-latest", "https://generativelanguage.googleapis.com/v1beta"),
        (None, "v1alpha", "gemini-flash-latest", "https://generativelanguage.googleapis.com/v1alpha"),
        ("https://gateway.example.org/gemini/", None, "gemini-pro", "https://gateway.example.org/gemini/v1"),
        ("https://gateway.example.org/v1beta/", "v1", "gemini-pro", "https://gateway.example.org/v1beta"),
        ("https://gateway.example.org/v1beta1", None, "gemini-pro", "https://gateway.example.org/v1beta1"),
        ("https://gateway.example.org/v1x", None, "gemini-pro", "https://gateway.example.org/v1x/v1"),
    ],
)
def test_the_api_version_is_in_the_url_once(
    vendor: Vendor, base_url: str | None, api_version: str | None, model: str, url: str
) -> None:
    target = Target(Endpoint(base_url=base_url, api_version=api_version), PATIENT, KEY)
    assert versioned_url(target, model=model) == url


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("models/gemini-2.5-flash", "/google/v1/models/gemini-2.5-flash:streamGenerateContent"),
        ("gemini-flash-latest", "/google/v1beta/models/gemini-flash-latest:streamGenerateContent"),
        ("tunedModels/mine-1", "/google/v1/tunedModels/mine-1:streamGenerateContent"),
        ("a?b&c#d", "/google/v1/models/a?b&c#d:streamGenerateContent"),
    ],
)
async def test_the_model_is_in_the_path(vendor: Vendor, model: str, path: str) -> None:
    await vendor.complete(model=model)
    assert vendor.served.path == path


async def test_no_model_leads_to_another_path(vendor: Vendor) -> None:
    _, failure = await vendor.fails(model="../../_sim/ledger")
    assert isinstance(failure, ModelNotFound)
    assert not vendor.simulator.ledger.entries


async def test_the_vendor_learns_the_request_id(vendor: Vendor) -> None:
    await vendor.complete(id="request-42")
    assert vendor.served.request_id == "request-42"


async def test_a_server_without_keys_gets_none(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "AIzaOfTheOperator0123456789")
    _, failure = await vendor.fails(target=vendor.target(key=None))
    assert (failure.code, failure.status) == (ErrorCode.AUTHENTICATION_FAILED, 403)


async def test_a_key_of_the_live_api_is_refused_before_a_call(vendor: Vendor) -> None:
    _, failure = await vendor.fails(target=vendor.target(key=SecretStr("auth_tokens/0123456789")))
    assert failure.code == ErrorCode.AUTHENTICATION_FAILED
    assert "0123456789" not in failure.message


async def test_the_operators_environment_does_not_reach_a_tenants_call(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "GOOGLE_API_KEY": "AIzaOfTheOperator0123456789",
        "GOOGLE_GENAI_USE_VERTEXAI": "true",
        "GOOGLE_GENAI_USE_ENTERPRISE": "true",
        "GOOGLE_CLOUD_PROJECT": "project-of-the-operator",
        "GOOGLE_CLOUD_LOCATION": "europe-west4",
        "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:1",
        "GOOGLE_GENAI_API_VERSION": "v9",
        "GOOGLE_GENAI_CLIENT_MODE": "replay",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    await vendor.complete()
    await vendor.complete(target=vendor.target(key=SecretStr("AIzaAnother0123456789")))
    assert {entry.path for entry in vendor.simulator.ledger.entries} == {
        f"/google/v1/models/{vendor.model}:streamGenerateContent"
    }
    assert len({entry.key_fingerprint for entry in vendor.simulator.ledger.entries}) == 2


async def test_signed_calls_are_sent_back_as_they_came(vendor: Vendor) -> None:
    vendor.simulator.script(
        MODEL,
        Script(
            text="Let me see.",
            tool_calls=(ScriptedToolCall(name="f", id="a"), ScriptedToolCall(name="g", arguments={"x": 1})),
        ),
        Script(text="Done."),
    )
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    first = (await vendor.complete(model=MODEL, tools=tools)).message
    assert first.tool_calls
    assert first.tool_calls[0].id == "a"
    results = [{"role": "tool", "tool_call_id": call.id, "content": "ok"} for call in reversed(first.tool_calls)]
    history = [{"role": "user", "content": "Go."}, json.loads(first.to_json()), *results]
    second = await vendor.complete(model=MODEL, tools=tools, messages=history)
    assert second.message.content == "Done."
    _, said, answered = vendor.body["contents"]
    assert [sorted(part) for part in said["parts"]] == [
        ["text"],
        ["functionCall", "thoughtSignature"],
        ["functionCall"],
    ]
    assert [part["functionResponse"] for part in answered["parts"]] == [
        {"name": "f", "id": "a", "response": {"output": "ok"}},
        {"name": "g", "response": {"output": "ok"}},
    ]


@pytest.mark.parametrize("model", [MODEL, "gemini-2.5-flash"])
async def test_gemini_takes_what_is_left_of_a_history_and_the_images_of_browsers(vendor: Vendor, model: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "null"}}
    parts = [
        {"type": "text", "text": ""},
        {"type": "image_url", "image_url": {"url": "data:image/jpg;charset=utf-8;base64,_9j_4AA"}},
    ]
    history = [
        {"role": "system", "content": ""},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": ""},
        {"role": "assistant", "content": "There.", "tool_calls": []},
        {"role": "assistant", "content": "Once more.", "tool_calls": [{**call, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c2", "content": "ok"},
        {"role": "user", "content": parts},
    ]
    assert (await vendor.complete(model=model, messages=history)).message.content


async def test_calls_of_other_providers_need_no_signature(vendor: Vendor) -> None:
    call = {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {
        "role": "assistant",
        "content": None,
        "tool_calls": [call],
        "provider_data": {"anthropic": {"content": [{"type": "thinking", "signature": "theirs"}]}},
    }
    answer = {"role": "tool", "tool_call_id": "toolu_1", "content": "ok"}
    await vendor.complete(model=MODEL, messages=[{"role": "user", "content": "Go."}, said, answer])
    assert "theirs" not in str(vendor.body)
    assert vendor.body["contents"][1]["parts"][0]["thoughtSignature"] == "skip_thought_signature_validator"


async def test_a_blocked_prompt_is_filtered_content(vendor: Vendor) -> None:
    feedback = {"blockReason": "PROHIBITED_CONTENT", "safetyRatings": []}
    body = json.dumps({"promptFeedback": feedback, "usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 4}})
    vendor.says(Script(body=f"data: {body}\r\n\r\n"))
    said, failure = await vendor.fails()
    assert (said, failure.code, failure.status) == ("", ErrorCode.CONTENT_FILTERED, None)
    assert "PROHIBITED_CONTENT" in failure.message


@pytest.mark.parametrize("in_stream", [False, True])
@pytest.mark.parametrize("in_list", [False, True])
async def test_retry_info_says_when_to_come_back(vendor: Vendor, in_stream: bool, in_list: bool) -> None:
    error: dict[str, JsonValue] = {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota, please check your plan and billing details.",
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.Help", "links": []},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.074824224s"},
            ],
        }
    }
    said = json.dumps([error] if in_list else error)
    body = f"data: {said}\r\n\r\n" if in_stream else said
    vendor.says(Script(body=body, status=None if in_stream else 429, content_type="application/json"))
    _, failure = await vendor.fails()
    assert (failure.code, failure.status, failure.retry_after_s) == (ErrorCode.RATE_LIMITED, 429, 34.074824224)


async def test_an_error_on_bare_lines_of_the_stream_is_one(vendor: Vendor) -> None:
    chunk = json.dumps({"candidates": [{"content": {"parts": [{"text": "x"}]}}]})
    error = json.dumps({"error": {"code": 503, "status": "UNAVAILABLE", "message": "Busy."}}, indent=2)
    vendor.says(Script(body=f"data: {chunk}\r\n\r\n{error}"))
    said, failure = await vendor.fails()
    assert (said, failure.code) == ("x", ErrorCode.OVERLOADED)


@pytest.mark.parametrize("body", ["<html>\xe9</html>", "\xff", "", "[]", "[1, 2]", "null", '"text"', '{"error": 7}'])
async def test_any_body_of_an_error_is_understood(vendor: Vendor, body: str) -> None:
    vendor.says(
        Script(body=body, status=500, content_type="application/json", headers={"content-encoding": "identity"})
    )
    _, failure = await vendor.fails()
    assert (failure.code, failure.status) == (ErrorCode.PROVIDER_UNAVAILABLE, 500)


async def test_a_server_that_shows_the_input_does_not_spread_it(vendor: Vendor) -> None:
    prompt = "The patient, born in May, has been complaining of a headache for three weeks now, and sleeps badly."
    error: dict[str, JsonValue] = {
        "error": {"code": 400, "status": "INVALID_ARGUMENT", "message": f"Invalid value at contents: {prompt}"}
    }
    vendor.says(Script(error=error))
    _, failure = await vendor.fails(messages=[{"role": "user", "content": prompt}])
    assert failure.code == ErrorCode.INVALID_REQUEST
    assert "headache" not in failure.message


async def test_what_has_no_effect_is_said(vendor: Vendor) -> None:
    tools = [{"type": "function", "function": {"name": "f", "strict": True}}]
    completion = await vendor.complete(tools=tools, parallel_tool_calls=False, seed=2**40)
    assert [warning.split(" ")[0] for warning in completion.finish.warnings] == [
        "parallel_tool_calls:",
        "strict",
        "seed",
    ]
    assert "generationConfig" not in vendor.body


async def test_a_result_without_its_call_is_refused_before_a_call(vendor: Vendor) -> None:
    _, failure = await vendor.fails(messages=[{"role": "tool", "tool_call_id": "c1", "content": "42"}])
    assert isinstance(failure, InvalidRequest)
    assert not vendor.simulator.ledger.entries


async def test_tokens_are_counted_with_everything_that_is_input(vendor: Vendor) -> None:
    least = {"model": f"google/{MODEL}", "messages": [{"role": "user", "content": "Say this is a test"}]}
    most = {**least, "messages": EVERYTHING["messages"], "tools": EVERYTHING["tools"]}
    counts = [
        await vendor.adapter.count_tokens(CountTokens.model_validate(asked), model=MODEL, target=vendor.target())
        for asked in (least, most)
    ]
    assert counts[0].exact
    assert counts[0].input_tokens < counts[1].input_tokens


async def test_models_are_listed_page_by_page(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google, "MODELS_PER_PAGE", 2)
    models = await vendor.adapter.get_supported_models(vendor.target())
    assert [model.id for model in models] == list(MODELS)


async def test_another_service_at_the_base_url_is_noticed(vendor: Vendor) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html></html>")

    async with listening(page) as port:
        with pytest.raises(ProviderUnavailable, match="is the base_url right"):
            await vendor.adapter.check_health(vendor.target(base_url=f"http://127.0.0.1:{port}"))
