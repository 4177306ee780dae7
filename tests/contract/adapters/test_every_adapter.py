"""What every adapter does the same, over real HTTP against the simulator."""

import asyncio
import json
from collections.abc import Awaitable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from contracts.errors import AuthenticationFailed, DeadlineExceeded, ErrorCode, StreamInterrupted
from contracts.providers import Timeouts
from contracts.requests import ToolCall
from contracts.rpc import CountTokens, EstimateCost
from contracts.usage import UsageSource
from fleet.simulator import Script, ScriptedToolCall, ScriptedUsage
from fleet.simulator.tcp import listening
from tests.contract.adapters.vendor import KEY, PATIENT, Vendor
from tests.kit import hang_up
from tests.patience import until
from tests.ports import free_port
from workers.providers.base import Chunk, Finish, NotReached, NotToBeSent, Stated, StreamItem

UNICODE = "Olá, čeština, 你好, 👩‍👩‍👧, ∑ and e\u0301\u2028\u0085 done"
CALLS = (
    ScriptedToolCall(name="weather", arguments={"city": "Zürich", "days": 2}, id="call_a"),
    ScriptedToolCall(name="time", arguments={}, id="call_b"),
)
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("weather", "time")
]


def are_named(calls: Sequence[ToolCall], vendor: Vendor) -> bool:
    """Whether CALLS have their ids, or ids of their own from a vendor that gives none."""
    ids = [call.id for call in calls]
    return ids == ["call_a", "call_b"] if vendor.traits.names_calls else len(set(ids)) == len(CALLS)


async def test_streams_text_as_it_comes_and_finishes_once(vendor: Vendor) -> None:
    vendor.says(Script(text="one two three four", between_s=0.02))
    *items, finish = [item async for item in vendor.stream()]
    chunks = [item for item in items if isinstance(item, Chunk)]
    assert len(chunks) > 1
    assert not any(isinstance(item, Finish) for item in items)
    assert isinstance(finish, Finish)
    assert finish.finish_reason == "stop"
    assert "".join(chunk.text for chunk in chunks) == "one two three four"


async def test_what_came_in_one_read_is_one_chunk(vendor: Vendor) -> None:
    vendor.says(Script(text="a b c d e f", together=6))
    chunks = [item async for item in vendor.stream() if isinstance(item, Chunk)]
    assert [chunk.text for chunk in chunks] == ["a b c d e f"]


@pytest.mark.parametrize("split_bytes", [None, 1, 2, 3, 7])
@pytest.mark.parametrize("gzip", [False, True])
async def test_no_character_breaks_wherever_the_bytes_are_split(
    vendor: Vendor, split_bytes: int | None, gzip: bool
) -> None:
    vendor.says(Script(text=UNICODE, chunk_size=3, split_bytes=split_bytes, gzip=gzip))
    assert (await vendor.complete()).message.content == UNICODE


async def test_a_completion_is_the_stream_gathered(vendor: Vendor) -> None:
    vendor.says(Script(text="Hello.", reasoning="Greet back.", usage=ScriptedUsage(input_tokens=3, output_tokens=9)))
    completion = await vendor.complete()
    assert (completion.message.content, completion.message.reasoning) == ("Hello.", "Greet back.")
    assert completion.finish.response_model == vendor.model
    assert bool(completion.finish.response_id) == vendor.traits.names_replies
    assert completion.finish.warnings == ()
    assert vendor.served.stream


async def test_tells_as_what_it_was_served(vendor: Vendor) -> None:
    vendor.says(Script(service_tier="flex"), Script())
    tiers = [(await vendor.complete()).finish.service_tier for _ in range(2)]
    assert tiers == ["flex" if vendor.traits.names_tier else None, None]


async def test_what_was_stated_is_known_when_the_stream_is_cut(vendor: Vendor) -> None:
    usage = ScriptedUsage(input_tokens=1000, output_tokens=50)
    vendor.says(Script(text="one two three", usage=usage, service_tier="flex", cut_after_chunks=2))
    stated = Stated()
    with suppress(StreamInterrupted):
        async for item in vendor.stream():
            assert not isinstance(item, Finish)
            stated = item if isinstance(item, Stated) else stated
    assert (stated.usage.input_tokens if stated.usage else None) == (1000 if vendor.traits.states_input_first else None)
    assert stated.service_tier == ("flex" if vendor.traits.names_tier else None)
    assert not stated.is_final


async def test_a_server_that_does_not_stream_is_understood(vendor: Vendor) -> None:
    vendor.says(Script(text=UNICODE, tool_calls=CALLS))
    completion = await vendor.complete(provider_options={vendor.name: {"stream": False}})
    assert completion.message.content == UNICODE
    assert completion.message.tool_calls
    assert are_named(completion.message.tool_calls, vendor)
    assert completion.finish.finish_reason == "tool_calls"
    assert completion.finish.usage


@pytest.mark.parametrize("split_bytes", [None, 1])
async def test_parallel_tool_calls_come_whole(vendor: Vendor, split_bytes: int | None) -> None:
    vendor.says(Script(tool_calls=CALLS, chunk_size=2, split_bytes=split_bytes))
    completion = await vendor.complete(tools=TOOLS, parallel_tool_calls=True, tool_choice="required")
    assert completion.message.content is None
    assert completion.message.tool_calls
    assert are_named(completion.message.tool_calls, vendor)
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in completion.message.tool_calls]
    assert calls == [("weather", {"city": "Zürich", "days": 2}), ("time", {})]
    assert completion.finish.finish_reason == "tool_calls"


async def test_a_tool_conversation_goes_on(vendor: Vendor) -> None:
    vendor.says(Script(tool_calls=CALLS[:1]), Script(text="It is sunny."))
    first = await vendor.complete(tools=TOOLS)
    assert first.message.tool_calls
    question = {"role": "user", "content": "How is the weather?"}
    answer = {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": "sunny"}
    second = await vendor.complete(tools=TOOLS, messages=[question, first.message.model_dump(), answer])
    assert second.message.content == "It is sunny."


async def test_images_arrive(vendor: Vendor) -> None:
    image = "data:image/png;base64,iVBORw0KGgo="
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": image}}]
    await vendor.complete(messages=[{"role": "user", "content": parts}])
    assert "iVBORw0KGgo=" in str(vendor.body)


async def test_an_image_with_a_browsers_label_arrives(vendor: Vendor) -> None:
    image = "data:image/JPG;charset=utf-8;base64,/9j/4AA="
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": image}}]
    assert (await vendor.complete(messages=[{"role": "user", "content": parts}])).message.content
    assert "/9j/4AA=" in str(vendor.body)
    assert "jpg" not in str(vendor.body).lower()


async def test_a_request_of_the_system_only_is_answered(vendor: Vendor) -> None:
    vendor.says(Script(text="Hello."))
    completion = await vendor.complete(messages=[{"role": "system", "content": "Say hello."}])
    assert completion.message.content == "Hello."


async def test_a_history_of_which_the_beginning_is_gone_goes_on(vendor: Vendor) -> None:
    call = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": "null"}}
    history = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "functions.f:0", "content": "ok"},
        {"role": "assistant", "content": "", "tool_calls": []},
        {"role": "user", "content": "Go on."},
    ]
    vendor.says(Script(text="Yes."))
    assert (await vendor.complete(messages=history, tools=[])).message.content == "Yes."


async def test_odd_characters_of_a_request_arrive(vendor: Vendor) -> None:
    text = "a\x00b\ufffdc\U0001f600"
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": f'{{"x": "{chr(0xFFFD)}"}}'}}
    history = [
        {"role": "system", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}]},
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": text},
    ]
    await vendor.complete(messages=history)
    assert json.dumps(vendor.body, ensure_ascii=False).count("\ufffd") == 5


async def test_a_json_schema_arrives(vendor: Vendor) -> None:
    schema = {"name": "person", "strict": True, "schema": {"type": "object", "properties": {"uncommon_name": {}}}}
    vendor.says(Script(text='{"uncommon_name": "Ada"}'))
    completion = await vendor.complete(response_format={"type": "json_schema", "json_schema": schema})
    assert completion.message.content == '{"uncommon_name": "Ada"}'
    assert "uncommon_name" in str(vendor.body)


async def test_usage_is_the_vendors(vendor: Vendor) -> None:
    stated = ScriptedUsage(input_tokens=100, output_tokens=50, cache_read_tokens=40, reasoning_tokens=30)
    vendor.says(Script(text="x", usage=stated))
    usage = (await vendor.complete()).finish.usage
    assert usage
    assert usage.source is UsageSource.VENDOR
    assert (usage.input_tokens, usage.output_tokens) == (100, 50)
    assert (usage.cache_read_tokens, usage.reasoning_tokens) == ((40, 30) if vendor.traits.details_usage else (0, 0))


async def test_no_usage_is_invented(vendor: Vendor) -> None:
    vendor.says(Script(text="x", usage=None))
    assert (await vendor.complete()).finish.usage is None


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_says_why_a_reply_ended(vendor: Vendor, reason: str) -> None:
    if reason == "content_filter" and not vendor.traits.filters:
        pytest.skip("nothing is filtered here")
    vendor.says(Script(text="x", finish_reason=reason))
    assert (await vendor.complete()).finish.finish_reason == reason


async def test_a_reply_of_nothing_is_one(vendor: Vendor) -> None:
    vendor.says(Script(text="", finish_reason="length"))
    completion = await vendor.complete()
    assert (completion.message.content, completion.finish.finish_reason) == (None, "length")


async def test_a_refusal_is_kept_apart(vendor: Vendor) -> None:
    if not vendor.traits.refuses_apart:
        pytest.skip("a refusal is a text here")
    vendor.says(Script(refusal="I cannot help with that."))
    completion = await vendor.complete()
    assert (completion.message.content, completion.message.refusal) == (None, "I cannot help with that.")


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        ("invalid_request_error", ErrorCode.INVALID_REQUEST, 400),
        ("context_length_exceeded", ErrorCode.CONTEXT_LENGTH_EXCEEDED, 400),
        ("content_policy_violation", ErrorCode.CONTENT_FILTERED, 400),
        ("invalid_api_key", ErrorCode.AUTHENTICATION_FAILED, 401),
        ("unsupported_country_region_territory", ErrorCode.AUTHENTICATION_FAILED, 403),
        ("model_not_found", ErrorCode.MODEL_NOT_FOUND, 404),
        ("timeout", ErrorCode.PROVIDER_TIMEOUT, 408),
        ("conflict", ErrorCode.PROVIDER_UNAVAILABLE, 409),
        ("too_large", ErrorCode.CONTEXT_LENGTH_EXCEEDED, 413),
        ("unprocessable", ErrorCode.INVALID_REQUEST, 422),
        ("rate_limit_exceeded", ErrorCode.RATE_LIMITED, 429),
        ("insufficient_quota", ErrorCode.QUOTA_EXHAUSTED, 429),
        ("server_error", ErrorCode.PROVIDER_UNAVAILABLE, 500),
        ("bad_gateway", ErrorCode.PROVIDER_UNAVAILABLE, 502),
        ("overloaded", ErrorCode.OVERLOADED, 503),
        ("gateway_timeout", ErrorCode.PROVIDER_TIMEOUT, 504),
    ],
)
async def test_every_refusal_has_its_code(vendor: Vendor, error: str, code: ErrorCode, status: int) -> None:
    if code == ErrorCode.CONTENT_FILTERED and not vendor.traits.filters:
        pytest.skip("nothing is filtered here")
    vendor.says(Script(error=error))
    said, failure = await vendor.fails()
    status = vendor.traits.statuses.get(error, status)
    assert (said, failure.code, failure.status, failure.provider) == ("", code, status, vendor.name)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after-ms": "1146", "retry-after": "1"}, 1.146),
        ({"retry-after": "Mon, 23 Nov 2099 12:00:00 GMT"}, 7 * 86_400.0),
        ({}, None),
    ],
)
async def test_says_when_the_vendor_wants_to_be_asked_again(
    vendor: Vendor, headers: dict[str, str], wait_s: float | None
) -> None:
    vendor.says(Script(error="rate_limit_exceeded", headers=headers))
    _, failure = await vendor.fails()
    assert failure.retry_after_s == (None if wait_s is None else pytest.approx(wait_s))


async def test_one_call_is_one_request(vendor: Vendor) -> None:
    vendor.says(Script(error="overloaded"))
    await vendor.fails()
    assert len(vendor.simulator.ledger.entries) == 1


@pytest.mark.parametrize("sent", [0, 2])
async def test_an_error_inside_the_stream_fails_it(vendor: Vendor, sent: int) -> None:
    vendor.says(Script(text="one two three", error="server_error", error_after_chunks=sent))
    said, failure = await vendor.fails()
    assert (said, failure.code) == (" ".join(["one", "two"][:sent]), ErrorCode.PROVIDER_UNAVAILABLE)
    assert not isinstance(failure, NotReached)


@pytest.mark.parametrize("cut", ["close", "reset", "eof"])
@pytest.mark.parametrize("sent", [0, 2])
async def test_a_stream_that_is_cut_is_interrupted(vendor: Vendor, cut: Any, sent: int) -> None:
    vendor.says(Script(text="one two three", cut_after_chunks=sent, cut=cut, between_s=0.01))
    said, failure = await vendor.fails()
    assert failure.code == ErrorCode.STREAM_INTERRUPTED
    assert said == " ".join(["one", "two"][:sent])


@pytest.mark.parametrize("cut", ["close", "eof"])
@pytest.mark.parametrize("gzip", [False, True])
async def test_a_cut_at_any_byte_never_passes_for_an_end(vendor: Vendor, cut: Any, gzip: bool) -> None:
    vendor.says(Script(text="one two"))
    await vendor.complete()
    whole = vendor.served.bytes_sent
    for at in range(0, whole, 41):
        vendor.says(Script(text="one two", cut_after_bytes=at, cut=cut, gzip=gzip))
        try:
            answer = (await vendor.complete()).message.content
        except StreamInterrupted:
            continue
        assert answer == "one two", f"cut at byte {at}"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (
            '{"code": "InvalidParameter", "message": "Range of input length should be [1, 30720]"}',
            "context_length_exceeded",
        ),
        ('{"choices": null, "base_resp": {"status_code": 1008, "status_msg": "no"}}', "quota_exhausted"),
        ('{"errors": [{"message": "rate limit exceeded", "code": 10000}], "success": false}', "rate_limited"),
        ('{"error_code": 336, "error_msg": "prompt tokens too long"}', "context_length_exceeded"),
    ],
)
async def test_an_error_with_a_status_of_success_is_one(vendor: Vendor, body: str, code: str) -> None:
    vendor.says(Script(body=body, content_type="application/json"))
    said, failure = await vendor.fails()
    assert (said, failure.code) == ("", code)


async def test_a_missing_end_marker_is_an_interruption(vendor: Vendor) -> None:
    vendor.says(Script(text="all of it", end_marker=False))
    said, failure = await vendor.fails()
    assert (said, failure.code) == ("all of it", ErrorCode.STREAM_INTERRUPTED)


@pytest.mark.parametrize(
    ("kind", "body", "what"),
    [
        ("text/html; charset=utf-8", "<html>\n<body>Sign in as sk-1234567890</body></html>", "51 bytes of text/html"),
        ("text/plain", "upstream error", "14 bytes of text/plain"),
        ("application/json", "", "an empty body"),
        ("text/event-stream", "upstream error\n\n", "16 bytes of text/event-stream"),
    ],
)
async def test_what_is_no_answer_of_an_api_is_an_unavailable_vendor(
    vendor: Vendor, kind: str, body: str, what: str
) -> None:
    vendor.says(Script(body=body, content_type=kind))
    said, failure = await vendor.fails()
    assert (said, failure.code, failure.retryable) == ("", ErrorCode.PROVIDER_UNAVAILABLE, True)
    assert what in failure.message
    assert not body or body.split()[-1] not in failure.message


async def test_no_first_token_is_a_timeout(vendor: Vendor) -> None:
    vendor.says(Script(headers_s=60))
    _, failure = await vendor.fails(target=vendor.target(timeouts=PATIENT.model_copy(update={"first_token_s": 0.05})))
    assert failure.code == ErrorCode.PROVIDER_TIMEOUT
    assert "first_token_s" in failure.message
    await until(lambda: vendor.served.outcome == "hung_up")


async def test_time_before_a_call_may_be_sent_is_not_the_vendors(vendor: Vendor) -> None:
    """The deadline counts from the beginning all the same."""

    async def may_send() -> None:
        await asyncio.sleep(2.1)

    timeouts = PATIENT.model_copy(update={"first_token_s": 2, "total_s": 2})
    in_time = replace(vendor.call(target=vendor.target(timeouts=timeouts)), may_send=may_send)
    assert (await vendor.adapter.complete(in_time)).message.content
    with pytest.raises(DeadlineExceeded):
        await vendor.adapter.complete(replace(in_time, time_left_s=2))


async def test_what_may_not_be_sent_is_not_sent(vendor: Vendor) -> None:
    """Leave is asked for below the vendor's SDK, which would make a connection error of the refusal."""
    cause = DeadlineExceeded("too late")

    async def may_send() -> None:
        raise NotToBeSent from cause

    with pytest.raises(NotToBeSent) as refused:
        await vendor.adapter.complete(replace(vendor.call(), may_send=may_send))
    assert refused.value.__cause__ is cause
    assert not vendor.simulator.ledger.entries


async def test_leave_to_send_is_asked_for_once_and_for_the_call_alone(vendor: Vendor) -> None:
    asked: list[int] = []

    async def may_send() -> None:
        asked.append(len(vendor.simulator.ledger.entries))

    for number in range(2):
        await vendor.adapter.complete(replace(vendor.call(), may_send=may_send))
        assert asked.pop() == number
        assert not asked
        await vendor.adapter.get_supported_models(vendor.target())
        assert not asked


async def test_a_stall_is_a_timeout(vendor: Vendor) -> None:
    vendor.says(Script(text="one two three", stall_after_chunks=2))
    said, failure = await vendor.fails(target=vendor.target(timeouts=PATIENT.model_copy(update={"idle_s": 0.1})))
    assert (said, failure.code) == ("one two", ErrorCode.PROVIDER_TIMEOUT)
    assert "idle_s" in failure.message
    await until(lambda: vendor.served.outcome == "hung_up")


async def test_pings_are_life(vendor: Vendor) -> None:
    vendor.says(Script(text="at last", first_token_s=0.6, ping_s=0.05))
    completion = await vendor.complete(target=vendor.target(timeouts=PATIENT.model_copy(update={"idle_s": 0.3})))
    assert completion.message.content == "at last"


async def test_pings_do_not_stretch_the_total(vendor: Vendor) -> None:
    vendor.says(Script(first_token_s=60, ping_s=0.02))
    _, failure = await vendor.fails(target=vendor.target(timeouts=PATIENT.model_copy(update={"total_s": 0.2})))
    assert failure.code == ErrorCode.PROVIDER_TIMEOUT
    assert "total_s" in failure.message


async def test_the_deadline_ends_a_call(vendor: Vendor) -> None:
    vendor.says(Script(first_token_s=60, ping_s=0.02))
    _, failure = await vendor.fails(time_left_s=0.2)
    assert failure.code == ErrorCode.DEADLINE_EXCEEDED
    await until(lambda: vendor.served.outcome == "hung_up")


async def test_no_call_is_made_after_the_deadline(vendor: Vendor) -> None:
    _, failure = await vendor.fails(time_left_s=0)
    assert failure.code == ErrorCode.DEADLINE_EXCEEDED
    assert not vendor.simulator.ledger.entries


async def test_a_server_that_is_not_there_is_unavailable(vendor: Vendor) -> None:
    port = free_port()
    _, failure = await vendor.fails(target=vendor.target(base_url=f"http://127.0.0.1:{port}/v1"))
    assert isinstance(failure, NotReached)
    assert failure.code == ErrorCode.PROVIDER_UNAVAILABLE
    assert f"127.0.0.1:{port}" in failure.message


async def test_a_connection_that_closes_without_an_answer_is_unavailable(vendor: Vendor) -> None:
    async with listening(hang_up) as port:
        _, failure = await vendor.fails(target=vendor.target(base_url=f"http://127.0.0.1:{port}/v1"))
    assert isinstance(failure, NotReached)


async def test_a_redirect_is_not_followed(vendor: Vendor) -> None:
    location = f"{vendor.simulator.base_url(vendor.name)}/elsewhere"
    vendor.says(Script(status=307, headers={"location": location}))
    _, failure = await vendor.fails()
    assert failure.code == ErrorCode.PROVIDER_UNAVAILABLE
    assert len(vendor.simulator.ledger.entries) == 1


async def test_closing_the_stream_hangs_up_at_once(vendor: Vendor) -> None:
    vendor.says(Script(chunks=1000, between_s=0.01))
    async with aclosing(vendor.stream()) as stream:
        await anext(stream)
    await until(lambda: vendor.served.outcome == "hung_up")
    assert vendor.served.chunks_sent < 500


async def test_cancelling_hangs_up_at_once(vendor: Vendor) -> None:
    vendor.says(Script(chunks=1000, between_s=0.01))
    task = asyncio.create_task(vendor.complete())
    await until(lambda: bool(vendor.simulator.ledger.entries) and vendor.served.chunks_sent > 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: vendor.served.outcome == "hung_up")


async def test_cancelling_before_the_first_token_hangs_up_at_once(vendor: Vendor) -> None:
    vendor.says(Script(headers_s=60))
    task = asyncio.create_task(vendor.complete())
    await until(lambda: bool(vendor.simulator.ledger.entries))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: vendor.served.outcome == "hung_up")


async def test_a_reader_that_takes_its_time_loses_nothing(vendor: Vendor) -> None:
    vendor.says(Script(text="x" * 4_000_000, chunk_size=50_000))
    size = taking = most_at_once = 0

    async def take_slowly() -> None:
        nonlocal taking, most_at_once
        taking += 1
        most_at_once = max(most_at_once, taking)
        await asyncio.sleep(0)
        taking -= 1

    def take(item: StreamItem) -> Awaitable[None] | None:
        nonlocal size
        if not isinstance(item, Chunk):
            return None
        size += len(item.text)
        return take_slowly()

    await vendor.adapter.stream_completion(vendor.call(), take)
    assert (size, most_at_once) == (4_000_000, 1)


@pytest.mark.parametrize("is_awaited", [False, True])
async def test_what_a_taker_raises_ends_the_call_and_is_raised(vendor: Vendor, is_awaited: bool) -> None:
    """Also where it looks like a bug of the adapter: whoever takes knows what it means."""
    vendor.says(Script(chunks=1000, between_s=0.01))
    broken = LookupError("no room")

    async def fail() -> None:
        raise broken

    def take(_: StreamItem) -> Awaitable[None]:
        if is_awaited:
            return fail()
        raise broken

    with pytest.raises(LookupError) as raised:
        await vendor.adapter.stream_completion(vendor.call(), take)
    assert raised.value is broken
    await until(lambda: vendor.served.outcome == "hung_up")


async def test_many_streams_run_at_once(vendor: Vendor) -> None:
    vendor.says(Script(text="one two three", between_s=0.05))
    completions = await asyncio.gather(*(vendor.complete() for _ in range(150)))
    assert {completion.message.content for completion in completions} == {"one two three"}


async def test_connections_are_used_again(vendor: Vendor) -> None:
    """Each call after the first would otherwise pay for a handshake."""
    for _ in range(20):
        await vendor.complete()
    assert vendor.simulator.connections == 1


async def test_the_key_goes_to_its_vendor_and_nowhere_else(vendor: Vendor, caplog: pytest.LogCaptureFixture) -> None:
    key = SecretStr("sk-proj-invalid-Qm3vTz81LpW0xx")
    caplog.set_level("DEBUG")
    _, failure = await vendor.fails(target=vendor.target(key=key))
    assert failure.code == ErrorCode.AUTHENTICATION_FAILED
    seen = f"{failure.message} {failure!r} {caplog.text}"
    for part in ("Qm3vTz", "0xx", key.get_secret_value()):
        assert part not in seen


async def test_a_key_with_characters_that_no_key_has_is_refused_before_a_call(vendor: Vendor) -> None:
    for key in ("schlüssel", "with blank", "with\nnewline"):
        _, failure = await vendor.fails(target=vendor.target(key=SecretStr(key)))
        assert failure.code == ErrorCode.AUTHENTICATION_FAILED
        assert key not in failure.message
    assert not vendor.simulator.ledger.entries


async def test_two_keys_never_mix(vendor: Vendor) -> None:
    other = SecretStr("sk-other-0000000000000000")
    await asyncio.gather(*(vendor.complete(target=vendor.target(key=key)) for key in (KEY, other) * 10))
    prints = [entry.key_fingerprint for entry in vendor.simulator.ledger.entries]
    assert sorted(prints.count(print_) for print_ in set(prints)) == [10, 10]


async def test_health_is_checked_with_the_key(vendor: Vendor) -> None:
    await vendor.adapter.check_health(vendor.target())
    with pytest.raises(AuthenticationFailed):
        await vendor.adapter.check_health(vendor.target(key=SecretStr("sk-invalid-0123456789")))


async def test_health_is_not_waited_for_long(vendor: Vendor) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silent) as port:
        target = vendor.target(base_url=f"http://127.0.0.1:{port}/v1", timeouts=Timeouts(total_s=0.1))
        with pytest.raises(Exception, match="total_s"):
            await vendor.adapter.check_health(target)


async def test_models_are_listed(vendor: Vendor) -> None:
    models = {model.id: model for model in await vendor.adapter.get_supported_models(vendor.target())}
    assert vendor.model in models
    assert models[vendor.model].context_window == vendor.traits.context_window


async def test_tokens_are_counted_and_costs_estimated(vendor: Vendor) -> None:
    asked = {"model": f"{vendor.name}/{vendor.model}", "messages": [{"role": "user", "content": "Say this is a test"}]}
    target = vendor.target()
    count = await vendor.adapter.count_tokens(CountTokens.model_validate(asked), model=vendor.model, target=target)
    cost = await vendor.adapter.estimate_cost(
        EstimateCost.model_validate({**asked, "max_tokens": 1000}), model=vendor.model, target=target, prices={}
    )
    assert count.input_tokens == cost.input_tokens
    assert cost.output_tokens == 1000
    assert bool(cost.cost and cost.cost.amount > 0) == vendor.traits.is_priced
