"""How a question about a whole request is read."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.errors import MalformedRequest
from contracts.rpc import CountTokens
from workers.control.rpc import parse_question


def question(*messages: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": messages, **fields}).encode()


def said(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    "text",
    ["x" * 7_000_000, '"' * 3_000_000, "\\" * 3_000_000, '\\"' * 1_500_000, "[{,:}]" * 1_000_000, "é" * 1_000_000],
    ids=["plain", "quotes", "backslashes", "both", "structure", "escapes"],
)
async def test_a_long_text_is_read_whatever_it_says(text: str) -> None:
    read = await parse_question(CountTokens, question(said(text), said("and"), said("\\")))

    assert read.messages[0].content == text


async def test_many_messages_are_read() -> None:
    assert len((await parse_question(CountTokens, question(*[said("Hi" * 50)] * 4000))).messages) == 4000


@pytest.mark.parametrize(
    "data",
    [
        question(*[said("a")] * 200_000),
        question(said("\\"), *[said("\\")] * 200_000),
        question({"role": "user", "content": [{"type": "text", "text": "a"}] * 200_000}),
        question(
            said("a"), tools=[{"type": "function", "function": {"name": "f", "parameters": {"a": [[]] * 99_999}}}]
        ),
        question(said("\\"), said("\\"), tools=[[1] * 999_999]),
        b"[" * 1_000_000,
        b'"' * 1_000_000,
    ],
    ids=["messages", "backslashes", "parts", "lists", "numbers", "brackets", "quotes"],
)
async def test_much_structure_is_not_read(data: bytes) -> None:
    with pytest.raises(MalformedRequest, match="20000 strings"):
        await parse_question(CountTokens, data)


async def test_a_short_question_is_mended_and_a_long_one_is_not() -> None:
    assert (await parse_question(CountTokens, question(said("a\ud800")))).messages[0].content == "a\ufffd"
    with pytest.raises(ValidationError):
        await parse_question(CountTokens, question(said("a\ud800" * 20_000)))
