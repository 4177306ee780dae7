"""The simulator as its users see it: over HTTP, and as a process."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fleet.simulator import Script, Simulator
from tests.patience import until

KEY = "sk-sim-Zx81kQpvL0aa93Jw72"


@pytest.fixture
async def simulator() -> AsyncGenerator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def http(simulator: Simulator) -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=simulator.url, headers={"authorization": f"Bearer {KEY}"}, trust_env=False
    ) as client:
        yield client


def asks(**fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **fields}


async def answer(http: httpx2.AsyncClient, **fields: Any) -> str:
    reply = await http.post("/v1/chat/completions", json=asks(**fields))
    return reply.json()["choices"][0]["message"]["content"]


async def test_the_default_answer_is_derived_from_the_last_user_message(http: httpx2.AsyncClient) -> None:
    assert await answer(http) == await answer(http) == "You said: Hello"


async def test_a_stream_has_the_vendors_form(http: httpx2.AsyncClient) -> None:
    reply = await http.post("/v1/chat/completions", json=asks(stream=True, stream_options={"include_usage": True}))
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    first, *_, end, usage = [json.loads(event) for event in events[:-1]]
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert end["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 10)


async def test_scripts_are_used_up_and_the_last_one_stays(http: httpx2.AsyncClient) -> None:
    put = await http.put("/_sim/scripts/gpt-4o", json=[{"text": "one"}, {"text": "two"}])
    assert put.status_code == 200
    assert [await answer(http) for _ in range(3)] == ["one", "two", "two"]
    await http.delete("/_sim/scripts")
    assert await answer(http) == "You said: Hello"


async def test_a_model_with_a_slash_can_be_scripted(http: httpx2.AsyncClient) -> None:
    await http.put("/_sim/scripts/meta/llama", json={"text": "one"})
    assert await answer(http, model="meta/llama") == "one"


async def test_a_request_can_bring_its_own_script(http: httpx2.AsyncClient) -> None:
    assert await answer(http, simulate={"text": "mine"}) == "mine"


async def test_a_request_can_bring_a_script_for_each_of_its_calls(http: httpx2.AsyncClient) -> None:
    scripts = [{"status": 503}, {"text": "now"}]

    async def call(request_id: str) -> int:
        headers = {"x-client-request-id": request_id}
        return (await http.post("/v1/chat/completions", json=asks(simulate=scripts), headers=headers)).status_code

    assert [await call("a"), await call("b"), await call("a"), await call("a")] == [503, 503, 200, 200]


@pytest.mark.parametrize("method", ["put", "inline"])
async def test_a_wrong_script_is_refused_by_the_name_of_its_field(http: httpx2.AsyncClient, method: str) -> None:
    script = {"tekst": "typo"}
    if method == "put":
        reply = await http.put("/_sim/scripts/gpt-4o", json=script)
    else:
        reply = await http.post("/v1/chat/completions", json=asks(simulate=script))
    assert reply.status_code in (400, 422)
    assert "tekst" in reply.text


async def test_the_ledger_says_what_was_served_but_never_the_key(http: httpx2.AsyncClient) -> None:
    await http.post("/v1/chat/completions", json=asks(), headers={"x-client-request-id": "r1"})
    await answer(http, model="other")
    reply = await http.get("/_sim/ledger", params={"model": "gpt-4o"})
    (entry,) = reply.json()["items"]
    assert (entry["request_id"], entry["status"], entry["outcome"]) == ("r1", 200, "finished")
    assert (entry["input_tokens"], entry["output_tokens"]) == (6, 4)
    assert len(entry["key_fingerprint"]) == 8
    assert KEY not in reply.text
    await http.delete("/_sim/ledger")
    assert (await http.get("/_sim/ledger")).json() == {"items": []}


async def test_the_ledger_says_when_a_caller_hung_up(simulator: Simulator, http: httpx2.AsyncClient) -> None:
    simulator.script("gpt-4o", Script(chunks=1000, between_s=0.01))
    async with http.stream("POST", "/v1/chat/completions", json=asks(stream=True)) as reply:
        await anext(reply.aiter_bytes())
    await until(lambda: simulator.ledger.entries[-1].ended_at is not None)
    assert simulator.ledger.entries[-1].outcome == "hung_up"


async def test_a_key_is_needed(http: httpx2.AsyncClient) -> None:
    reply = await http.post("/v1/chat/completions", json=asks(), headers={"authorization": ""})
    assert reply.status_code == 401


HELLO = {"role": "user", "content": "Hello"}
TURN = {"role": "user", "parts": [{"text": "Hello"}]}
GENERATION = {"model": "models/m", "contents": [TURN]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": asks(),
    "/openai/v1/chat/completions": asks(),
    "/openai/deployments/m/chat/completions?api-version=1": {"messages": [HELLO]},
    "/anthropic/v1/messages": {"model": "m", "max_tokens": 9, "messages": [HELLO]},
    "/anthropic/v1/messages/count_tokens": {"model": "m", "messages": [HELLO]},
    "/google/v1beta/models/m:generateContent": {"contents": [TURN]},
    "/google/v1beta/models/m:streamGenerateContent": {"contents": [TURN]},
    "/google/v1beta/models/m:countTokens": {"contents": [TURN]},
    "/api/chat": {"model": "m", "messages": [HELLO]},
}
"""Every path of every vendor that takes a prompt, with a body that is right."""
OF_OPENAI = "/v1/chat/completions"
OF_ANTHROPIC = "/anthropic/v1/messages"
OF_GOOGLE = "/google/v1beta/models/m:generateContent"
COUNT_OF_GOOGLE = "/google/v1beta/models/m:countTokens"


async def post(http: httpx2.AsyncClient, path: str, body: bytes | str) -> httpx2.Response:
    headers = {"api-key": KEY, "x-goog-api-key": KEY, "anthropic-version": "2023-06-01"}
    return await http.post(path, content=body, headers=headers)


async def refusal(http: httpx2.AsyncClient, path: str, body: bytes | str) -> str:
    """What the vendor says in its own form of a 400."""
    reply = await post(http, path, body)
    assert reply.status_code == 400, reply.text
    answer = reply.json()
    if path.startswith("/api/"):
        return answer["error"]
    error = answer["error"]
    if path.startswith("/google/"):
        assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    else:
        assert error["type"] == "invalid_request_error"
        assert answer.get("type") == ("error" if path.startswith("/anthropic/") else None)
    return error["message"]


@pytest.mark.parametrize("path", BODIES)
async def test_what_is_right_is_taken(http: httpx2.AsyncClient, path: str) -> None:
    assert (await post(http, path, json.dumps(BODIES[path]))).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"model": "\\ud800"}', b"[" * 100_000, b"[]", b"null", b'"x"', b"7"],
    ids=["empty", "cut", "no utf-8", "half a pair", "deep", "list", "null", "text", "number"],
)
@pytest.mark.parametrize("path", BODIES)
async def test_what_is_no_object_is_refused(http: httpx2.AsyncClient, path: str, body: bytes) -> None:
    assert await refusal(http, path, body)


@pytest.mark.parametrize("wrong", ["x", 7, {}, ["x"], [None], [[]], [7, {}]])
@pytest.mark.parametrize("path", BODIES)
async def test_what_is_no_list_of_messages_is_refused(http: httpx2.AsyncClient, path: str, wrong: Any) -> None:
    name = "contents" if path.startswith("/google/") else "messages"
    assert name in await refusal(http, path, json.dumps({**BODIES[path], name: wrong}))


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (OF_OPENAI, {"messages": [HELLO]}, "Missing required parameter: 'model'."),
        (OF_OPENAI, {"model": "m"}, "Missing required parameter: 'messages'."),
        (OF_OPENAI, asks(messages=[{"content": "Hello"}]), "Missing required parameter: 'messages[0].role'."),
        (
            OF_OPENAI,
            asks(messages=[HELLO, {"role": "assistant", "tool_calls": [{"type": "function"}]}]),
            "Missing required parameter: 'messages[1].tool_calls[0].id'.",
        ),
        (
            "/openai/deployments/m/chat/completions?api-version=1",
            {"messages": [{"content": "Hello"}]},
            "Missing required parameter: 'messages[0].role'.",
        ),
        (OF_ANTHROPIC, {"model": "m", "messages": [HELLO]}, "max_tokens: Field required"),
        (f"{OF_ANTHROPIC}/count_tokens", {"model": "m"}, "messages: Field required"),
        (
            f"{OF_ANTHROPIC}/count_tokens",
            {"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text.text: Field required",
        ),
        (OF_ANTHROPIC, {**BODIES[OF_ANTHROPIC], "messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        (OF_GOOGLE, {}, "GenerateContentRequest.contents: contents is not specified"),
        (COUNT_OF_GOOGLE, {}, "GenerateContentRequest.contents: contents is not specified"),
        (
            COUNT_OF_GOOGLE,
            {"generateContentRequest": {"model": "models/m"}},
            "GenerateContentRequest.contents: contents is not specified",
        ),
        ("/api/chat", {"messages": [HELLO]}, "model is required"),
        ("/api/show", {}, "model is required"),
    ],
)
async def test_a_missing_field_is_named(http: httpx2.AsyncClient, path: str, body: Any, said: str) -> None:
    assert await refusal(http, path, json.dumps(body)) == said


@pytest.mark.parametrize(
    ("path", "fields", "place"),
    [
        (OF_OPENAI, {"model": 7}, "'model'"),
        (OF_OPENAI, {"stream_options": "x"}, "'stream_options'"),
        (OF_OPENAI, {"messages": [{"role": "user", "content": [7]}]}, "'messages[0].content[0]'"),
        (OF_OPENAI, {"messages": [{"role": "tool", "tool_call_id": 7}]}, "'messages[0].tool_call_id'"),
        ("/openai/v1/chat/completions", {"messages": [{"role": 7}]}, "'messages[0].role'"),
        (OF_ANTHROPIC, {"max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
        (OF_ANTHROPIC, {"messages": [{"role": "user", "content": 7}]}, "messages.0.content: "),
        (OF_ANTHROPIC, {"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0"),
        (
            OF_ANTHROPIC,
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": []}]}]},
            "messages.0.content.0.tool_result.tool_use_id: ",
        ),
        (OF_GOOGLE, {"systemInstruction": "x"}, "'systemInstruction'"),
        (OF_GOOGLE, {"contents": [{"parts": [{"inlineData": "x"}]}]}, "'contents[0].parts[0].inlineData'"),
        (COUNT_OF_GOOGLE, {"contents": [{"parts": "x"}]}, "'contents[0].parts'"),
        (COUNT_OF_GOOGLE, {"generateContentRequest": 7}, "'generateContentRequest'"),
        ("/api/chat", {"model": 7}, "field model:"),
        ("/api/chat", {"messages": [{"role": "user", "content": 7}]}, "field messages.content:"),
    ],
)
async def test_a_field_of_another_type_is_named(http: httpx2.AsyncClient, path: str, fields: Any, place: str) -> None:
    assert place in await refusal(http, path, json.dumps({**BODIES[path], **fields}))


async def test_what_is_no_number_of_a_page_and_no_form_is_refused(http: httpx2.AsyncClient) -> None:
    page = await http.get("/google/v1beta/models?pageSize=x", headers={"x-goog-api-key": KEY})
    token = await http.post("/tenant/oauth2/v2.0/token", content=b"\xff")
    assert (page.status_code, token.status_code) == (400, 400)


async def test_tokens_come_at_their_pace(simulator: Simulator, http: httpx2.AsyncClient) -> None:
    simulator.script("gpt-4o", Script(chunks=20, between_s=0.02, first_token_s=0.1))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await http.post("/v1/chat/completions", json=asks(stream=True))
    assert loop.time() - began >= 0.1 + 19 * 0.02


async def test_it_runs_as_a_process_until_it_is_told_to_stop(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "fleet.simulator", "--port", "0", "--ready-file", str(ready)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        await until(ready.exists)
        url = json.loads(ready.read_text())["url"]
        async with httpx2.AsyncClient(base_url=url, trust_env=False) as http:
            assert (await http.get("/_sim/healthz")).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        shown, _ = await asyncio.wait_for(process.communicate(), timeout=60)
    assert process.returncode == 0
    assert shown.decode().strip() == url


async def test_a_request_that_comes_before_the_last_one_is_over_is_served_next(simulator: Simulator) -> None:
    body = json.dumps(asks(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    host, port = simulator.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write((head.encode() + body) * 3)

    for _ in range(3):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    await until(lambda: [e.outcome for e in simulator.ledger.entries] == ["finished"] * 3)
