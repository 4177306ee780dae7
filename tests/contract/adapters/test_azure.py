"""What only Azure's adapter does: where it calls, and as whom, with the SDK as the oracle."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from openai import AsyncAzureOpenAI, AsyncOpenAI
from pydantic import SecretStr

from contracts.errors import ErrorCode, ProviderUnavailable
from contracts.providers import Endpoint
from contracts.rpc import CountTokens
from fleet.simulator import Script, Simulator
from fleet.simulator.tcp import listening
from fleet.simulator.vendor import HttpAnswer
from tests.contract.adapters.test_openai import EVERYTHING
from tests.contract.adapters.vendor import KEY, LOCAL, MODEL, PATIENT, Vendor
from workers.providers.azure.entra import RENEW_BEFORE_S, Tokens, credentials_of
from workers.providers.base import CredentialReplaced, NotReached, Target

pytestmark = pytest.mark.parametrize("vendor", ["azure"], indirect=True)

VERSION = "2024-10-21"
SECRET = "q8Q~simulated-secret-0123456789"


def classic(vendor: Vendor, **fields: Any) -> Target:
    endpoint = Endpoint(base_url=vendor.simulator.url, api_version=VERSION, **fields)
    return Target(endpoint=endpoint, timeouts=PATIENT, key=KEY)


def entra(vendor: Vendor, *, secret: str = SECRET, key: str | None = None, **fields: Any) -> Target:
    credentials = {"tenant_id": "contoso.example", "client_id": "0a1b-2c3d", "client_secret": secret}
    stored = json.dumps({**credentials, "authority": vendor.simulator.url}) if key is None else key
    endpoint = Endpoint(base_url=vendor.simulator.url, auth="entra_id", **fields)
    return Target(endpoint=endpoint, timeouts=PATIENT, key=SecretStr(stored))


async def sdk_request(sdk: AsyncOpenAI, simulator: Simulator, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """Where the SDK sends what."""
    async with sdk:
        stream = await sdk.chat.completions.create(stream=True, stream_options={"include_usage": True}, **arguments)
        async for _ in stream:
            pass
    return simulator.ledger.entries[-1].path, simulator.ledger.bodies[-1]


@pytest.mark.parametrize("fields", [{}, EVERYTHING], ids=["the least", "everything"])
@pytest.mark.parametrize("path", ["classic", "v1"])
async def test_sends_what_the_sdk_sends(vendor: Vendor, fields: dict[str, Any], path: str) -> None:
    url, key = vendor.simulator.url, KEY.get_secret_value()
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Where is the station?"}], **fields}
    if path == "classic":
        target, limit = classic(vendor), {"max_tokens": 512}
        sdk: AsyncOpenAI = AsyncAzureOpenAI(azure_endpoint=url, api_version=VERSION, api_key=key, max_retries=0)
    else:
        target, limit = vendor.target(), {"max_completion_tokens": 512}
        sdk = AsyncOpenAI(base_url=f"{url}/openai/v1/", api_key=key, max_retries=0)
    await vendor.complete(target=target, max_tokens=512, **fields)
    ours = vendor.served.path, vendor.body
    assert ours == await sdk_request(sdk, vendor.simulator, **asked, **limit)


async def test_a_model_is_called_by_the_deployment_that_its_endpoint_has(vendor: Vendor) -> None:
    west = classic(vendor, name="west", deployments={MODEL: "gpt4o-west"})
    north = entra(vendor, name="north", deployments={MODEL: "prod:gpt-4o"}, api_version=VERSION)
    await vendor.complete(target=west)
    assert (vendor.served.path, vendor.body["model"]) == (
        "/openai/deployments/gpt4o-west/chat/completions",
        "gpt4o-west",
    )
    await vendor.complete(target=north)
    assert vendor.body["model"] == "prod:gpt-4o"
    await vendor.complete(target=entra(vendor, deployments={MODEL: "gpt4o-v1"}))
    assert (vendor.served.path, vendor.body["model"]) == ("/openai/v1/chat/completions", "gpt4o-v1")
    await vendor.complete(target=classic(vendor))
    assert vendor.served.path == f"/openai/deployments/{MODEL}/chat/completions"


async def test_the_classic_api_gets_its_own_header_and_v1_a_bearer(vendor: Vendor) -> None:
    seen: list[dict[str, str]] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        seen.append({"line": head[0], **dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)})
        writer.write(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    async with listening(note) as port:
        url = f"http://127.0.0.1:{port}"
        for version in (VERSION, None):
            endpoint = Endpoint(base_url=url, api_version=version)
            await vendor.fails(target=Target(endpoint=endpoint, timeouts=PATIENT, key=KEY))
    old, new = seen
    key = KEY.get_secret_value().lower()
    assert (old["api-key"], "authorization" in old) == (key, False)
    assert f"?api-version={VERSION} " in old["line"]
    assert (new["authorization"], "api-key" in new) == (f"bearer {key}", False)
    assert "api-version" not in new["line"]


async def test_an_endpoint_without_an_address_is_refused_before_a_call(vendor: Vendor) -> None:
    target = Target(endpoint=Endpoint(name="west"), timeouts=PATIENT, key=KEY)
    _, failure = await vendor.fails(target=target)
    assert failure.code == ErrorCode.NO_PROVIDER
    assert "west of azure has no base_url" in failure.message
    with pytest.raises(type(failure)):
        await vendor.adapter.check_health(target)


async def test_the_operators_environment_does_not_reach_a_tenants_call(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "OPENAI_API_KEY", "OPENAI_ORG_ID"):
        monkeypatch.setenv(name, "sk-of-the-operator-0123456789")
    monkeypatch.setenv("OPENAI_API_VERSION", "1999-01-01")
    for name in ("AZURE_OPENAI_ENDPOINT", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await vendor.complete(target=classic(vendor))
    await vendor.complete(target=entra(vendor))
    assert "openai-organization" not in vendor.simulator.ledger.headers[-1]
    _, failure = await vendor.fails(target=Target(classic(vendor).endpoint, PATIENT, None))
    assert failure.code == ErrorCode.AUTHENTICATION_FAILED


@pytest.mark.parametrize("model", ["Mistral-Medium-3", "gpt-4o"])
async def test_the_models_of_foundry_take_their_own_output_limit_and_ids(vendor: Vendor, model: str) -> None:
    call = {"id": f"call_{'x' * 60}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": [call]}
    answer = {"role": "tool", "tool_call_id": call["id"], "content": "42"}
    history = [{"role": "user", "content": "Hi"}, said, answer]
    assert (await vendor.complete(model=model, messages=history, max_tokens=256)).message.content
    assert vendor.body["messages"][1]["tool_calls"][0]["id"] == vendor.body["messages"][2]["tool_call_id"]


async def test_a_prompt_that_the_filter_refuses_says_so(vendor: Vendor) -> None:
    vendor.says(Script(error="content_policy_violation"))
    _, failure = await vendor.fails()
    assert failure.code == ErrorCode.CONTENT_FILTERED
    vendor.says(Script(error="content_policy_violation", status=200))
    _, failure = await vendor.fails()
    assert failure.code == ErrorCode.CONTENT_FILTERED


async def test_deployments_are_what_an_endpoint_serves(vendor: Vendor) -> None:
    target = classic(vendor, deployments={MODEL: "mine", "o4-mini": "other"})
    models = await vendor.adapter.get_supported_models(target)
    assert [model.id for model in models] == [MODEL, "o4-mini"]
    assert models[0].context_window == 128_000
    assert not vendor.simulator.ledger.entries


@pytest.mark.parametrize("path", ["", "/openai", "/openai/v1/"])
@pytest.mark.parametrize("api_version", [VERSION, None])
async def test_an_endpoint_is_well_at_any_form_of_its_address(
    vendor: Vendor, path: str, api_version: str | None
) -> None:
    endpoint = Endpoint(base_url=f"{vendor.simulator.url}{path}", api_version=api_version)
    target = Target(endpoint=endpoint, timeouts=PATIENT, key=KEY)
    await vendor.adapter.check_health(target)
    assert (await vendor.complete(target=target)).message.content


async def test_tokens_are_counted_by_the_model_and_not_the_deployment(vendor: Vendor) -> None:
    asked = CountTokens.model_validate({"model": "azure/gpt-4o", "messages": [{"role": "user", "content": "Hi"}]})
    counted = await vendor.adapter.count_tokens(asked, model=MODEL, target=classic(vendor, deployments={MODEL: "x"}))
    assert counted.exact


async def test_an_application_calls_with_a_token_of_entra(vendor: Vendor) -> None:
    for target in (entra(vendor), entra(vendor, api_version=VERSION)):
        assert (await vendor.complete(target=target)).message.content
        await vendor.adapter.check_health(target)
    assert vendor.simulator.entra.forms == [
        {
            "grant_type": "client_credentials",
            "client_id": "0a1b-2c3d",
            "scope": "https://cognitiveservices.azure.com/.default",
        }
    ]


async def test_many_calls_at_once_ask_for_one_token(vendor: Vendor) -> None:
    await asyncio.gather(*(vendor.complete(target=entra(vendor)) for _ in range(30)))
    assert len(vendor.simulator.entra.forms) == 1


async def test_each_application_has_a_token_of_its_own(vendor: Vendor) -> None:
    both = (entra(vendor), entra(vendor, secret="another-secret-987"))
    await asyncio.gather(*(vendor.complete(target=target) for target in both * 5))
    prints = [entry.key_fingerprint for entry in vendor.simulator.ledger.entries]
    assert sorted(prints.count(print_) for print_ in set(prints)) == [5, 5]


async def test_a_token_is_renewed_before_it_expires(vendor: Vendor) -> None:
    now: float = 0.0
    tokens = Tokens(LOCAL, clock=lambda: now)
    credentials = credentials_of(entra(vendor).key)
    first = await tokens.get(credentials)
    now = first.expires_at - RENEW_BEFORE_S - 1
    assert await tokens.get(credentials) == first
    now += 2
    second = await tokens.get(credentials)
    assert second.value != first.value
    assert second.expires_at > first.expires_at
    await tokens.aclose()


async def test_a_good_token_outlives_an_outage_of_entra(vendor: Vendor) -> None:
    now: float = 0.0
    tokens = Tokens(LOCAL, clock=lambda: now)
    credentials = credentials_of(entra(vendor).key)
    first = await tokens.get(credentials)
    vendor.simulator.entra.failure = HttpAnswer(503, b"{}")
    now = first.expires_at - 1
    assert await tokens.get(credentials) == first
    now = first.expires_at
    with pytest.raises(ProviderUnavailable):
        await tokens.get(credentials)


async def test_a_token_that_is_refused_is_replaced_once_for_the_next_call(vendor: Vendor) -> None:
    await vendor.complete(target=entra(vendor))
    vendor.simulator.entra.revoke_all()
    _, failure = await vendor.fails(target=entra(vendor))
    assert isinstance(failure, CredentialReplaced)
    assert (failure.code, failure.status) == (ErrorCode.AUTHENTICATION_FAILED, 401)
    assert (await vendor.complete(target=entra(vendor))).message.content
    assert len(vendor.simulator.entra.forms) == 2
    vendor.simulator.entra.revoke_all()
    _, failure = await vendor.fails(target=entra(vendor))
    assert failure.code == ErrorCode.AUTHENTICATION_FAILED
    assert not isinstance(failure, CredentialReplaced)
    assert len(vendor.simulator.entra.forms) == 2


async def test_calls_that_are_refused_together_ask_for_one_new_token(vendor: Vendor) -> None:
    await vendor.complete(target=entra(vendor))
    vendor.simulator.entra.revoke_all()
    failures = await asyncio.gather(*(vendor.fails(target=entra(vendor)) for _ in range(20)))
    assert all(isinstance(failure, CredentialReplaced) for _, failure in failures)
    await vendor.complete(target=entra(vendor))
    assert len(vendor.simulator.entra.forms) == 2


async def test_a_token_that_was_refused_at_once_is_not_replaced(vendor: Vendor) -> None:
    vendor.simulator.entra.expires_in_s = -1
    _, failure = await vendor.fails(target=entra(vendor))
    assert failure.code == ErrorCode.AUTHENTICATION_FAILED
    assert not isinstance(failure, CredentialReplaced)
    assert len(vendor.simulator.entra.forms) == 1


async def test_credentials_that_entra_refuses_are_a_failed_authentication(vendor: Vendor) -> None:
    _, failure = await vendor.fails(target=entra(vendor, secret="invalid-Qm3vTz81LpW0xx"))
    assert (failure.code, failure.status) == (ErrorCode.AUTHENTICATION_FAILED, 401)
    assert "AADSTS7000215" in failure.message
    assert "Qm3vTz" not in failure.message
    assert not vendor.simulator.ledger.entries


@pytest.mark.parametrize(
    ("answer", "wait_s"),
    [
        (HttpAnswer(503, b"<html>", {"retry-after": "7"}), 7.0),
        (HttpAnswer(429, b'{"error": "temporarily_unavailable"}'), None),
        (HttpAnswer(400, b'{"error": "temporarily_unavailable"}'), None),
        (HttpAnswer(302, b"", {"location": "http://127.0.0.1:1/"}), None),
        (HttpAnswer(200, b'{"token_type": "Bearer"}'), None),
        (HttpAnswer(200, b"<html>"), None),
    ],
)
async def test_an_outage_of_entra_is_one_of_the_provider(
    vendor: Vendor, answer: HttpAnswer, wait_s: float | None
) -> None:
    vendor.simulator.entra.failure = answer
    _, failure = await vendor.fails(target=entra(vendor))
    assert isinstance(failure, NotReached)
    assert (failure.code, failure.retry_after_s) == (ErrorCode.PROVIDER_UNAVAILABLE, wait_s)
    assert "Entra ID" in failure.message


async def test_entra_that_is_not_there_is_unavailable(vendor: Vendor) -> None:
    credentials = {"tenant_id": "t", "client_id": "c", "client_secret": SECRET, "authority": "http://127.0.0.1:1"}
    _, failure = await vendor.fails(target=entra(vendor, key=json.dumps(credentials)))
    assert failure.code == ErrorCode.PROVIDER_UNAVAILABLE
    assert "127.0.0.1:1" in failure.message
    assert SECRET not in failure.message


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("sk-an-ordinary-key", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ('{"tenant_id": "t", "client_id": "c"}', "client_secret"),
        ('{"tenant_id": "../t", "client_id": "c", "client_secret": "s3cret"}', "tenant_id"),
        (
            '{"tenant_id": "t", "client_id": "c", "client_secret": "s3cret", "authority": "http://login.example"}',
            "authority",
        ),
    ],
)
async def test_a_key_that_is_no_credential_is_refused_before_a_call(vendor: Vendor, key: str, wrong: str) -> None:
    _, failure = await vendor.fails(target=entra(vendor, key=key))
    assert failure.code == ErrorCode.AUTHENTICATION_FAILED
    assert wrong in failure.message
    assert "s3cret" not in failure.message
    assert not vendor.simulator.entra.forms


async def test_no_secret_and_no_token_is_logged(vendor: Vendor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    vendor.says(Script(text="fine"), Script(error="server_error"))
    await vendor.complete(target=entra(vendor))
    await vendor.fails(target=entra(vendor))
    assert SECRET not in caplog.text
    assert "eyJ0eXAi." not in caplog.text


async def test_azures_inference_api_tells_about_its_model(vendor: Vendor) -> None:
    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
        assert line.startswith(b"GET /models/info?api-version=2024-05-01-preview ")
        body = b'{"model_name": "grok-4", "model_type": "chat-completion"}'
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async with listening(tell) as port:
        url = httpx2.URL(f"http://127.0.0.1:{port}/models")
        endpoint = Endpoint(base_url=str(url), api_version="2024-05-01-preview")
        models = await vendor.adapter.get_supported_models(Target(endpoint, PATIENT, KEY))
    assert [model.id for model in models] == ["grok-4"]
