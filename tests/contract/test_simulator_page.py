"""The examples and tables of docs/simulator.md."""

import json
import os
import subprocess
import sys
from typing import Any

import httpx2
import pytest

from contracts.errors import FleetError
from contracts.providers import Endpoint, Timeouts
from contracts.requests import CompletionRequest
from fleet.simulator import Script, Simulator
from tests.pages import ROOT, blocks, call, fields, lines, section
from workers.providers.base import Call, Target
from workers.providers.mock import adapter as mock

PAGE = "docs/simulator.md"
OF_MOCK = section(PAGE, "## The provider `mock`")
OF_SCRIPTS = section(PAGE, "### Scripts")
OF_CONTROL = section(PAGE, "### Control")
OF_TESTS = section(PAGE, "### In tests of your own")
HEADERS = {"authorization": "Bearer sk-any", "x-api-key": "sk-any", "x-goog-api-key": "sk-any"}
ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}),
    "anthropic": ("/v1/messages", {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]}),
    "google": ("/v1beta/models/m:generateContent", {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}),
    "azure": ("/openai/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}),
    "ollama": ("/api/chat", {"model": "m", "stream": False, "messages": [{"role": "user", "content": "Hello"}]}),
}


def client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(trust_env=False, headers={**HEADERS, "anthropic-version": "2023-06-01"})


def test_the_tables_have_every_field_of_a_script() -> None:
    assert fields(OF_MOCK) == set(mock.MockScript.model_fields)
    assert fields(OF_SCRIPTS) == set(Script.model_fields)


@pytest.mark.parametrize("example", blocks(OF_MOCK, "json"))
async def test_a_script_of_the_mock_ends_as_it_says(example: str) -> None:
    script = json.loads(example)
    request = CompletionRequest.model_validate(
        {
            "id": "r",
            "tenant": "t",
            "agent": "a",
            "model": "mock/echo",
            "messages": [{"role": "user", "content": "Hello"}],
            "provider_options": {"mock": script},
        }
    )
    target = Target(endpoint=Endpoint(), timeouts=Timeouts(), key=None)
    asked, adapter = Call(request=request, model="echo", target=target, time_left_s=30), mock.Mock()
    fails = script.get("fail", {"times": 1 if "cut_after_chunks" in script else 0})

    for _ in range(fails["times"]):
        with pytest.raises(FleetError) as failed:
            await adapter.complete(asked)
        assert failed.value.code == fails.get("code", "stream_interrupted")
    if "cut_after_chunks" not in script:
        answer = (await adapter.complete(asked)).message
        assert (answer.content or "") == script.get("text", "" if "tool_calls" in script else "You said: Hello")
        assert [call.function.name for call in answer.tool_calls or ()] == [
            call["name"] for call in script.get("tool_calls", ())
        ]


@pytest.mark.parametrize("example", blocks(OF_SCRIPTS, "json"))
async def test_a_script_of_the_simulator_does_what_it_says(example: str) -> None:
    script = json.loads(example)
    path, body = ASKS["openai"]
    async with Simulator() as simulator, client() as http:
        simulator.script("m", Script.model_validate(script))
        try:
            answer = await http.post(simulator.base_url("openai") + path, json={**body, "stream": True}, timeout=0.5)
            broken = False
        except httpx2.TransportError:
            answer, broken = None, True
        entry = simulator.ledger.entries[-1]
    assert broken == bool({"cut_after_chunks", "stall_after_chunks"} & script.keys())
    if answer is not None and "headers" in script:
        assert (answer.status_code, answer.headers["retry-after"]) == (429, script["headers"]["retry-after"])
    elif answer is not None:
        assert entry.chunks_sent == script.get("error_after_chunks", script["chunks"])


async def test_the_lines_for_its_control_do_what_they_say() -> None:
    async with Simulator() as simulator, client() as http:
        answers: list[httpx2.Response] = []
        for line in lines(blocks(OF_CONTROL, "sh")[0]):
            asked = call(line, {"SIMULATOR": simulator.url})
            answers.append(await http.request(asked.method, asked.url, headers=asked.headers, content=asked.body))
    assert [answer.status_code for answer in answers] == [200, 503, 200, 200, 200, 200]
    assert "Back again." in answers[2].text
    entries = answers[3].json()["items"]
    assert [entry["outcome"] for entry in entries] == ["failed", "finished"]
    described = set(fields_in_words(OF_CONTROL.partition("An entry of the ledger has")[2]))
    assert set(entries[0]) <= described


def fields_in_words(text: str) -> list[str]:
    return [part for part in text.split("`") if part.isidentifier()]


async def test_every_path_of_its_control_is_served() -> None:
    rows = [row.split("|")[1] for row in OF_CONTROL.splitlines() if row.startswith("| `")]
    asked = [part.split() for row in rows for part in row.split("`")[1::2]]
    async with Simulator() as simulator, client() as http:
        for method, path in asked:
            url = simulator.url + path.replace("{model}", "m")
            assert (await http.request(method, url, content="{}" if method == "PUT" else None)).status_code == 200
    assert len(asked) == 6


@pytest.mark.parametrize("vendor", ASKS)
async def test_every_vendor_is_where_the_page_says_and_knows_the_errors_that_it_names(vendor: str) -> None:
    rows = [row for row in section(PAGE, "## The simulator").splitlines() if row.startswith("| `")]
    where = next(row for row in rows if f"`{vendor}`" in row.split("|")[1])
    base_url = where.split("|")[2].strip(" `")
    named = fields_in_words(OF_SCRIPTS.partition("Errors that every format has by name:")[2].partition(".")[0])
    path, body = ASKS[vendor]
    async with Simulator() as simulator, client() as http:
        assert base_url.replace("$SIMULATOR", simulator.url) == simulator.base_url(vendor)
        for name in named:
            simulator.script("m", Script(error=name))
            answer = await http.post(simulator.base_url(vendor) + path, json=body, headers={"api-key": "sk-any"})
            assert answer.status_code >= 400
            said = answer.json()["error"]
            assert (said if isinstance(said, str) else said["message"]) != name
    assert len(named) > 10


def test_the_program_for_tests_of_your_own() -> None:
    (program,) = blocks(OF_TESTS, "python")
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.stdout == "Back again.\n['failed', 'finished']\n", ended.stderr
