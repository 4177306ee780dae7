"""When to come back, and texts that may leave."""

import time
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from workers.providers.shared.errors.redaction import MAX_MESSAGE_CHARS, redact, repeats
from workers.providers.shared.errors.retry_after import MAX_RETRY_AFTER_S, MAX_WAIT_S, retry_after_s

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
UNIX_S = int(NOW.timestamp())
DAY_S = 86_400.0
KEY = SecretStr("sk-proj-Zx81kQpvL0aa93Jw72mmDf55")


@pytest.mark.parametrize(
    ("headers", "text", "wait_s"),
    [
        ({}, "", None),
        ({"retry-after": "7"}, "", 7.0),
        ({"retry-after": "0.5"}, "", 0.5),
        ({"retry-after": "Mon, 01 Jan 2024 00:00:00 +99999999999999999"}, "", None),
        ({"retry-after": "," * 120_000}, "", None),
        ({"retry-after-ms": "1146", "retry-after": "1"}, "", 1.146),
        ({"retry-after-ms": "0", "retry-after": "1"}, "", 1.0),
        ({"x-ms-retry-after-ms": "250"}, "", 0.25),
        ({"retry-after": "Mon, 23 Nov 2026 12:00:30 GMT"}, "", 30.0),
        ({"retry-after": "Mon, 23 Nov 2026 11:00:00 GMT"}, "", 0.0),
        ({"retry-after": "Mon Nov 23 12:00:30 2026"}, "", 30.0),
        ({"retry-after": "-5"}, "", None),
        ({"retry-after": "nan"}, "", None),
        ({"retry-after": "inf"}, "", None),
        ({"retry-after": ""}, "", None),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": "1_000"}, "", None),
        ({"retry-after": "1e99"}, "", None),
        ({"retry-after": "1e999"}, "", None),
        ({"retry-after": "60s"}, "", 60.0),
        ({"retry-after": "1m"}, "", 60.0),
        ({"retry-after": "1m30s"}, "", 90.0),
        ({"retry-after": "500ms"}, "", 0.5),
        ({"retry-after": '"7"'}, "", 7.0),
        ({"retry-after": "5, 5"}, "", 5.0),
        ({"retry-after": "5, 30"}, "", 30.0),
        ({"retry-after": "soon, 7"}, "", 7.0),
        ({"retry-after": "604800"}, "", MAX_WAIT_S),
        ({"retry-after": "2 days"}, "", 2 * DAY_S),
        ({"retry-after": "Wed, 25 Nov 2026 12:00:00 GMT"}, "", 2 * DAY_S),
        ({"retry-after": "Mon, 23 Nov 2099 12:00:00 GMT"}, "", MAX_RETRY_AFTER_S),
        ({"retry-after": f"{UNIX_S + 20}"}, "", 20.0),
        ({"retry-after": f"{UNIX_S + 20}.5"}, "", 20.5),
        ({"retry-after": f"{UNIX_S + 20}000"}, "", 20.0),
        ({"retry-after-ms": f"{UNIX_S + 20}000"}, "", 20.0),
        ({"retry-after": f"{UNIX_S - 20}"}, "", 0.0),
        ({"retry-after": f"{UNIX_S + 80_000}"}, "", None),
        ({"retry-after": f"{UNIX_S + 80_000}"}, "Please try again in 9s.", 9.0),
        ({"retry-after": f"{UNIX_S + 80_000}", "retry-after-ms": "900"}, "", 0.9),
        ({}, "Please try again in 1.146s. Visit the page.", 1.146),
        ({}, "Please try again in 20ms.", 0.02),
        ({}, "Please try again in 6m0s.", 360.0),
        ({}, "Please retry after 26 seconds.", 26.0),
        ({}, "Please retry after 1 minute 30 seconds.", 90.0),
        ({}, "Please try again in 2 days.", 2 * DAY_S),
        ({}, "Please try again in 1 day and 2 hours.", DAY_S + 7200.0),
        ({}, "Please try again in 1d2h.", DAY_S + 7200.0),
        ({}, "Please try again in 400 days.", MAX_RETRY_AFTER_S),
        ({}, "concurrency: 3, please try again after 1 seconds", 1.0),
        ({}, "Please wait about 5 minutes.", 300.0),
        ({}, "Please retry after 20 requests.", None),
        ({"retry-after": "3"}, "Please try again in 1s.", 3.0),
        ({}, "Try again in a while.", None),
    ],
)
def test_finds_when_to_come_back(headers: dict[str, str], text: str, wait_s: float | None) -> None:
    assert retry_after_s(headers, now=NOW, text=text) == (None if wait_s is None else pytest.approx(wait_s))


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY.get_secret_value()}. See the page.",
        "Incorrect API key provided: sk-proj-********Df55. See the page.",
        "Illegal header value b'Bearer sk-proj-Zx81kQpvL0aa93Jw72mmDf55'",
        "The key Zx81kQpvL0 is not known.",
        "Another key sk-abcdef1234567890 was refused.",
        "Got AIzaSyA1234567890abcdefghijk",
        "Got gsk_1234567890abcdef",
    ],
)
def test_no_part_of_a_key_leaves(text: str) -> None:
    shown = redact(text, key=KEY)
    assert "[redacted]" in shown
    for part in ("Zx81kQ", "Df55", "abcdef", "sk-", "AIza", "gsk_"):
        assert part not in shown


def test_ordinary_words_stay() -> None:
    text = "The task-force took a risk: desk-bound, key-value, skip-level."
    assert redact(text, key=KEY) == text


def test_a_key_cut_down_to_its_prefix_goes_too() -> None:
    assert redact("Incorrect API key provided: sk-. You can find", key=KEY) == (
        "Incorrect API key provided: [redacted] You can find"
    )


def test_a_long_text_is_cut() -> None:
    assert len(redact("word " * 10_000, key=None)) == MAX_MESSAGE_CHARS


def test_a_key_at_the_cut_does_not_show_its_beginning() -> None:
    text = "x" * (4 * MAX_MESSAGE_CHARS - 10) + KEY.get_secret_value()
    assert "sk-proj" not in redact(text, key=KEY)


@pytest.mark.parametrize("shift", range(0, 40, 7))
def test_a_piece_of_the_prompt_is_found_in_the_vendors_words(shift: int) -> None:
    prompt = "The patient, born in May, has been complaining of a headache for three weeks now, and sleeps badly."
    assert repeats(f"{'x' * shift} invalid input: {prompt[10:80]} at messages.0", ["Hi", prompt])
    assert not repeats("Invalid value for 'temperature': must be at most 2.", ["Hi", prompt])
    assert not repeats("", [prompt])


@pytest.mark.parametrize("prompt", ["a" * 8_000_000, "ab c" * 2_000_000, "Ж" * 4_000_000])
def test_a_long_prompt_is_searched_in_a_moment(prompt: str) -> None:
    words = (prompt[:31] + "-") * 300
    began = time.process_time()
    assert not repeats(words, [prompt])
    assert time.process_time() - began < 2
