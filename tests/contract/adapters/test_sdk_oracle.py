"""What the adapters send, beside what the vendors' SDKs send: to the letter, but for what a table here allows.

Each request is made by our adapter and by the SDK, at one server that records both. Of the body, what the fields mean
is compared in the vendors' own tests; here the SDK is given the fields that our adapter wrote, and has to know them.
"""

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx2
import ollama
import openai
import pytest
from google.genai import Client, errors, types
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from contracts.errors import FleetError
from contracts.providers import Endpoint
from contracts.requests import CompletionRequest
from fleet.simulator.tcp import listening
from tests.contract.adapters import test_anthropic, test_google, test_openai
from tests.contract.adapters.test_google import camel
from tests.contract.adapters.vendor import KEY, LOCAL, PATIENT
from workers.providers import registry
from workers.providers.anthropic.schemas import enforceable
from workers.providers.base import Call, Target
from workers.providers.shared.http.adapter import user_agent

_STAINLESS = frozenset(
    f"x-stainless-{what}" for what in ("arch", "async", "lang", "os", "package-version", "read-timeout", "retry-count")
) | {"x-stainless-runtime", "x-stainless-runtime-version"}
NOT_SENT: Mapping[str, frozenset[str]] = {
    "openai": _STAINLESS,
    "azure": _STAINLESS,
    "anthropic": _STAINLESS | {"x-stainless-timeout"},
    "google": frozenset({"x-goog-api-client"}),
    "ollama": frozenset(),
}
"""Headers of the SDKs that we leave out, all of them and no other: what the SDK, its machine and its Python are, how
often it has tried and how long it waits. The vendors count their SDKs' users with them, and act on none."""
ADDED = {name: frozenset({"x-client-request-id"}) for name in NOT_SENT} | {"ollama": frozenset({"x-request-id"})}
"""Headers that only we send: the request's id, under which a vendor's support can find it."""
OTHERWISE = frozenset({"user-agent"})
"""Headers that say something else: who we are."""
OF_THE_CONNECTION = frozenset({"connection", "accept-encoding", "content-length"})
"""The HTTP client's own; its tests have them."""

CLAUDE, GEMINI, LLAMA = "claude-sonnet-4-5", "gemini-2.5-flash", "llama3.2"
MODELS = {"openai": "gpt-4o", "azure": "gpt-4o", "anthropic": CLAUDE, "google": GEMINI, "ollama": LLAMA}
VERSION = "2024-10-21"
TOKEN = "eyJ0eXAi.of-entra-id.0123456789"
REFUSAL = b"HTTP/1.1 400 No\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"


@dataclass(frozen=True)
class Sent:
    """A request as it arrived."""

    line: str
    """The method, path and query."""
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Recorder:
    """A vendor that refuses each request, and Entra ID."""

    url: str = ""
    requests: list[Sent] = field(default_factory=list[Sent])

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
        assert len(headers) == len(lines), "a header came twice"
        body = await reader.readexactly(int(headers["content-length"]))
        if "/oauth2/v2.0/token" in line:
            granted = json.dumps({"access_token": TOKEN, "expires_in": 3600}).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(granted), granted)
            )
        else:
            self.requests.append(Sent(line, headers, body))
            writer.write(REFUSAL)


@pytest.fixture
async def recorder() -> AsyncGenerator[Recorder]:
    recorder = Recorder()
    async with listening(recorder.talk) as port:
        recorder.url = f"http://127.0.0.1:{port}"
        yield recorder


async def ours(recorder: Recorder, provider: str, *, key: str | None, endpoint: Endpoint, **fields: Any) -> Sent:
    """What our adapter sends."""
    model = fields.pop("model", MODELS[provider])
    asked = {"messages": [{"role": "user", "content": "Where is the station? Čau 🚉"}], **fields}
    request = CompletionRequest.model_validate(
        {"id": "request-1", "tenant": "acme", "agent": "tester", "model": f"{provider}/{model}", **asked}
    )
    target = Target(endpoint, PATIENT, SecretStr(key) if key else None)
    adapter = registry.load(provider, LOCAL)
    try:
        adapter.check_supported(request, model=model)
        with suppress(FleetError):
            await adapter.complete(Call(request, model, target, time_left_s=20))
    finally:
        await adapter.aclose()
    return recorder.requests[-1]


def assert_same(
    provider: str, of_us: Sent, of_the_sdk: Sent, *, in_form: Callable[[Any], Any] = lambda body: body
) -> None:
    """Whether both are the same request, but for the differences that are allowed."""
    assert of_us is not of_the_sdk
    assert of_us.line == of_the_sdk.line
    mine, theirs = of_us.headers.keys() - OF_THE_CONNECTION, of_the_sdk.headers.keys() - OF_THE_CONNECTION
    assert (theirs - mine, mine - theirs) == (NOT_SENT[provider], ADDED[provider])
    same = (mine & theirs) - OTHERWISE
    assert {name: of_us.headers[name] for name in same} == {name: of_the_sdk.headers[name] for name in same}
    assert of_us.headers["user-agent"] == user_agent()
    assert json.loads(of_us.body) == in_form(json.loads(of_the_sdk.body))


def arguments(create: Callable[..., object], body: bytes) -> dict[str, Any]:
    """The fields of a body as an SDK takes them: as arguments, and those that it does not know apart."""
    fields: dict[str, Any] = json.loads(body)
    known = inspect.signature(create).parameters
    return {
        **{name: value for name, value in fields.items() if name in known},
        "extra_body": {name: value for name, value in fields.items() if name not in known},
    }


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SCHEMA = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": False}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}
ASKED: dict[str, dict[str, Any]] = {
    "the least": {},
    "sampling": {"max_tokens": 9, "temperature": 0.2, "top_p": 0.9, "stop": ["\n\n", "END"], "seed": 7},
    "tools": {"tools": TOOLS},
    "tools, any of them": {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
    "tools, none of them": {"tools": TOOLS, "tool_choice": "none"},
    "an image": {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, IMAGE]}]},
    "a schema": {"response_format": JSON_SCHEMA},
    "thoughts": {"reasoning_effort": "low"},
    "a name with signs": {"messages": [{"role": "user", "content": 'Tab\t, "quote", \u2028, \x7f, 𝄞'}]},
}
"""What every vendor can be asked."""
FURTHER: dict[str, dict[str, dict[str, Any]]] = {
    "openai": {
        "everything": test_openai.EVERYTHING,
        "JSON": {"response_format": {"type": "json_object"}},
        "metadata": {"provider_options": {"openai": {"metadata": {"run": "é"}, "store": True, "service_tier": "flex"}}},
        "odd options": {
            "provider_options": {"openai": {"logit_bias": {"50256": -100}, "x_new": {"a": [1, None, 0.5]}}}
        },
        "a whole reply": {"provider_options": {"openai": {"stream": None}}},
        "an old limit": {"max_tokens": 5, "provider_options": {"openai": {"max_tokens": 9}}},
        "a model with signs": {"model": "org/模型:é?#&x"},
    },
    "azure": {
        "everything": test_openai.EVERYTHING,
        "odd options": {"provider_options": {"azure": {"data_sources": [{"type": "x"}], "user": "u"}}},
    },
    "anthropic": {
        "everything": test_anthropic.EVERYTHING,
        "betas": {"provider_options": {"anthropic": {"betas": ["context-1m-2025-08-07", "b 2"]}}},
        "caches": {"provider_options": {"anthropic": {"cache": ["last_user"], "cache_ttl": "1h"}}},
        "metadata": {"provider_options": {"anthropic": {"metadata": {"user_id": "é"}, "service_tier": "auto"}}},
        "odd options": {"provider_options": {"anthropic": {"x_new": {"a": [1, None]}, "top_k": 5}}},
        "thoughts of its own": {
            "provider_options": {"anthropic": {"thinking": {"type": "enabled", "budget_tokens": 1024}}}
        },
        "a whole reply": {"provider_options": {"anthropic": {"stream": False}}, "max_tokens": 100},
    },
    "google": {
        "everything": {**test_google.EVERYTHING, "model": test_google.MODEL},
        "options": {
            "provider_options": {
                "google": {
                    "generationConfig": {"topK": 5, "thinkingConfig": {"thinkingBudget": 99}},
                    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
                    "cachedContent": "cachedContents/1",
                }
            }
        },
        "a whole reply": {"provider_options": {"google": {"stream": False}}},
        "a newer version": {"model": "gemini-flash-latest"},
        "a tuned model": {"model": "tunedModels/mine-1"},
        "a model with signs": {"model": "gemini-é_~.2"},
    },
    "ollama": {
        "JSON": {"response_format": {"type": "json_object"}},
        "options": {"provider_options": {"ollama": {"keep_alive": "30m", "options": {"num_ctx": 8192}}}},
        "a model with signs": {"model": "hf.co/é/x:Q4"},
    },
}


NOT_ASKED = {"ollama": {"tools, any of them"}}
"""What the adapters refuse, because the vendor has no form for it."""


def cases(provider: str) -> Any:
    asked = {**ASKED, **FURTHER[provider]}
    return pytest.mark.parametrize("asked", [name for name in asked if name not in NOT_ASKED.get(provider, ())])


def fields_of(provider: str, asked: str) -> dict[str, Any]:
    return (ASKED | FURTHER[provider])[asked]


async def openais(sdk: openai.AsyncOpenAI, recorder: Recorder, body: bytes, **how: Any) -> Sent:
    """What OpenAI's SDK sends."""
    async with sdk:
        with suppress(openai.BadRequestError):
            await sdk.chat.completions.create(**arguments(sdk.chat.completions.create, body), **how)
    return recorder.requests[-1]


@cases("openai")
async def test_openai(recorder: Recorder, asked: str) -> None:
    key, base_url = KEY.get_secret_value(), f"{recorder.url}/v1"
    sent = await ours(recorder, "openai", key=key, endpoint=Endpoint(base_url=base_url), **fields_of("openai", asked))
    sdk = openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0)
    assert_same("openai", sent, await openais(sdk, recorder, sent.body))


PATHS = [
    "",
    "/",
    "/v1/",
    "/v1//",
    "/a/b/v1",
    "/a%2fb/v1",
    "/a;p=1/v1",
    "/a/./b/../v1",
    "/../v1",
    "/v1%3Fx=1&y",
    "/{a}|^`/%zz",
]
"""Of base URLs, as admins write them."""


@pytest.mark.parametrize("path", PATHS)
async def test_openai_at_any_address(recorder: Recorder, path: str) -> None:
    base_url = f"{recorder.url.replace('http', 'HTTP', 1)}{path}"
    sent = await ours(recorder, "openai", key="k", endpoint=Endpoint(base_url=base_url))
    sdk = openai.AsyncOpenAI(api_key="k", base_url=base_url, max_retries=0)
    assert_same("openai", sent, await openais(sdk, recorder, sent.body))


@pytest.mark.parametrize("ending", ["?", "#", "?#"])
async def test_a_base_url_that_ends_like_one_with_a_query_has_none(recorder: Recorder, ending: str) -> None:
    """The SDK would write the path behind the question mark."""
    endpoint = Endpoint(base_url=f"{recorder.url}/v1{ending}")
    assert (await ours(recorder, "openai", key="k", endpoint=endpoint)).line == "POST /v1/chat/completions HTTP/1.1"


async def test_openai_without_a_key(recorder: Recorder) -> None:
    sent = await ours(recorder, "openai", key=None, endpoint=Endpoint(base_url=recorder.url))
    sdk = openai.AsyncOpenAI(api_key="", base_url=recorder.url, max_retries=0, _enforce_credentials=False)
    no_key = {"Authorization": openai.Omit()}
    assert_same("openai", sent, await openais(sdk, recorder, sent.body, extra_headers=no_key))
    assert "authorization" not in sent.headers


@cases("azure")
@pytest.mark.parametrize("api", ["classic", "v1"])
@pytest.mark.parametrize("auth", ["api_key", "entra_id"])
async def test_azure(recorder: Recorder, asked: str, api: str, auth: str) -> None:
    key = KEY.get_secret_value()
    credentials = {"tenant_id": "t", "client_id": "c", "client_secret": key, "authority": recorder.url}
    version = VERSION if api == "classic" else None
    endpoint = Endpoint.model_validate({"base_url": recorder.url, "api_version": version, "auth": auth})
    stored = json.dumps(credentials) if auth == "entra_id" else key
    sent = await ours(recorder, "azure", key=stored, endpoint=endpoint, **fields_of("azure", asked))
    assert_same("azure", sent, await openais(azures(recorder, api=api, auth=auth), recorder, sent.body))


@pytest.mark.parametrize("deployment", ["gpt4o-west", "prod:gpt-4o", "é~1", "a b", "a%2Fb"])
async def test_azures_deployments(recorder: Recorder, deployment: str) -> None:
    endpoint = Endpoint.model_construct(base_url=recorder.url, api_version=VERSION, deployments={"gpt-4o": deployment})
    sent = await ours(recorder, "azure", key=KEY.get_secret_value(), endpoint=endpoint)
    assert_same("azure", sent, await openais(azures(recorder, api="classic", auth="api_key"), recorder, sent.body))


def azures(recorder: Recorder, *, api: str, auth: str) -> openai.AsyncOpenAI:
    key = KEY.get_secret_value()
    if api == "v1":
        return openai.AsyncOpenAI(
            api_key=TOKEN if auth == "entra_id" else key, base_url=f"{recorder.url}/openai/v1/", max_retries=0
        )
    who: dict[str, Any] = {"azure_ad_token": TOKEN} if auth == "entra_id" else {"api_key": key}
    return openai.AsyncAzureOpenAI(azure_endpoint=recorder.url, api_version=VERSION, max_retries=0, **who)


async def anthropics(recorder: Recorder, base_url: str, sent: Sent, **of_the_client: Any) -> Sent:
    """What Anthropic's SDK sends."""
    beta = sent.headers.get("anthropic-beta")
    async with anthropic.AsyncAnthropic(base_url=base_url, max_retries=0, **of_the_client) as sdk:
        with suppress(anthropic.BadRequestError):
            await sdk.messages.create(
                **arguments(sdk.messages.create, sent.body), extra_headers={"anthropic-beta": beta} if beta else None
            )
    return recorder.requests[-1]


@cases("anthropic")
@pytest.mark.filterwarnings("ignore:The model 'claude-sonnet-4-5' is deprecated:DeprecationWarning")
async def test_anthropic(recorder: Recorder, asked: str) -> None:
    key = KEY.get_secret_value()
    endpoint = Endpoint(base_url=recorder.url)
    sent = await ours(recorder, "anthropic", key=key, endpoint=endpoint, **fields_of("anthropic", asked))
    assert_same("anthropic", sent, await anthropics(recorder, recorder.url, sent, api_key=key))


WORDS = st.sampled_from(["date-time", "x", "", "string"])
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "odd", ["string"]]),
            "enum": st.lists(st.one_of(st.integers(), st.none(), st.just({})), max_size=2),
            "const": st.one_of(st.booleans(), st.just([1])),
            "description": WORDS,
            "title": WORDS,
            "format": st.one_of(WORDS, st.none(), st.just({})),
            "minItems": st.one_of(st.integers(0, 3), st.none(), st.booleans()),
            "pattern": WORDS,
            "$ref": st.just("#/$defs/a"),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array"]),
            "properties": st.one_of(st.dictionaries(WORDS, inner, max_size=2), st.none()),
            "required": st.one_of(st.lists(WORDS, max_size=2), WORDS),
            "additionalProperties": st.one_of(st.booleans(), inner),
            "items": inner,
            "anyOf": st.lists(inner, max_size=2),
            "oneOf": st.one_of(st.lists(inner, max_size=2), st.just({})),
            "allOf": st.lists(inner, max_size=2),
            "$defs": st.dictionaries(WORDS, inner, max_size=2),
            "maximum": st.integers(0, 9),
            "format": WORDS,
            "minItems": st.integers(0, 3),
            "maxItems": st.integers(0, 3),
        },
    ),
    max_leaves=6,
)


@given(SCHEMAS)
@settings(max_examples=500, deadline=None)
def test_a_schema_is_fitted_as_the_sdk_fits_it(schema: dict[str, Any]) -> None:
    asked = deepcopy(schema)
    try:
        theirs = anthropic.transform_schema(deepcopy(schema))
    except (ValueError, TypeError, AttributeError, AssertionError):
        theirs = schema
    ours = enforceable(schema)
    assert schema == asked
    assert ours == (asked if takes_more(schema) else theirs)


def takes_more(schema: object) -> bool:
    """Whether an object of the schema takes keys that are not listed: then it is sent as it is."""
    if isinstance(schema, list):
        return any(map(takes_more, schema))
    if not isinstance(schema, dict):
        return False
    return bool(schema.get("additionalProperties")) or any(map(takes_more, schema.values()))


@pytest.mark.parametrize("path", PATHS)
async def test_anthropic_at_any_address(recorder: Recorder, path: str) -> None:
    sent = await ours(recorder, "anthropic", key="k", endpoint=Endpoint(base_url=f"{recorder.url}{path}"), model="m")
    base_url = f"{recorder.url}{path}".rstrip("/").removesuffix("/v1")
    assert_same("anthropic", sent, await anthropics(recorder, base_url, sent, api_key="k"))


async def test_anthropic_without_a_key(recorder: Recorder) -> None:
    sent = await ours(recorder, "anthropic", key=None, endpoint=Endpoint(base_url=recorder.url), model="m")
    without: dict[str, Any] = {"api_key": "", "default_headers": {"Authorization": anthropic.Omit()}}
    assert_same("anthropic", sent, await anthropics(recorder, recorder.url, sent, **without))
    assert "authorization" not in sent.headers


async def googles(recorder: Recorder, url: str, sent: Sent, *, model: str, version: str) -> Sent:
    """What Google's SDK sends."""
    fields: dict[str, Any] = json.loads(sent.body)
    config = types.GenerateContentConfig.model_validate(
        {
            **fields.pop("generationConfig", {}),
            **{name: value for name, value in fields.items() if name != "contents"},
            "automaticFunctionCalling": {"disable": True},
            "automaticContinuation": False,
        }
    )
    contents = [types.Content.model_validate(content) for content in fields["contents"]]
    async with httpx2.AsyncClient() as http:
        options = types.HttpOptions(base_url=url, api_version=version, httpx_async_client=http)
        sdk = Client(vertexai=False, api_key=KEY.get_secret_value(), http_options=options)
        try:
            with suppress(errors.ClientError):
                if ":streamGenerateContent" in sent.line:
                    async for _ in await sdk.aio.models.generate_content_stream(
                        model=model, contents=contents, config=config
                    ):
                        pass
                else:
                    await sdk.aio.models.generate_content(model=model, contents=contents, config=config)
        finally:
            await sdk.aio.aclose()
            sdk.close()
    return recorder.requests[-1]


def in_form_of_google(body: dict[str, Any]) -> dict[str, Any]:
    """Without what the SDK's own types add: an empty configuration, and names as in Python."""
    return {name: value for name, value in camel(body).items() if value != {}}


@cases("google")
async def test_google(recorder: Recorder, asked: str) -> None:
    fields = fields_of("google", asked)
    model = fields.get("model", GEMINI)
    endpoint = Endpoint(base_url=recorder.url)
    sent = await ours(recorder, "google", key=KEY.get_secret_value(), endpoint=endpoint, **fields)
    version = "v1beta" if asked == "a newer version" else "v1"
    theirs = await googles(recorder, recorder.url, sent, model=model, version=version)
    assert_same("google", sent, theirs, in_form=in_form_of_google)


@pytest.mark.parametrize("path", [path for path in PATHS if ";" not in path])
async def test_google_at_any_address(recorder: Recorder, path: str) -> None:
    url = f"{recorder.url}{path}".rstrip("/")
    endpoint = Endpoint(
        base_url=f"{recorder.url}{path}", api_version="v1alpha"
    )  # the SDK sends a `;p=1` behind the query
    sent = await ours(recorder, "google", key=KEY.get_secret_value(), endpoint=endpoint)
    is_versioned = url.endswith("/v1")
    url, version = (url.removesuffix("/v1"), "v1") if is_versioned else (url, "v1alpha")
    assert_same(
        "google", sent, await googles(recorder, url, sent, model=GEMINI, version=version), in_form=in_form_of_google
    )


@cases("ollama")
@pytest.mark.parametrize("key", [KEY.get_secret_value(), None])
async def test_ollama(recorder: Recorder, asked: str, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its SDK has an empty list in place of what is left out."""
    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)
    endpoint = Endpoint(base_url=recorder.url)
    sent = await ours(recorder, "ollama", key=key, endpoint=endpoint, **fields_of("ollama", asked))
    sdk = ollama.AsyncClient(host=recorder.url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with suppress(ollama.ResponseError):
            fields: dict[str, Any] = json.loads(sent.body)
            async for _ in await sdk.chat(**fields):
                pass
    finally:
        await sdk.close()

    def without_empty_lists(body: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in body.items() if value != []}

    assert_same("ollama", sent, recorder.requests[-1], in_form=without_empty_lists)
