"""A key is found in every form in which a vendor may say it, and nothing else is taken for one."""

import base64
import time
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from tests.disguises import DISGUISES
from workers.providers.shared.errors.disguises import holds, parts_of
from workers.providers.shared.errors.redaction import DISGUISED, MAX_MESSAGE_CHARS, Secrets, redact

KEYS = ["sk-proj-Zx81kQpvL0aa93Jw72mmDf55", "9c41f7d2b85e4a06a3d1c7e9f0b2846d", "AQ.Ab8RN6Lk-3_Vt0pWqXyZ1mNcE4sDgH"]
ORDINARY = [
    "The model `gpt-4o-mini-2024-07-18` does not exist or you do not have access to it.",
    "Rate limit reached for org-AbCd1234EfGh5678 on tokens per min (TPM): Limit 30000, Used 29500, Requested 1200.",
    "This model's maximum context length is 128000 tokens. However, your messages resulted in 130112 tokens.",
    "req_011CSHoEeqs5C35K2UUqR7Fy: overloaded_error (request id 3f2504e0-4f89-41d3-9a0c-0305e82c3301)",
    "invalid literal: 0x41 \\u0041 %41 &#65; 65 66 67 68 69 70 71 72 73 74 75",
    "/usr/lib/python3.12/site-packages/vllm/engine/async_llm_engine.py:1234 raised ValueError('bad')",
    "请求过于频繁 请稍后再试 Ошибка сервера. " * 3,
]


@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_found_in_every_form(name: str, key: str) -> None:
    disguised = DISGUISES[name]
    parts = parts_of([key])
    assert holds(disguised(key), parts)
    assert holds(f"the key <{disguised(key)}> was refused, see the page", parts)


@pytest.mark.parametrize("name", DISGUISES)
@pytest.mark.parametrize("key", KEYS)
def test_no_form_of_a_key_leaves_in_a_message(name: str, key: str) -> None:
    shown = redact(f"the key {DISGUISES[name](key)} was refused", key=SecretStr(key))
    assert shown == DISGUISED or "[redacted]" in shown
    assert not holds(shown, parts_of([key]))


@pytest.mark.parametrize("begin", range(0, 20, 3))
@pytest.mark.parametrize("name", [name for name in DISGUISES if name != "plain"])
def test_a_part_of_twelve_is_found(name: str, begin: int) -> None:
    assert holds(f"not {DISGUISES[name](KEYS[1][begin : begin + 12])}, no", parts_of(KEYS))


@pytest.mark.parametrize("text", ORDINARY)
@pytest.mark.parametrize("key", KEYS)
def test_ordinary_words_hold_no_key(text: str, key: str) -> None:
    parts = parts_of([key])
    assert not holds(text, parts)
    assert not holds(base64.b64encode(text.encode()).decode(), parts)


def test_a_secret_that_is_too_short_for_a_key_is_looked_for_in_messages_only() -> None:
    secrets = Secrets(SecretStr("hunter2"))
    assert secrets.redact("the password hunter2 is wrong") == "the password [redacted] is wrong"
    assert not secrets.are_in("model-hunter2"), "names may hold it: nobody's key is as short"


def test_every_secret_of_a_call_is_looked_for() -> None:
    secrets = Secrets(SecretStr(KEYS[0]), None, SecretStr(KEYS[1]))
    assert all(secrets.redact(key.upper()) == DISGUISED for key in KEYS[:2])
    assert secrets.redact(f"{KEYS[0]} {KEYS[1]}") == "[redacted] [redacted]"
    assert Secrets(None).redact("all is well") == "all is well"


LONGEST = 4 * MAX_MESSAGE_CHARS
HARD: dict[str, Callable[[], str]] = {
    "digits": lambda: "01" * LONGEST,
    "hexadecimal": lambda: (b"words and words " * LONGEST).hex(),
    "base64 in base64": lambda: base64.b64encode(base64.b64encode(base64.b64encode(b"words and " * LONGEST))).decode(),
    "escapes": lambda: "%2525" * LONGEST,
    "backslashes": lambda: "\\" * LONGEST,
    "ampersands": lambda: "&amp;" * LONGEST,
    "numbers": lambda: "115 " * LONGEST,
    "ligatures": lambda: "\ufdfa\ufb03" * LONGEST,
    "stars": lambda: "*" * LONGEST,
    "prefixes": lambda: "sk-" * LONGEST,
    "tokens": lambda: "eyJ." * LONGEST,
}


@pytest.mark.parametrize("name", HARD)
def test_a_text_of_any_length_is_searched_in_a_moment(name: str) -> None:
    """A hundred times what an error costs at most, so that a busy machine does not fail it; a square would."""
    text, secrets = HARD[name](), Secrets(*map(SecretStr, KEYS))
    began = time.process_time()
    secrets.redact(text)
    assert time.process_time() - began < 1
