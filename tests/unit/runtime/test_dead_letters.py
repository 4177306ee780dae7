"""What a dead letter holds."""

from typing import cast

import pytest

from contracts.control import DEAD_AT, DEAD_CODE, DEAD_REASON, DEAD_SUBJECT, DEAD_TRUNCATED
from contracts.streams import MALFORMED_KEPT_BYTES
from runtime.jetstream.dead_letters import bury, header_value
from runtime.jetstream.publishing import Publisher, TooLarge

MOST_BYTES = 200_000


class Stream:
    """Stands for the publisher: keeps what it is given, up to a size."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, bytes, str, dict[str, str]]] = []

    async def durable(self, subject: str, payload: bytes, *, msg_id: str, headers: dict[str, str]) -> None:
        if len(payload) + sum(map(len, headers.values())) > MOST_BYTES:
            raise TooLarge(subject)
        self.stored.append((subject, payload, msg_id, headers))


async def buried(
    payload: bytes, *, reason: str = "no JSON", code: str = "malformed_record"
) -> tuple[str, bytes, str, dict[str, str]]:
    stream = Stream()
    await bury(
        cast(Publisher, stream),
        payload,
        came_on="llm.v1.usage.openai.acme",
        to="llm.v1.dead.openai.acme",
        code=code,
        reason=reason,
        msg_id="LLM_USAGE:7",
    )
    (letter,) = stream.stored
    return letter


async def test_a_dead_letter_is_the_message_with_the_reason_in_its_headers() -> None:
    subject, payload, msg_id, headers = await buried(b"{")

    assert (subject, payload, msg_id) == ("llm.v1.dead.openai.acme", b"{", "LLM_USAGE:7")
    assert headers.pop(DEAD_AT)
    assert headers == {
        DEAD_CODE: "malformed_record",
        DEAD_REASON: "no JSON",
        DEAD_SUBJECT: "llm.v1.usage.openai.acme",
    }


async def test_a_payload_at_the_size_limit_is_cut_and_says_so() -> None:
    whole = b"x" * MOST_BYTES

    _, payload, _, headers = await buried(whole)

    assert headers[DEAD_TRUNCATED] == "true"
    assert whole.startswith(payload)
    assert len(whole) > len(payload) > MOST_BYTES / 2


async def test_of_a_malformed_request_the_beginning_is_kept() -> None:
    whole = b"x" * (MALFORMED_KEPT_BYTES + 1)

    _, payload, _, headers = await buried(whole, code="malformed_request")
    _, other, _, _ = await buried(whole, code="internal")

    assert (len(payload), headers[DEAD_TRUNCATED]) == (MALFORMED_KEPT_BYTES, "true")
    assert other == whole


async def test_a_long_reason_is_cut() -> None:
    _, _, _, headers = await buried(b"{", reason="x" * 100_000)

    assert headers[DEAD_REASON] == "x" * 1000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("two\nlines", "two lines"),
        ("Fleet-Dead-Code: x\r\n", "Fleet-Dead-Code: x? "),
        ("é\x00", "??"),
    ],
)
def test_a_header_is_one_line_of_printable_ascii(text: str, value: str) -> None:
    assert header_value(text) == value
