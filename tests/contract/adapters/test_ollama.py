"""What only Ollama's adapter does, with its SDK as the oracle."""

import asyncio
import json
from typing import Any

import pytest
from ollama import AsyncClient

from contracts.errors import ErrorCode, UnsupportedFeature
from contracts.rpc import CountTokens
from contracts.usage import UsageSource
from fleet.simulator import Script, ScriptedToolCall, Simulator
from fleet.simulator.tcp import listening
from tests.contract.adapters.vendor import KEY, Vendor

pytestmark = pytest.mark.parametrize("vendor", ["ollama"], indirect=True)

PNG = "iVBORw0KGgo="
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "description": "Answers.",
            "parameters": {"type": "object", "properties": {"x": {"type": "number"}}},
        },
    }
]
SCHEMA = {"type": "object", "properties": {"x": {"type": "number"}}}


async def sdk_body(simulator: Simulator, **arguments: Any) -> dict[str, Any]:
    """What the SDK itself sends."""
    sdk = AsyncClient(host=simulator.url)
    try:
        async for _ in await sdk.chat(stream=True, **arguments):
            pass
    finally:
        await sdk.close()
    return {name: value for name, value in simulator.ledger.bodies[-1].items() if value != []}


async def test_sends_what_the_sdk_sends_for_the_least(vendor: Vendor) -> None:
    await vendor.complete()
    ours = vendor.body
    asked = [{"role": "user", "content": "Where is the station?"}]
    assert ours == await sdk_body(vendor.simulator, model=vendor.model, messages=asked)


async def test_sends_what_the_sdk_sends_for_everything(vendor: Vendor) -> None:
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    await vendor.complete(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Čau"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
                "provider_data": {"ollama": {"thinking": "f knows."}, "google": {"signature": "s"}},
            },
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ],
        tools=TOOLS,
        max_tokens=99,
        temperature=0.2,
        top_p=0.9,
        stop=["END"],
        seed=7,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        reasoning_effort="low",
        provider_options={"ollama": {"keep_alive": "30m", "options": {"num_ctx": 8192, "seed": 8}}, "openai": {"x": 1}},
    )
    ours = vendor.body
    theirs = await sdk_body(
        vendor.simulator,
        model=vendor.model,
        messages=[
            {"role": "system", "content": "Be\nbrief."},
            {"role": "user", "content": "Čau", "images": [PNG]},
            {"role": "assistant", "thinking": "f knows.", "tool_calls": [call]},
            {"role": "tool", "content": "42", "tool_name": "f"},
        ],
        tools=TOOLS,
        options={"num_predict": 99, "temperature": 0.2, "top_p": 0.9, "stop": ["END"], "seed": 8, "num_ctx": 8192},
        format=SCHEMA,
        think="low",
        keep_alive="30m",
    )
    assert ours == theirs


async def test_a_chat_is_at_the_machines_own_address_unless_it_is_given_another(vendor: Vendor) -> None:
    for base_url in (vendor.simulator.url, f"{vendor.simulator.url}/", f"{vendor.simulator.url}/api"):
        await vendor.complete(target=vendor.target(base_url=base_url))
        assert vendor.served.path == "/api/chat"


async def test_no_key_is_needed_and_one_is_sent_as_a_bearer(vendor: Vendor) -> None:
    await vendor.complete(target=vendor.target(key=None))
    assert vendor.served.key_fingerprint is None
    await vendor.complete(target=vendor.target(key=KEY))
    assert vendor.served.key_fingerprint


async def test_the_operators_environment_does_not_reach_a_tenants_call(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OLLAMA_HOST", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("OLLAMA_API_KEY", "sk-of-the-operator-0123456789")
    await vendor.complete(target=vendor.target(key=None))
    assert vendor.served.key_fingerprint is None


async def test_a_model_that_is_not_there_comes_with_the_way_to_get_it(vendor: Vendor) -> None:
    vendor.says(Script(error="model_not_found"))
    _, failure = await vendor.fails()
    assert failure.code == ErrorCode.MODEL_NOT_FOUND
    assert f"fleet models pull {vendor.model}" in failure.message


@pytest.mark.parametrize("error", ["tools_unsupported", "thinking_unsupported"])
async def test_what_a_model_cannot_do_is_unsupported(vendor: Vendor, error: str) -> None:
    vendor.says(Script(error=error))
    _, failure = await vendor.fails()
    assert failure.code == ErrorCode.UNSUPPORTED_FEATURE


async def test_thoughts_that_led_to_a_call_are_sent_back(vendor: Vendor) -> None:
    vendor.says(Script(reasoning="f knows.", tool_calls=(ScriptedToolCall(name="f"),)), Script(text="42"))
    first = await vendor.complete(tools=TOOLS)
    assert first.finish.provider_data == {"ollama": {"thinking": "f knows."}}
    assert first.message.tool_calls
    answer = {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": "42"}
    await vendor.complete(tools=TOOLS, messages=[first.message.model_dump(), answer])
    assert vendor.body["messages"][0] == {
        "role": "assistant",
        "thinking": "f knows.",
        "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "required", "tools": TOOLS},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": TOOLS},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
                }
            ]
        },
    ],
    ids=["any tool", "one tool", "an image to fetch"],
)
async def test_what_it_cannot_do_is_refused_before_a_call(vendor: Vendor, fields: dict[str, Any]) -> None:
    request = vendor.call(**fields).request
    with pytest.raises(UnsupportedFeature):
        vendor.adapter.check_supported(request, model=vendor.model)


async def test_what_it_ignores_is_a_warning(vendor: Vendor) -> None:
    strict = [{"type": "function", "function": {"name": "f", "strict": True}}]
    fields: dict[str, Any] = {"parallel_tool_calls": False, "tools": strict, "reasoning_effort": "max"}
    asked = [{"role": "user", "content": "Hi", "name": "ada"}]
    completion = await vendor.complete(messages=asked, **fields)
    dropped = " ".join(completion.finish.warnings)
    assert [word in dropped for word in ("parallel_tool_calls", "strict", "names", "max")] == [True] * 4
    assert vendor.body["think"] == "high"


async def test_no_tool_is_offered_when_none_may_be_called(vendor: Vendor) -> None:
    await vendor.complete(tools=TOOLS, tool_choice="none")
    assert "tools" not in vendor.body


async def test_tokens_are_estimated(vendor: Vendor) -> None:
    asked = CountTokens.model_validate({"model": "ollama/x", "messages": [{"role": "user", "content": "Hello there"}]})
    counted = await vendor.adapter.count_tokens(asked, model="x", target=vendor.target())
    assert (counted.exact, counted.input_tokens > 0) == (False, True)


async def test_a_prompt_that_was_cached_is_estimated(vendor: Vendor) -> None:
    """Older servers leave its count out."""
    last = {"model": "m", "message": {"role": "assistant", "content": "Hi"}, "done": True, "eval_count": 5}
    vendor.says(Script(body=json.dumps(last)))
    usage = (await vendor.complete()).finish.usage
    assert usage
    assert (usage.output_tokens, usage.source, usage.input_tokens > 0) == (5, UsageSource.ESTIMATED, True)


async def test_a_prompt_that_an_error_repeats_does_not_spread(vendor: Vendor) -> None:
    prompt = "The patient, born in May, has been complaining of a headache for three weeks now, and sleeps badly."
    vendor.says(Script(error={"error": f"template: cannot render {prompt}"}, status=500))
    _, failure = await vendor.fails(messages=[{"role": "user", "content": prompt}])
    assert failure.code == ErrorCode.PROVIDER_UNAVAILABLE
    assert "headache" not in failure.message


@pytest.mark.parametrize("body", [b"{}", b"<html>", b'{"models": 1}'])
async def test_another_kind_of_server_is_found_out(vendor: Vendor, body: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with listening(answer) as port:
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(Exception, match="is the base_url right"):
            await vendor.adapter.check_health(vendor.target(base_url=url))
