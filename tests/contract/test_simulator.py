"""The simulator as its users see it: over HTTP, and as a process."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
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


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": 7, "messages": []}', b'{"model": "m", "messages": "x"}'])
async def test_what_is_no_request_is_refused(http: httpx2.AsyncClient, body: bytes) -> None:
    assert (await http.post("/v1/chat/completions", content=body)).status_code == 400


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_body_has_a_bound(
    simulator: Simulator, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, is_chunked: bool
) -> None:
    body = json.dumps(asks()).encode()

    async def in_chunks(sent: bytes) -> AsyncIterator[bytes]:
        half = len(sent) // 2
        yield sent[:half]
        yield sent[half:]

    monkeypatch.setattr("fleet.simulator.http.MAX_BODY_BYTES", len(body))
    reply = await http.post("/v1/chat/completions", content=in_chunks(body) if is_chunked else body)
    assert reply.status_code == 200
    longer = body + b" "
    with pytest.raises(httpx2.TransportError):
        await http.post("/v1/chat/completions", content=in_chunks(longer) if is_chunked else longer)
    assert len(simulator.ledger.entries) == 1


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
