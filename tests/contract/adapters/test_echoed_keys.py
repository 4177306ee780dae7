"""A vendor that says the key back, in any form and at any place, gets it past no adapter."""

import hashlib
import json
import logging
from contextlib import suppress
from dataclasses import replace

import pytest
from pydantic import SecretStr

from contracts.errors import FleetError
from contracts.providers import Endpoint
from contracts.rpc import CountTokens
from fleet.simulator import Script
from runtime.logs import JsonFormatter
from tests.contract.adapters.test_hostile_answers import answering, once
from tests.contract.adapters.vendor import KEY, PATIENT, Vendor
from tests.disguises import DISGUISES
from tests.echoes import ANSWER, echoing, models, refusing
from workers.providers.base import Chunk, CredentialReplaced, Finish, Target
from workers.providers.shared.http.adapter import AdapterCrashed

SECRET = KEY.get_secret_value()
SHOWN = 12
"""So many characters in a row of a key are a leak."""


def assert_hidden(disguise: str, shown: object, *, secret: str = SECRET) -> None:
    """No part of the disguised secret stands in what is shown: as it is, or as JSON writes it."""
    texts = [str(shown), json.dumps(str(shown)), json.dumps(str(shown), ensure_ascii=False)]
    said = DISGUISES[disguise](secret)
    for form in {said, json.dumps(said)[1:-1]}:
        part = len(form) * SHOWN // len(secret)
        for at in range(len(form) - part + 1):
            assert not any(form[at : at + part] in text for text in texts), (disguise, shown)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("secret", [SECRET, SECRET[8:28]], ids=["whole", "part"])
async def test_no_place_in_a_reply_has_the_key(vendor: Vendor, secret: str, stream: bool) -> None:
    for disguise, disguised in DISGUISES.items():
        vendor.says(echoing(vendor.name, disguised(secret), stream=stream))
        text, finish = "", None
        async for item in vendor.stream():
            if isinstance(item, Chunk):
                text += item.text
                continue
            finish = item
            assert item.response_model is None, disguise
            assert vendor.traits.names_tier == bool(item.service_tier), "a tier that nobody knows has no price"
            assert set((item.service_tier or "unknown").split("+")) == {"unknown"}, disguise
            # What is wanted back is the answer, too: only the whole key, as it is, keeps it from the agent.
            if isinstance(item, Finish) and (disguise, secret) != ("plain", SECRET):
                item = replace(item, provider_data=None)
            assert_hidden(disguise, item, secret=secret)
        assert text == ANSWER
        assert isinstance(finish, Finish)
        assert finish.usage is not None
        assert finish.usage.output_tokens


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_no_error_has_the_key(vendor: Vendor, status: int) -> None:
    for disguise, disguised in DISGUISES.items():
        vendor.says(refusing(disguised(SECRET), status=status))
        _, error = await vendor.fails()
        assert_hidden(disguise, error.to_wire().model_dump_json())
        assert_hidden(disguise, error)
        assert vendor.name in error.message


async def test_no_error_in_a_stream_has_the_key(vendor: Vendor) -> None:
    for disguise, disguised in DISGUISES.items():
        vendor.says(Script(chunks=4, error_after_chunks=2, error=refusing(disguised(SECRET), status=500).error))
        _, error = await vendor.fails()
        assert_hidden(disguise, error)


async def test_no_list_of_models_has_the_key(vendor: Vendor) -> None:
    for disguise, disguised in DISGUISES.items():
        said = disguised(SECRET)
        body = models(vendor.name, said, "a-model", f"model-{said}", f"{said}:latest")
        async with answering(200, "application/json", once(body)) as hostile:
            found = await vendor.adapter.get_supported_models(vendor.target(base_url=hostile.url))
        assert [model.id for model in found] == ["a-model"], disguise


@pytest.mark.parametrize("ask", ["health", "models", "count"])
@pytest.mark.parametrize("status", [200, 401])
async def test_no_answer_to_a_question_has_the_key(vendor: Vendor, ask: str, status: int) -> None:
    question = CountTokens.model_validate({"model": vendor.model, "messages": [{"role": "user", "content": "Hi"}]})
    for disguise in ("plain", "swapped", "reversed", "hex", "base64", "spaced"):
        said = DISGUISES[disguise](SECRET)
        body = {"error": {"message": said, "code": said}, "input_tokens": said, "totalTokens": said}
        async with answering(status, "application/json", once(json.dumps(body).encode())) as hostile:
            target = vendor.target(base_url=hostile.url)
            try:
                match ask:
                    case "health":
                        shown: object = await vendor.adapter.check_health(target)
                    case "models":
                        shown = await vendor.adapter.get_supported_models(target)
                    case _:
                        shown = await vendor.adapter.count_tokens(question, model=vendor.model, target=target)
            except FleetError as error:
                shown = error.to_wire().model_dump_json()
        assert_hidden(disguise, shown)


async def test_no_number_of_an_answer_is_the_key(vendor: Vendor) -> None:
    """Any text can be written as one long number."""
    number = int.from_bytes(SECRET.encode())
    info = {"context_window": number, "max_input_tokens": number, "inputTokenLimit": number}
    body = json.loads(models(vendor.name, "a-model"))
    listed = next(value for value in body.values() if isinstance(value, list))
    listed[0] |= info
    async with answering(200, "application/json", once(json.dumps(body).encode())) as hostile:
        (model,) = await vendor.adapter.get_supported_models(vendor.target(base_url=hostile.url))
    assert model.context_window is None

    question = CountTokens.model_validate({"model": vendor.model, "messages": [{"role": "user", "content": "Hi"}]})
    counts = json.dumps({"input_tokens": number, "totalTokens": number}).encode()
    async with answering(200, "application/json", once(counts)) as hostile:
        with suppress(FleetError):
            target = vendor.target(base_url=hostile.url)
            counted = await vendor.adapter.count_tokens(question, model=vendor.model, target=target)
            assert counted.input_tokens < 100


async def test_a_head_that_is_no_http_shows_no_key(vendor: Vendor) -> None:
    """The HTTP library's own words have what it could not read."""
    for head in (f"HTTP/1.1 200 OK\r\n{SECRET}\r\n\r\n", f"{SECRET}\r\n\r\n", f"HTTP/1.1 {SECRET} OK\r\n\r\n"):
        async with answering(200, f"text/plain\r\n{head}", once(b"")) as hostile:
            _, error = await vendor.fails(target=vendor.target(base_url=hostile.url))
        assert_hidden("plain", error)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, in the form in which workers write it."""
    caplog.handler.setFormatter(JsonFormatter())
    return caplog


async def test_a_crash_while_an_error_is_handled_logs_no_key(vendor: Vendor, log: pytest.LogCaptureFixture) -> None:
    """A traceback names what came before it, and what had caused that."""
    vendor.says(refusing(SECRET, status=401))

    async def crash() -> None:
        try:
            await vendor.complete()
        except FleetError:
            raise OSError("the disk is full")  # noqa: B904

    try:
        await crash()
    except OSError:
        logging.getLogger("workers").exception("request_crashed")
    assert "the disk is full" in log.text
    assert "answered 401" in log.text
    assert_hidden("plain", log.text)


async def test_a_crash_of_an_adapter_logs_where_and_no_key(
    vendor: Vendor, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_vendors_words(*_: object, **__: object) -> None:
        int(SECRET)

    vendor.says(Script(chunks=2))
    monkeypatch.setattr(vendor.adapter, "_reader", of_vendors_words)
    try:
        await vendor.complete()
    except AdapterCrashed:
        logging.getLogger("workers").exception("adapter_crashed")
    assert "in of_vendors_words" in log.text
    assert "ValueError: invalid literal for int() with base 10: '[redacted]'" in log.text
    assert_hidden("plain", log.text)


@pytest.mark.parametrize("vendor", ["azure"], indirect=True)
async def test_neither_a_token_of_entra_id_nor_the_secret_behind_it_is_shown(vendor: Vendor) -> None:
    """An endpoint is sent the token, and whoever grants the tokens knows the secret."""
    secret = "Q~8vZx81kQpvL0aa93Jw72mmDf55"
    credentials = {"tenant_id": "t", "client_id": "c", "client_secret": secret, "authority": vendor.simulator.url}
    endpoint = Endpoint(base_url=vendor.simulator.base_url("azure"), auth="entra_id")
    target = Target(endpoint, PATIENT, SecretStr(json.dumps(credentials)))
    token = hashlib.sha256(secret.encode()).hexdigest()[:16]
    vendor.says(Script(chunks=1))
    await vendor.complete(target=target)

    vendor.simulator.entra.revoke_all()
    with pytest.raises(CredentialReplaced):
        await vendor.complete(target=target)
    before, now = (f"eyJ0eXAi.{token}.{number}" for number in (1, 2))

    for disguise, disguised in DISGUISES.items():
        for known in (secret, before, now):
            said = disguised(known)
            vendor.says(echoing("azure", said, stream=True), refusing(said, status=400))
            assert_hidden(disguise, (await vendor.complete(target=target)).finish, secret=known)
            with pytest.raises(FleetError) as raised:
                await vendor.complete(target=target)
            assert_hidden(disguise, raised.value, secret=known)
