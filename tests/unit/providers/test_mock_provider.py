"""The provider that users script in their own tests."""

import asyncio
from typing import Any

import pytest

from contracts.errors import (
    DeadlineExceeded,
    ErrorCode,
    FleetError,
    InvalidRequest,
    Overloaded,
    ProviderTimeout,
    RateLimited,
    StreamInterrupted,
)
from contracts.providers import Endpoint, Timeouts
from contracts.requests import CompletionRequest
from contracts.rpc import CountTokens, EstimateCost
from contracts.usage import UsageSource
from workers.providers.base import Call, Chunk, Finish, StreamItem, Target
from workers.providers.mock.adapter import Mock

TARGET = Target(endpoint=Endpoint(), timeouts=Timeouts(), key=None)


def call(*, request_id: str = "r1", time_left_s: float = 30, timeouts: Timeouts | None = None, **script: Any) -> Call:
    request = CompletionRequest.model_validate(
        {
            "id": request_id,
            "tenant": "t",
            "agent": "a",
            "model": "mock/echo",
            "messages": [{"role": "user", "content": "Where is the station?"}],
            "provider_options": {"mock": script},
        }
    )
    target = Target(endpoint=Endpoint(), timeouts=timeouts or Timeouts(), key=None)
    return Call(request=request, model="echo", target=target, time_left_s=time_left_s)


async def read(mock: Mock, asked: Call) -> tuple[list[Chunk], Finish]:
    items: list[StreamItem] = []
    finish = await mock.stream_completion(asked, items.append)
    return [item for item in items if isinstance(item, Chunk)], finish


async def test_echoes_the_last_user_message_word_by_word() -> None:
    chunks, finish = await read(Mock(), call())
    assert [chunk.text for chunk in chunks] == ["You", " said:", " Where", " is", " the", " station?"]
    assert finish.finish_reason == "stop"


async def test_the_same_request_has_the_same_answer_and_bill() -> None:
    mock = Mock()
    assert await read(mock, call()) == await read(mock, call())


async def test_states_its_usage_like_a_vendor() -> None:
    _, finish = await read(Mock(), call(text="abcdefgh", usage={"input_tokens": 100, "reasoning_tokens": 1}))
    assert finish.usage
    assert finish.usage.source is UsageSource.VENDOR
    assert (finish.usage.input_tokens, finish.usage.output_tokens, finish.usage.reasoning_tokens) == (100, 2, 1)


async def test_can_state_no_usage() -> None:
    _, finish = await read(Mock(), call(usage=None))
    assert finish.usage is None


@pytest.mark.parametrize(
    ("script", "texts"),
    [
        ({"text": "abcdef", "chunk_size": 4}, ["abcd", "ef"]),
        ({"text": "abcdef", "chunks": 3}, ["ab", "cd", "ef"]),
        ({"text": "  two words "}, ["  two", " words "]),
        ({"text": ""}, []),
    ],
)
async def test_cuts_its_text_as_scripted(script: dict[str, Any], texts: list[str]) -> None:
    chunks, _ = await read(Mock(), call(**script))
    assert [chunk.text for chunk in chunks] == texts


async def test_completes_with_reasoning_and_tool_calls() -> None:
    calls = [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": "{broken", "id": "mine"}]
    completion = await Mock().complete(call(reasoning="Let me see", tool_calls=calls, chunk_size=2))
    message = completion.message
    assert message.reasoning == "Let me see"
    assert message.content is None
    assert message.tool_calls
    assert [made.function.arguments for made in message.tool_calls] == ['{"x": 1}', "{broken"]
    assert message.tool_calls[1].id == "mine"
    assert completion.finish.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "code",
    [
        "unsupported_feature",
        "invalid_request",
        "context_length_exceeded",
        "content_filtered",
        "rate_limited",
        "overloaded",
        "provider_unavailable",
        "provider_timeout",
        "stream_interrupted",
        "authentication_failed",
        "quota_exhausted",
        "model_not_found",
    ],
)
async def test_fails_with_every_code_that_a_vendor_can_cause(code: str) -> None:
    with pytest.raises(FleetError) as failure:
        await read(Mock(), call(fail={"code": code}))
    assert failure.value.code == ErrorCode(code)
    assert failure.value.provider == "mock"


async def test_fails_so_many_times_for_each_request_and_then_answers() -> None:
    mock = Mock()
    script: dict[str, Any] = {"fail": {"code": "overloaded", "times": 2}}
    for request_id in ("r1", "r2"):
        for _ in range(2):
            with pytest.raises(Overloaded):
                await read(mock, call(request_id=request_id, **script))
        _, finish = await read(mock, call(request_id=request_id, **script))
        assert finish.finish_reason == "stop"


async def test_says_when_to_come_back() -> None:
    with pytest.raises(RateLimited) as failure:
        await read(Mock(), call(fail={"code": "rate_limited", "retry_after_s": 1.5, "status": 429}))
    assert (failure.value.retry_after_s, failure.value.status) == (1.5, 429)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ({"cut_after_chunks": 2}, StreamInterrupted),
        ({"fail": {"code": "overloaded", "after_chunks": 2}}, Overloaded),
    ],
)
async def test_fails_in_mid_stream(script: dict[str, Any], error: type[FleetError]) -> None:
    before: list[StreamItem] = []
    with pytest.raises(error):
        await Mock().stream_completion(call(**script), before.append)
    assert [item.text for item in before if isinstance(item, Chunk)] == ["You", " said:"]


async def test_a_cut_behind_the_answer_still_loses_its_end() -> None:
    with pytest.raises(StreamInterrupted):
        await read(Mock(), call(text="one", cut_after_chunks=99))


async def test_a_wrong_script_is_refused_by_the_name_of_its_field() -> None:
    with pytest.raises(InvalidRequest, match=r"fail\.code: no vendor fails with queue_full"):
        await read(Mock(), call(fail={"code": "queue_full"}))
    with pytest.raises(InvalidRequest, match="tekst"):
        await read(Mock(), call(tekst="typo"))


async def test_keeps_the_time_limits_of_its_provider() -> None:
    with pytest.raises(ProviderTimeout, match="first_token_s"):
        await read(Mock(), call(first_token_s=100, timeouts=Timeouts(first_token_s=0.001)))
    with pytest.raises(ProviderTimeout, match="idle_s"):
        await read(Mock(), call(between_s=100, timeouts=Timeouts(idle_s=0.001)))
    with pytest.raises(ProviderTimeout, match="total_s"):
        await read(Mock(), call(between_s=0.01, timeouts=Timeouts(total_s=0.015), text="word " * 100))
    with pytest.raises(DeadlineExceeded):
        await read(Mock(), call(first_token_s=100, time_left_s=0.001))


async def test_nothing_is_said_when_no_time_is_left() -> None:
    with pytest.raises(DeadlineExceeded):
        await read(Mock(), call(time_left_s=0))


async def test_it_can_be_cancelled_while_it_waits() -> None:
    task = asyncio.create_task(Mock().complete(call(first_token_s=1000)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_answers_every_question_of_the_base_interface() -> None:
    mock = Mock()
    asked = {"model": "mock/echo", "messages": [{"role": "user", "content": "abcd"}]}
    mock.check_supported(call().request, model="echo")
    await mock.check_health(TARGET)
    count = await mock.count_tokens(CountTokens.model_validate(asked), model="echo", target=TARGET)
    cost = await mock.estimate_cost(
        EstimateCost.model_validate({**asked, "max_tokens": 7}), model="echo", target=TARGET, prices={}
    )
    assert (count.input_tokens, count.exact) == (5, True)
    assert (cost.input_tokens, cost.output_tokens, cost.cost) == (5, 7, None)
    assert [model.id for model in await mock.get_supported_models(TARGET)] == ["echo"]
    await mock.aclose()
