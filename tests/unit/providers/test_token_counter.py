"""Counting tokens in a process of its own: it counts the same, and is there while it is needed."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncGenerator

import psutil
import pytest

from contracts.rpc import CountTokens
from tests.patience import until
from workers.providers.openai import tokens
from workers.providers.openai.token_counter import TokenCounter, answer_questions


def asks(text: str) -> CountTokens:
    return CountTokens.model_validate({"model": "openai/gpt-4o", "messages": [{"role": "user", "content": text}]})


@pytest.fixture
async def counter() -> AsyncGenerator[TokenCounter]:
    counter = TokenCounter()
    yield counter
    await counter.aclose()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "token_counter" in " ".join(_command_of(child))]


def _command_of(child: psutil.Process) -> list[str]:
    """Empty when it has just ended."""
    try:
        return child.cmdline()
    except psutil.Error:
        return []


async def test_counts_as_in_this_process(counter: TokenCounter) -> None:
    texts = ["Where is the station?", "größer 😀\n" * 100, "x" * 500_000]
    counted = await asyncio.gather(*(counter.count(asks(text), model="gpt-4o") for text in texts))
    assert counted == [tokens.count(asks(text), model="gpt-4o") for text in texts]
    assert len(children()) == 1


async def test_without_a_vocabulary_no_process_is_started(counter: TokenCounter) -> None:
    counted = await counter.count(asks("Hello"), model="qwen3")
    assert counted == tokens.count(asks("Hello"), model="qwen3")
    assert not children()


async def test_a_process_that_was_killed_is_started_again(counter: TokenCounter) -> None:
    first = await counter.count(asks("Hello"), model="gpt-4o")
    os.kill(children()[0].pid, signal.SIGKILL)
    assert await counter.count(asks("Hello"), model="gpt-4o") == first


async def test_a_question_that_nobody_waits_for_leaves_no_answer_to_the_next_one(counter: TokenCounter) -> None:
    counting = asyncio.create_task(counter.count(asks("a long one " * 100_000), model="gpt-4o"))
    await until(lambda: bool(children()))
    counting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await counting
    assert await counter.count(asks("Hello"), model="gpt-4o") == tokens.count(asks("Hello"), model="gpt-4o")


async def test_the_process_ends_when_nobody_asks() -> None:
    counter = TokenCounter(unused_s=0.01)
    await counter.count(asks("Hello"), model="gpt-4o")
    await until(lambda: not children())
    await counter.aclose()


def test_the_process_ends_with_its_input_and_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = io.BytesIO()
    answer_questions(io.BytesIO(), answers)
    assert answers.getvalue() == b""

    monkeypatch.setenv("NATS_PASSWORD", "secret-of-the-worker")

    async def environment() -> dict[str, str]:
        counter = TokenCounter()
        await counter.count(asks("Hello"), model="gpt-4o")
        (child,) = children()
        found = child.environ()
        await counter.aclose()
        return found

    assert "secret-of-the-worker" not in asyncio.run(environment()).values()
