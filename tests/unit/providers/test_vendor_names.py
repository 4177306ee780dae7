"""Names of models, tiers and replies, as vendors give them and as a hostile one does."""

from typing import Any

import pytest
from genai_prices.data import providers
from pydantic import SecretStr

from contracts.events import ToolCallDelta
from contracts.rpc import ModelInfo
from contracts.usage import Usage, UsagePart
from tests.disguises import DISGUISES
from workers.providers.base import Chunk, Finish, Stated, service_tier
from workers.providers.shared.errors.redaction import Secrets
from workers.providers.shared.replies.vendor_names import MAX_NAME_CHARS, UNKNOWN, VendorNames, models_with_names

KEY = "kP3vZx81kQpvL0aa93Jw72mmDf55"
SECRETS = Secrets(SecretStr(KEY))
MODELS = [
    "gpt-4o-2024-08-06",
    "ft:gpt-4o-mini-2024-07-18:acme:suffix:9AbCdEfG",
    "gpt-35-turbo-0613.ft-0123456789abcdef0123456789abcdef",
    "accounts/fireworks/models/llama-v3p1-405b-instruct",
    "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-4-20250514-v1:0",
    "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M",
    "@cf/meta/llama-3.3-70b-instruct-fp8-fast",
    "/models/snapshots/5f0b02c75b57c5855da9ae460ce51323ea669d8a/model.gguf",
    "C:\\models\\qwen2.5-7b-instruct-q4_k_m.gguf",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
    "Meta-Llama-3.1-405B-Instruct-Turbo",
    "DeepSeekR1DistillLlama70B",
    "llama3.2:latest",
    "pplx-70b-online",
    "pplx-embed-context-v1-0.6b",
    "publishers/google/models/gemini-2.5-flash@001",
    "qwen/qwen3-235b-a22b:free",
    "модель-1",
    "My Models/Qwen3 8B.gguf",
]
REPLY_IDS = [
    "chatcmpl-9nK8fHs72Hgks8Hs71HsgQPw71Hsn",
    "msg_01XFDUDYJgAAYHSkbNx8tGVu",
    "mAKZaK2nGqygnvgPk6-7wQg",
    "gen-1712345678-AbcDefGhiJkl",
    "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
    "resp_bGl0ZWxsbTpjdXN0b21fbGxtX3Byb3ZpZGVyOm9wZW5haTttb2RlbF9pZA==",
]
NO_NAMES = [
    " a model",
    "a model ",
    "a\nmodel",
    "a\u200bmodel",
    "<b>model</b>",
    "{model}",
    "m" * (MAX_NAME_CHARS + 1),
    "gpt-4o-AIzaSyA1234567890abcdefghijk",
    "sk-proj-abcdefghij1234567890",
    "Zm9vYmFyQmF6cXV4MTIzNDU2Nzg5",
    "aK3jf82Hs71HsgQPw71Hsn0P",
]


def finish(**fields: Any) -> Finish:
    said = Finish("stop", fields.pop("usage", None), **fields)
    return VendorNames(SECRETS, asked="gpt-4o").finish_without_secrets(said)


@pytest.mark.parametrize("name", MODELS)
def test_a_models_name_stays(name: str) -> None:
    assert finish(response_model=name).response_model == name
    assert [model.id for model in models_with_names([ModelInfo(id=name)], SECRETS)] == [name]


@pytest.mark.parametrize("placeholder", ["lm-studio", "test", "ollama", "not-needed", "sk-no-key-required", "EMPTY"])
def test_a_key_that_servers_take_in_place_of_one_is_part_of_no_name(placeholder: str) -> None:
    secrets = Secrets(SecretStr(placeholder))
    listed = [ModelInfo(id=f"{placeholder}-community/Qwen3-8B"), ModelInfo(id=f"hf.co/{placeholder.upper()}/latest")]
    assert models_with_names(listed, secrets) == listed
    assert secrets.redact(f"the key {placeholder} is wrong") == "the key [redacted] is wrong"


def test_every_model_of_the_price_catalogue_has_a_name() -> None:
    named = [ModelInfo(id=model.id) for provider in providers for model in provider.models]
    assert len(named) > 500
    assert models_with_names(named, SECRETS) == named


@pytest.mark.parametrize("name", REPLY_IDS)
def test_a_replys_id_stays(name: str) -> None:
    assert finish(response_id=name).response_id == name


@pytest.mark.parametrize("tier", ["flex", "priority", "fast+us", "provisioned_throughput", "batch"])
def test_a_tier_stays(tier: str) -> None:
    assert finish(service_tier=tier).service_tier == tier


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_of_a_model_is_left_out(name: str) -> None:
    assert finish(response_model=name).response_model is None
    assert models_with_names([ModelInfo(id=name)], SECRETS) == []


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("around", ["{}", "gpt-4o-{}", "{}-2024-08-06"])
def test_a_name_that_holds_the_key_is_left_out(disguise: str, around: str) -> None:
    for part in (KEY, KEY[:12], KEY[7:19]):
        name = around.format(DISGUISES[disguise](part))
        tier = service_tier(name)
        said = finish(response_model=name, response_id=name, service_tier=tier)
        assert said.response_model is None
        assert said.response_id is None
        assert said.service_tier == UNKNOWN
        assert models_with_names([ModelInfo(id=name)], SECRETS) == []


def test_a_key_in_pieces_over_the_words_of_a_tier_is_found() -> None:
    key = "kpzvzxqkqpvlwaaqjwomdfrutg"
    tier = service_tier(key[:6], key[6:12], key[12:18])
    assert tier == "kpzvzx+qkqpvl+waaqjw"
    assert VendorNames(Secrets(SecretStr(key))).without_secrets(Stated(service_tier=tier)) == Stated(
        service_tier=UNKNOWN
    )


def test_the_model_that_was_asked_for_is_no_secret() -> None:
    odd = "Zm9vYmFyQmF6cXV4MTIzNDU2Nzg5 (mine)"
    item = VendorNames(SECRETS, asked=odd).without_secrets(Stated(response_model=odd))
    assert item == Stated(response_model=odd)


def test_a_part_of_the_usage_that_names_no_model_has_no_price() -> None:
    parts = (UsagePart(input_tokens=1, model=KEY), UsagePart(input_tokens=2), UsagePart(input_tokens=3, model="m-1"))
    stated = VendorNames(SECRETS).without_secrets(Stated(Usage(parts=parts)))
    for item in (finish(usage=Usage(parts=parts)), stated):
        assert isinstance(item, Finish | Stated)
        assert item.usage is not None
        assert [part.model for part in item.usage.parts] == [UNKNOWN, None, "m-1"]


def test_a_warning_is_redacted() -> None:
    said = finish(warnings=(f"gave the unknown finish_reason {KEY!r}", f"made {KEY.encode().hex()}", "was cut off"))
    assert said.warnings[0] == "gave the unknown finish_reason '[redacted]'"
    assert said.warnings[2] == "was cut off"
    assert not any(SECRETS.are_in(warning) for warning in said.warnings)


def test_what_is_wanted_back_is_left_out_when_it_holds_the_key() -> None:
    kept = {"openai": {"message": {"reasoning_opaque": "kP3v"}}}
    assert finish(provider_data=kept).provider_data == kept
    said = finish(provider_data={"openai": {"message": {"extra_content": {"a": [f"<{KEY}>"]}}}})
    assert said.provider_data is None
    assert said.warnings == ("what the vendor wants back holds the key; provider_data was left out",)


def test_a_tool_call_whose_id_is_the_key_gets_another_one() -> None:
    answer = Chunk(
        text=KEY,
        tool_calls=(ToolCallDelta(index=0, id=KEY, name="f"), ToolCallDelta(index=1, id="call_1", arguments="{}")),
        pieces=3,
    )
    item = VendorNames(SECRETS).without_secrets(answer)
    assert isinstance(item, Chunk)
    assert (item.text, item.pieces) == (KEY, 3), "the answer itself is the agent's"
    assert (item.tool_calls[0].id or "").startswith("call_")
    assert item.tool_calls[0].name == "f"
    assert item.tool_calls[1] == answer.tool_calls[1]


def test_a_reply_that_makes_up_names_is_believed_a_few() -> None:
    names = VendorNames(SECRETS)
    items = [names.without_secrets(Stated(response_model=f"model-{number}")) for number in range(100)]
    kept = [item.response_model for item in items if isinstance(item, Stated) and item.response_model]
    assert kept == [f"model-{number}" for number in range(len(kept))]
    assert 10 < len(kept) < 30
