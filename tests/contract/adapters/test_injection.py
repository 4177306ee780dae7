"""What names and options of tenants and agents make of a vendor's request, seen as bytes on the wire."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from pydantic import ValidationError

from contracts.errors import FleetError
from contracts.providers import Endpoint
from contracts.requests import CompletionRequest
from fleet.simulator.tcp import listening
from tests.contract.adapters.vendor import KEY, PATIENT, TRAITS, Vendor
from workers.providers.base import Call, Target

NAMES = [
    "..",
    ".",
    "../../admin",
    "a/../../../../admin",
    "..\\..\\admin",
    "%2e%2e/%2e%2e/admin",
    "%2e%2e%2fadmin",
    "a%0d%0aX-Evil:%20yes",
    "a?api-version=evil",
    "a&key=evil",
    "a#fragment",
    "a;b=c",
    "a:deleteModel",
    "@evil.example/v1",
    "//evil.example/v1",
    "http://evil.example/v1",
    "\u2025/\u2025/admin",
    "a\u0085X-Evil:\u00a0yes",
    "a\u2028X-Evil:yes",
    "модель",
    "a\ufffeb",
    "{model}",
    "m" * 200,
]
"""None has blanks or ASCII controls: the contract refuses those (tests/contract/test_bad_input.py)."""
OPTIONS: list[dict[str, Any]] = [
    {"extra_headers": {"X-Evil": "yes", "Authorization": "Bearer evil"}},
    {"headers": {"X-Evil": "yes", "Host": "evil.example"}},
    {"default_headers": {"X-Evil": "yes"}, "custom_headers": {"X-Evil": "yes"}},
    {"extra_query": {"evil": "yes"}, "query": {"evil": "yes"}, "params": {"evil": "yes"}},
    {"extra_body": {"evil": "yes"}},
    {"base_url": "http://evil.example", "url": "http://evil.example", "host": "evil.example", "path": "/evil"},
    {"http_options": {"base_url": "http://evil.example", "headers": {"X-Evil": "yes"}, "api_version": "evil"}},
    {"httpOptions": {"baseUrl": "http://evil.example"}},
    {"api_key": "sk-evil", "auth_token": "evil", "api-key": "sk-evil", "authorization": "Bearer evil", "auth": "evil"},
    {"organization": "evil", "project": "evil", "api_version": "evil", "deployment": "../evil"},
    {"timeout": 0.001, "max_retries": 9, "follow_redirects": True, "proxy": "http://evil.example", "method": "DELETE"},
    {"stream_cls": "evil", "cast_to": "evil", "files": {"a": "/etc/passwd"}, "content": "evil"},
    {"a\r\nX-Evil: yes": "a\r\nX-Evil: yes"},
]
NOT_COMPARED = {"content-length"}


@dataclass
class Recorder:
    """A server that keeps what it gets and refuses it."""

    url: str = ""
    requests: list[bytes] = field(default_factory=list[bytes])

    @property
    def head(self) -> tuple[str, dict[str, str]]:
        """Request line and headers of the only request."""
        (request,) = self.requests
        first, *lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        pairs = [line.partition(": ") for line in lines]
        assert len({name.lower() for name, _, _ in pairs}) == len(pairs), "a header is there twice"
        return first, {name.lower(): value for name, _, value in pairs}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
            )
            self.requests.append(head + await reader.readexactly(length))
            writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")


@pytest.fixture
async def recorder() -> AsyncGenerator[Recorder]:
    async with recording() as recorder:
        yield recorder


@asynccontextmanager
async def recording() -> AsyncGenerator[Recorder]:
    recorder = Recorder()
    async with listening(recorder.serve) as port:
        recorder.url = f"http://127.0.0.1:{port}"
        yield recorder


def allowed(vendor: Vendor, endpoint: Endpoint) -> tuple[str, str]:
    """What the request's path begins and ends with; between them is one name, if anything."""
    if vendor.name == "azure" and endpoint.api_version:
        return "/base/openai/deployments/", f"/chat/completions?api-version={endpoint.api_version}"
    return {
        "openai": ("/base/chat/completions", ""),
        "azure": ("/base/openai/v1/chat/completions", ""),
        "anthropic": ("/base/v1/messages", ""),
        "google": (f"/base/{endpoint.api_version or 'v1'}/models/", ":streamGenerateContent?alt=sse"),
        "ollama": ("/base/api/chat", ""),
    }[vendor.name]


async def sent(vendor: Vendor, recorder: Recorder, endpoint: Endpoint, **fields: Any) -> Call:
    call = vendor.call(target=Target(endpoint, PATIENT, KEY), **fields)
    with pytest.raises(FleetError):
        await vendor.adapter.complete(call)
    return call


def check_wire(vendor: Vendor, recorder: Recorder, endpoint: Endpoint) -> None:
    """The request went where its endpoint is, with the key that is ours, and says nothing else."""
    if not recorder.requests:
        return
    line, headers = recorder.head
    method, target, version = line.split(" ")
    assert (method, version) == ("POST", "HTTP/1.1")
    begin, end = allowed(vendor, endpoint)
    assert target.startswith(begin), target
    assert target.endswith(end), target
    name = target.removeprefix(begin).removesuffix(end)
    assert not set(name) & set("?#\\"), target
    assert ".." not in unquote(name).split("/"), target
    assert vendor.name == "google" or "/" not in name
    assert headers["host"] == urlsplit(recorder.url).netloc
    assert "evil" not in headers.get("authorization", "")
    assert not any("evil" in header for header in headers)
    assert KEY.get_secret_value() in "".join(headers.values())


@pytest.mark.parametrize("name", NAMES)
async def test_no_model_name_leaves_its_place(vendor: Vendor, recorder: Recorder, name: str) -> None:
    endpoint = Endpoint(base_url=f"{recorder.url}/base")
    await sent(vendor, recorder, endpoint, model=name)
    check_wire(vendor, recorder, endpoint)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("vendor", ["azure"], indirect=True)
async def test_no_deployment_leaves_its_place(vendor: Vendor, recorder: Recorder, name: str, deployed: bool) -> None:
    deployments = {"gpt-4o": name} if deployed else None
    endpoint = Endpoint(base_url=f"{recorder.url}/base", api_version="2024-10-21", deployments=deployments)
    await sent(vendor, recorder, endpoint, model="gpt-4o" if deployed else name)
    check_wire(vendor, recorder, endpoint)


@pytest.mark.parametrize(
    "version", ["..", ".", "a/b", "a?b", "a#b", "%2e%2e", "a\r\nX-Evil: yes", "a b", "ä", "", "a\n"]
)
def test_an_api_version_is_one_segment(version: str) -> None:
    with pytest.raises(ValidationError):
        Endpoint(base_url="https://vendor.example", api_version=version)


@pytest.mark.parametrize("field_name", ["name", "region", "key"])
@pytest.mark.parametrize("value", ["..", "a/b", "a?b", "a#b", "%2e", "a\r\nX-Evil: yes", "a\n", "ä", ""])
def test_what_an_endpoint_is_called_is_a_token(field_name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Endpoint.model_validate({field_name: value})


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options)[:40])
async def test_options_go_into_the_body_and_nowhere_else(vendor: Vendor, recorder: Recorder, options: Any) -> None:
    endpoint = Endpoint(base_url=f"{recorder.url}/base")
    async with recording() as plain:
        await sent(vendor, plain, endpoint.model_copy(update={"base_url": f"{plain.url}/base"}))
        line, headers = plain.head
    await sent(vendor, recorder, endpoint, provider_options={vendor.name: options})

    hostile_line, hostile_headers = recorder.head
    assert hostile_line == line
    assert {n: v for n, v in hostile_headers.items() if n not in NOT_COMPARED | {"host"}} == {
        n: v for n, v in headers.items() if n not in NOT_COMPARED | {"host"}
    }
    check_wire(vendor, recorder, endpoint)


@pytest.mark.parametrize("vendor", ["anthropic"], indirect=True)
@pytest.mark.parametrize("beta", ["a\r\nX-Evil: yes", "a\nb", "a\x00", "ä", "\u2028"])
async def test_a_beta_is_no_more_than_a_name(vendor: Vendor, recorder: Recorder, beta: str) -> None:
    endpoint = Endpoint(base_url=f"{recorder.url}/base")
    await sent(vendor, recorder, endpoint, provider_options={"anthropic": {"betas": [beta]}})
    assert recorder.requests == []


@pytest.mark.parametrize("provider", TRAITS)
def test_options_name_no_other_model(provider: str) -> None:
    """It would be called past the tenant's prices, budget and list of models."""
    request = {
        "id": "r1",
        "tenant": "acme",
        "agent": "a",
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    with pytest.raises(ValidationError, match="provider_options"):
        CompletionRequest.model_validate_json(
            json.dumps({**request, "provider_options": {provider: {"model": "dear"}}})
        )
