"""What an answer with an error means, beside what it means when the vendor's SDK reads it: the same error, in the same
words, with the same wait. Each answer is read by the adapter and by the SDK, from one server."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from contracts.errors import FleetError
from contracts.providers import Endpoint
from contracts.requests import CompletionRequest
from fleet.simulator.tcp import listening
from runtime.egress import MAX_ERROR_BYTES
from tests.contract.adapters.vendor import KEY, LOCAL, PATIENT, TRAITS
from tests.ports import free_port
from workers.providers import registry
from workers.providers.base import Call, NotReached, Target
from workers.providers.shared.http.adapter import HttpAdapter

PROMPT = "Where is the station from which the last train to the mountains leaves, please?"
PHRASE = "Said-So"
"""What stands behind the status. Google's SDK takes it for a name of the error, where the body is no JSON; we do not
repeat it."""
QUOTA = {"message": "You exceeded your current quota.", "type": "insufficient_quota", "code": "insufficient_quota"}
LIMIT = {"message": "Please try again in 20s.", "type": "rate_limit_error"}
GOOGLES = {
    "code": 429,
    "message": "Quota exceeded",
    "status": "RESOURCE_EXHAUSTED",
    "details": [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"},
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED"},
    ],
}
UMLAUTS = json.dumps({"error": {"message": "Zu viele Anfragen für Köln", "code": "slow_down"}}, ensure_ascii=False)
BODIES: dict[str, object] = {
    "nothing": b"",
    "blanks": b" \r\n ",
    "an object in error": {"error": QUOTA},
    "an object in error and more beside it": {"error": LIMIT, "code": "insufficient_quota", "message": "no credit"},
    "a text in error": {"error": "the prompt is too long: 9000 tokens > 8192 maximum", "code": "invalid"},
    "true in error": {"error": True, "message": "context length exceeded"},
    "null in error": {"error": None, "message": "insufficient credits"},
    "an empty object in error": {"error": {}, "message": "overloaded"},
    "a list in error": {"error": [LIMIT]},
    "an empty list in error": {"error": [], "detail": "no such model"},
    "errors": {"success": False, "errors": [{"code": 7003, "message": "Could not route"}]},
    "no error": QUOTA,
    "no words": {"error": {"code": 404}},
    "a status": {"error": {"message": "no", "code": 402, "status": "429"}},
    "a list of one": [{"error": GOOGLES}],
    "a list of two": [{"error": LIMIT}, {"error": QUOTA}],
    "a list in a list": [[{"error": QUOTA}]],
    "an empty list": [],
    "an empty object": {},
    "Anthropic's": {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "r"},
    "Anthropic's with a cause": {
        "type": "error",
        "error": {"type": "x", "message": "m", "details": {"error_code": "organization_on_hold"}},
    },
    "Google's": {"error": GOOGLES},
    "Google's of a blocked prompt": {"promptFeedback": {"blockReason": "SAFETY"}},
    "Google's in a list of a blocked prompt": [{"promptFeedback": {"blockReason": "SAFETY"}}],
    "Ollama's": {"error": "model 'x' not found, try pulling it first"},
    "FastAPI's": {"detail": [{"loc": ["body"], "msg": "field required", "input": PROMPT}]},
    "FastAPI's text": {"detail": "Not authenticated"},
    "a gateway's": {
        "error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": json.dumps(QUOTA)}}
    },
    "JSON in a message": {"error": {"message": f"upstream said {json.dumps({'error': QUOTA})}"}},
    "a wait in the body": {"error": {"message": "slow", "retry_after": 12}},
    "the prompt": {"error": {"message": f"refused: {PROMPT}", "code": "content_filter"}},
    "the key": {"error": {"message": f"Incorrect API key provided: {KEY.get_secret_value()}"}},
    "a page": b"<!DOCTYPE html><html><body>429 Too Many Requests</body></html>",
    "a text": b"upstream connect error or disconnect/reset before headers",
    "a JSON text": b'"the model is overloaded"',
    "a JSON text of JSON": json.dumps(json.dumps({"error": QUOTA})).encode(),
    "a number": b"42",
    "null": b"null",
    "two objects": b'{"error": {"message": "one"}} {"error": {"message": "two"}}',
    "JSON that is cut": b'{"error": {"message": "the context length is',
    "JSON with a mark": b"\xef\xbb\xbf" + json.dumps({"error": QUOTA}).encode(),
    "JSON with a number that is none": b'{"error": {"message": "x", "code": NaN, "retry_after": Infinity}}',
    "JSON with a long number": b'{"error": {"message": "x", "code": ' + b"9" * 5000 + b"}}",
    "JSON with half a character": b'{"error": {"message": "half \\ud83d of one", "code": "slow_down"}}',
    "a field twice": b'{"error": {"message": "one", "message": "two"}, "error": {"message": "three"}}',
    "more than is read": {"error": {"message": "a" * MAX_ERROR_BYTES, "code": "insufficient_quota"}},
    "exactly what is read": b'{"error": {"message": "%b"}}' % (b"a" * (MAX_ERROR_BYTES - 26)),
    "many levels": b"[" * 60_000,
    "many levels that end": b'{"error":' * 5_000 + b"1" + b"}" * 5_000,
}
CHARSETS: dict[str, tuple[str, bytes]] = {
    "UTF-8": ("application/json; charset=utf-8", UMLAUTS.encode()),
    "UTF-8 that says so oddly": ('application/json;charset="UTF8"', UMLAUTS.encode()),
    "UTF-8 that is Latin-1": ("application/json; charset=utf-8", UMLAUTS.encode("latin-1")),
    "Latin-1": ("application/json; charset=ISO-8859-1", UMLAUTS.encode("latin-1")),
    "Latin-1 that is UTF-8": ("application/json; charset=latin-1", UMLAUTS.encode()),
    "Windows": ("text/plain; charset=windows-1252", "quota exceeded for 5 €".encode("windows-1252")),
    "UTF-16": ("application/json; charset=utf-16", UMLAUTS.encode("utf-16")),
    "UTF-16 that does not say so": ("application/json", UMLAUTS.encode("utf-16-le")),
    "punycode": ("text/plain; charset=punycode", b"overloaded-"),
    "none that there is": ("text/plain; charset=x-nothing", b"overloaded"),
    "none at all": ("", UMLAUTS.encode()),
    "broken UTF-8": ("text/plain", b"the model \xff\xfe is overloaded"),
}
HEADERS: dict[str, list[tuple[str, str]]] = {
    "seconds": [("retry-after", "7")],
    "milliseconds": [("Retry-After-Ms", "1500")],
    "both": [("retry-after", "1"), ("retry-after-ms", "0")],
    "the same twice": [("retry-after", "3"), ("retry-after", "9")],
    "a name in capitals": [("RETRY-AFTER", "5")],
    "no number": [("retry-after", "soon")],
    "nobody comes back": [("x-should-retry", "false")],
    "a check for browsers": [("cf-mitigated", "challenge")],
    "limits": [
        ("anthropic-ratelimit-tokens-remaining", "0"),
        ("anthropic-ratelimit-tokens-reset", "2999-01-01T00:00:00Z"),
    ],
}
STATUSES = (302, 400, 401, 402, 403, 404, 408, 409, 413, 422, 424, 429, 498, 499, 500, 502, 503, 504, 520, 529, 599)
NOT_READ_BY_GOOGLES_SDK = frozenset(
    {
        "UTF-8 that is Latin-1",
        "Latin-1",
        "Windows",
        "broken UTF-8",
        "many levels",
        "many levels that end",
        "JSON with a long number",
    }
)
"""Bodies at which its SDK fails. They were an error without a status; now the status says what it is."""


def written(
    status: int, body: bytes, *, content_type: str = "application/json", headers: list[tuple[str, str]] | None = None
) -> bytes:
    """An answer as it is sent."""
    named = [("content-type", content_type)] if content_type else []
    lines = [f"{name}: {value}\r\n" for name, value in (*named, *(headers or []))]
    head = f"HTTP/1.1 {status} {PHRASE}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n{''.join(lines)}\r\n"
    return head.encode() + body


def encoded(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@asynccontextmanager
async def answering(answer: bytes) -> AsyncGenerator[str]:
    """The URL of a server that answers each request like this, and hangs up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        writer.write(answer)

    async with listening(talk) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=TRAITS)
async def adapter(request: pytest.FixtureRequest) -> AsyncGenerator[HttpAdapter[Any]]:
    adapter = registry.load(request.param, LOCAL)
    assert isinstance(adapter, HttpAdapter)
    yield adapter
    await adapter.aclose()


async def by_us(adapter: HttpAdapter[Any], url: str) -> FleetError:
    """The error as the adapter raises it."""
    model = TRAITS[adapter.name].model
    request = CompletionRequest.model_validate(
        {
            "id": "request-1",
            "tenant": "acme",
            "agent": "tester",
            "model": f"{adapter.name}/{model}",
            "messages": [{"role": "user", "content": PROMPT}],
        }
    )
    with pytest.raises(FleetError) as raised:
        await adapter.complete(Call(request, model, Target(Endpoint(base_url=url), PATIENT, KEY), time_left_s=20))
    return raised.value


async def by_the_sdk(adapter: HttpAdapter[Any], url: str) -> FleetError:
    """The error that the SDK's own is, when it sends a request and reads the answer."""
    target = Target(Endpoint(base_url=url), PATIENT, KEY)
    model = TRAITS[adapter.name].model
    stream_cls = anthropic.AsyncStream[Any] if adapter.name == "anthropic" else openai.AsyncStream[Any]

    async def send() -> None:
        async with adapter._lease(target, model=model, prompt=[PROMPT]) as client:  # pyright: ignore[reportPrivateUsage]
            match adapter.name:
                case "google":
                    await client.send("post", "models/x:streamGenerateContent?alt=sse", target, b"{}")
                case "ollama":
                    await client.fetch("POST", "/api/chat", PATIENT, body=b"{}")
                case _:
                    await client.post("/x", cast_to=httpx2.Response, body={}, stream=True, stream_cls=stream_cls)

    with pytest.raises(FleetError) as raised:
        await send()
    return raised.value


def facts(error: FleetError) -> Mapping[str, object]:
    return {
        "class": type(error),
        "message": error.message.replace(f" {PHRASE}:", ":")[:400],  # longer ones are cut, with or without the phrase
        "status": error.status,
        "retry_after_s": error.retry_after_s,
        "provider": error.provider,
    }


async def assert_same(adapter: HttpAdapter[Any], answer: bytes) -> None:
    async with answering(answer) as url:
        assert facts(await by_us(adapter, url)) == facts(await by_the_sdk(adapter, url))


@pytest.mark.parametrize("body", BODIES)
async def test_a_body_means_the_same(adapter: HttpAdapter[Any], body: str) -> None:
    if adapter.name == "google" and body in NOT_READ_BY_GOOGLES_SDK:
        return await assert_goes_by_its_status(adapter, written(429, encoded(BODIES[body])))
    for status in (400, 401, 429, 503):
        await assert_same(adapter, written(status, encoded(BODIES[body])))
    return None


@pytest.mark.parametrize("charset", CHARSETS)
async def test_a_charset_means_the_same(adapter: HttpAdapter[Any], charset: str) -> None:
    content_type, body = CHARSETS[charset]
    answer = written(429, body, content_type=content_type)
    if adapter.name == "google" and charset in NOT_READ_BY_GOOGLES_SDK:
        return await assert_goes_by_its_status(adapter, answer)
    return await assert_same(adapter, answer)


async def assert_goes_by_its_status(adapter: HttpAdapter[Any], answer: bytes) -> None:
    async with answering(answer) as url:
        ours, theirs = await by_us(adapter, url), await by_the_sdk(adapter, url)
    assert (ours.status, theirs.status) == (429, None)
    assert "cannot be read" in theirs.message


@pytest.mark.parametrize("headers", HEADERS)
async def test_headers_mean_the_same(adapter: HttpAdapter[Any], headers: str) -> None:
    for status, body in ((429, LIMIT), (503, {}), (403, {}), (429, QUOTA)):
        await assert_same(adapter, written(status, encoded(body), headers=HEADERS[headers]))


@pytest.mark.parametrize("status", STATUSES)
async def test_a_status_means_the_same(adapter: HttpAdapter[Any], status: int) -> None:
    moved = [("location", "http://127.0.0.1:1/")] if status < 400 else None
    for body in (b"", b"<html>", encoded({"error": {"message": "no", "type": "server_error"}})):
        await assert_same(adapter, written(status, body, headers=moved))


@pytest.mark.parametrize("adapter", ["google"], indirect=True)
@pytest.mark.parametrize("status", [201, 202, 226])
async def test_google_succeeds_with_200_alone(adapter: HttpAdapter[Any], status: int) -> None:
    await assert_same(adapter, written(status, encoded({"error": GOOGLES})))


async def test_a_packed_body_means_the_same(adapter: HttpAdapter[Any]) -> None:
    packed = gzip.compress(encoded({"error": QUOTA}))
    await assert_same(adapter, written(429, packed, headers=[("content-encoding", "gzip")]))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 500",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        written(500, b"{}")[:-1],
        written(500, b"no gzip", headers=[("content-encoding", "gzip")]),
    ],
    ids=["nothing", "half a head", "no HTTP", "half a body", "no gzip"],
)
async def test_a_connection_that_breaks_is_named_with_its_host(adapter: HttpAdapter[Any], answer: bytes) -> None:
    async with answering(answer) as url:
        ours, theirs = await by_us(adapter, url), await by_the_sdk(adapter, url)
    assert (type(ours), ours.status) == (type(theirs), theirs.status) == (NotReached, None)
    assert ours.message.startswith(f"{adapter.name} broke the connection at {url.removeprefix('http://')}: ")


async def test_an_address_without_a_server_is_named(adapter: HttpAdapter[Any]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ours, theirs = await by_us(adapter, url), await by_the_sdk(adapter, url)
    assert (type(ours), ours.status) == (type(theirs), theirs.status) == (NotReached, None)
    assert ours.message.startswith(f"{adapter.name} cannot be used at {url.removeprefix('http://')}: ")
