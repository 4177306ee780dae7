"""OpenAI's chat format, with the oddities of the servers that speak it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ErrorCode
from contracts.requests import AssistantMessage, CompletionRequest
from contracts.usage import Usage, UsageSource
from workers.providers.base import Chunk, Finish, Gathering
from workers.providers.openai.errors import ERRORS as OPENAI
from workers.providers.openai.reply import ChatReader
from workers.providers.openai.request import request_body


def reader() -> ChatReader:
    return ChatReader(provider="openai", classify=lambda body: OPENAI.from_body(body, provider="openai", key=None))


def sse(*events: dict[str, Any] | str) -> bytes:
    return b"".join(
        b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n" for event in events
    )


def delta(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m1", "choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def read(*events: dict[str, Any] | str) -> tuple[AssistantMessage, Finish]:
    chat = reader()
    gathering = Gathering()
    for chunk in (chat.feed(sse(*events)), chat.end()):
        if chunk:
            gathering.add(chunk)
    assert chat.error is None
    assert chat.finished
    return gathering.message(), chat.finish()


def calls_of(*tool_calls: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Name and arguments of the calls that these deltas make."""
    message, finish = read(*(delta(tool_calls=list(part)) for part in tool_calls), delta("tool_calls"), "[DONE]")
    assert finish.finish_reason == "tool_calls"
    assert message.tool_calls
    assert len({call.id for call in message.tool_calls}) == len(message.tool_calls)
    return [(call.function.name, call.function.arguments) for call in message.tool_calls]


def call(name: str | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {**fields, "function": function}


def test_what_came_together_is_one_chunk() -> None:
    assert reader().feed(sse(delta(content="a"), delta(content="b"), delta(reasoning_content="r"))) == Chunk(
        text="ab", reasoning="r"
    )


def test_a_role_alone_is_no_chunk() -> None:
    assert reader().feed(sse(delta(role="assistant", content=""))) is None


@pytest.mark.parametrize(
    ("parts", "calls"),
    [
        (
            [[call("f", "", index=0, id="a")], [call(None, '{"x"', index=0)], [call(None, ": 1}", index=0)]],
            [("f", '{"x": 1}')],
        ),
        ([[call("f", "{}", index=0, id="a"), call("g", "{}", index=1, id="b")]], [("f", "{}"), ("g", "{}")]),
        (
            [[call("f", "{", index=0, id="a")], [call("g", "[", index=1, id="b")], [call(None, "}", index=0)]],
            [("f", "{}"), ("g", "[")],
        ),
        ([[call("f", "{}", id="a")], [call("g", "{}", id="b")]], [("f", "{}"), ("g", "{}")]),
        ([[call("f", "{", id="a")], [call(None, "}")]], [("f", "{}")]),
        ([[call("f", "{", id="a")], [call(None, "}", id="a")]], [("f", "{}")]),
        ([[call("f", "{}")], [call("g", "{}")]], [("f", "{}"), ("g", "{}")]),
        ([[call("f", "{}", index=0, id="a")], [call("g", "{}", index=0, id="b")]], [("f", "{}"), ("g", "{}")]),
        ([[call("f", "{", index=0, id="a")], [call("f", "}", index=0, id="a")]], [("f", "{}")]),
        ([[call("f", "{", index=0, id="a")], [call(None, "}", index=0, id="other")]], [("f", "{}")]),
        ([[call("f", {"x": 1}, index=0, id="a")]], [("f", '{"x":1}')]),
        ([[call("f", None, index=0, id="a")]], [("f", "{}")]),
        ([[call("f", "{}", index="1", id="")]], [("f", "{}")]),
        ([[call("my tool!", "{}", index=0, id="a")]], [("my_tool_", "{}")]),
    ],
    ids=[
        "in fragments",
        "two whole ones at once",
        "interleaved",
        "without index",
        "fragments without index",
        "fragments with the id again",
        "without index and id",
        "two under one index",
        "the name again in each fragment",
        "another id in each fragment",
        "arguments as an object",
        "no arguments",
        "index as text",
        "a name that is none",
    ],
)
def test_puts_tool_calls_together(parts: list[list[dict[str, Any]]], calls: list[tuple[str, str]]) -> None:
    assert calls_of(*parts) == calls


def test_the_old_function_call_is_a_tool_call() -> None:
    message, finish = read(delta(function_call={"name": "f", "arguments": "{}"}), delta("function_call"), "[DONE]")
    assert message.tool_calls
    assert finish.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("said", "meant", "warns"),
    [
        ("stop", "stop", False),
        ("length", "length", False),
        ("max_tokens", "length", False),
        ("content_filter", "content_filter", False),
        ("MAX_TOKENS", "length", False),
        ("content-filter", "content_filter", False),
        ("tool_calls", "stop", True),
        ("function_call", "stop", True),
        ("whatever", "stop", True),
        ("null", "stop", True),
        (None, "stop", True),
    ],
)
def test_finish_reasons_mean_the_same_everywhere(said: str | None, meant: str, warns: bool) -> None:
    _, finish = read(delta(content="x"), delta(said), "[DONE]")
    assert (finish.finish_reason, bool(finish.warnings)) == (meant, warns)


@pytest.mark.parametrize("said", ["stop", "tool_calls", "whatever", None])
def test_a_reply_with_tool_calls_finishes_for_them(said: str | None) -> None:
    _, finish = read(delta(tool_calls=[call("f", "{}", index=0, id="a")]), delta(said), "[DONE]")
    assert finish.finish_reason == "tool_calls"


def test_a_tool_call_that_was_cut_off_finished_for_length() -> None:
    _, finish = read(delta(tool_calls=[call("f", "{", index=0, id="a")]), delta("length"), "[DONE]")
    assert finish.finish_reason == "length"


@pytest.mark.parametrize("said", ["error", "abort", "insufficient_system_resource", "network_error"])
def test_a_reply_that_its_server_broke_off_is_interrupted(said: str) -> None:
    chat = reader()
    assert chat.feed(sse(delta(content="half"), delta(said))) == Chunk(text="half")
    assert chat.error
    assert chat.error.code == ErrorCode.STREAM_INTERRUPTED


def test_nothing_but_the_end_marker_is_no_reply() -> None:
    chat = reader()
    chat.feed(sse("[DONE]"))
    assert chat.done
    assert not chat.finished


def test_an_end_without_usage_is_an_end() -> None:
    _, finish = read(delta(content="x"), delta("stop"))
    assert finish.usage is None


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "reasoning_text", "thinking"])
@pytest.mark.parametrize(
    "thought",
    [
        "hmm",
        ["h", "mm"],
        {"text": "hmm"},
        {"content": "hmm", "type": "thinking"},
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]}],
    ],
    ids=repr,
)
def test_reasoning_has_many_names_and_forms(field: str, thought: Any) -> None:
    message, _ = read(delta(**{field: thought}), delta("stop"))
    assert message.reasoning == "hmm"
    assert read({"choices": [{"message": {field: thought}, "finish_reason": "stop"}]})[0].reasoning == "hmm"


def test_copilot_gets_its_reasoning_back_as_it_came() -> None:
    message, finish = read(delta(reasoning_text="hmm"), delta(reasoning_opaque="o"), delta("stop", content="yes"))
    assert (message.reasoning, message.content) == ("hmm", "yes")
    assert finish.provider_data == {
        "openai": {"reasoning_field": "reasoning_text", "message": {"reasoning_opaque": "o"}}
    }


def test_a_thought_is_followed_to_a_depth() -> None:
    thought: Any = "deep"
    for _ in range(200):
        thought = {"text": thought}
    assert read(delta(reasoning=thought), delta("stop", content="yes"))[0].reasoning is None


def test_reasoning_under_both_names_is_said_once() -> None:
    message, _ = read(delta(reasoning="hmm", reasoning_content="hmm"), delta("stop"))
    assert message.reasoning == "hmm"


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({"reasoning_details": [{"type": "reasoning.text", "text": "hmm"}]}, "hmm"),
        ({"reasoning_details": [{"type": "reasoning.summary", "summary": "hmm"}, 5, {"data": "x"}]}, "hmm"),
        ({"reasoning": "hmm", "reasoning_details": [{"type": "reasoning.text", "text": "hmm"}]}, "hmm"),
        ({"reasoning_content": {"odd": 1}, "reasoning": "hmm"}, "hmm"),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "hmm", "signature": "s"}]}, "hmm"),
        ({"reasoning": "hmm", "thinking_blocks": [{"type": "thinking", "thinking": "hmm"}]}, "hmm"),
    ],
)
def test_reasoning_may_stand_in_its_details(fields: dict[str, Any], reasoning: str) -> None:
    message, _ = read(delta(**fields), delta(content="yes"), delta("stop"))
    assert (message.reasoning, message.content) == (reasoning, "yes")


def test_details_repeat_reasoning_that_came_before_them() -> None:
    message, _ = read(
        delta(reasoning="hmm"), delta(reasoning_details=[{"text": "hmm", "signature": "s"}]), delta("stop")
    )
    assert message.reasoning == "hmm"


def test_what_a_server_wants_back_is_in_the_finish() -> None:
    signed = {"google": {"thought_signature": "s"}}
    details = [{"type": "reasoning.text", "text": "hmm", "signature": "t", "index": 0}]
    _, finish = read(
        delta(reasoning="hmm", reasoning_details=[{**details[0], "signature": None}]),
        delta(reasoning_details=[{**details[0], "text": ""}], reasoning_opaque="o"),
        delta(tool_calls=[call("f", "{}", index=0, id="a", extra_content=signed)]),
        delta("tool_calls"),
    )
    assert finish.provider_data == {
        "openai": {
            "reasoning_field": "reasoning",
            "message": {"reasoning_details": details, "reasoning_opaque": "o"},
            "tool_calls": [{"extra_content": signed}],
        }
    }


def test_a_server_that_wants_nothing_back_gets_nothing() -> None:
    _, finish = read(delta(content="x", extra_content={}), delta("stop"))
    assert finish.provider_data is None


@pytest.mark.parametrize(
    "thinking",
    [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hmm"}]},
        {"type": "thinking", "thinking": "hmm"},
        {"type": "reasoning", "reasoning": "hmm"},
        {"type": "reasoning", "summary": [{"text": "hmm"}]},
    ],
)
def test_content_can_come_as_parts(thinking: dict[str, Any]) -> None:
    message, _ = read(delta(content=[thinking]), delta(content=[{"type": "text", "text": "yes"}, 7]), delta("stop"))
    assert (message.reasoning, message.content) == ("hmm", "yes")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (5, "5"),
        (0, "0"),
        (1.5, "1.5"),
        (True, None),
        (["a", "b"], "ab"),
        ({"type": "text", "text": "a"}, "a"),
        ([{"type": "text", "text": {"value": "a", "annotations": []}}], "a"),
        ([{"text": "a"}, {"type": "output_text", "text": "b"}, {"type": "image_url", "text": "no"}], "ab"),
    ],
)
def test_content_of_another_type_is_read_as_far_as_it_is_text(content: Any, text: str | None) -> None:
    message, _ = read(delta(content=content), delta("stop"))
    assert message.content == text


ODD_VALUES = ["", {}, [], False, 0, 0.5, "none", ["a"], {"a": 1}, None]


@pytest.mark.parametrize("odd", ODD_VALUES, ids=repr)
@pytest.mark.parametrize(
    "field",
    [
        *("id", "model", "object", "usage", "service_tier", "x_groq"),
        *("choices.0.index", "choices.0.finish_reason", "choices.0.usage", "choices.0.message", "choices.0.logprobs"),
        *("choices.0.delta.role", "choices.0.delta.reasoning", "choices.0.delta.tool_calls"),
        *("choices.0.delta.function_call", "choices.0.delta.extra_content", "choices.0.delta.reasoning_details"),
    ],
)
def test_an_odd_field_is_left_out_and_what_stands_beside_it_counts(field: str, odd: Any) -> None:
    event = with_field(delta(content="lo"), field, odd)
    message, finish = read(delta(content="Hel"), event, {**delta("stop"), "usage": USAGE}, "[DONE]")
    assert (message.content, message.tool_calls, finish.finish_reason) == ("Hello", None, "stop")
    assert finish.usage
    assert finish.usage.output_tokens == 20


def test_odd_choices_hold_nothing() -> None:
    odd = [{"choices": {}}, {"choices": ""}, {"choices": [{"delta": []}, 5]}, {"choices": [{"delta": "lo"}]}]
    message, _ = read(delta(content="Hel"), *odd, {"choices": [{"delta": {"content": "lo"}}]}, delta("stop"))
    assert message.content == "Hello"


def wrapped(form: str, event: dict[str, Any]) -> Any:
    match form:
        case "object":
            return {**event, "choices": event["choices"][0]}
        case "list":
            return json.dumps([event])
        case "text":
            return json.dumps(json.dumps(event))
        case envelope:
            return {"code": 200, "message": "success", envelope: event}


FORMS = ["object", "list", "text", "data", "result", "response"]


@pytest.mark.parametrize("form", FORMS)
def test_chunks_may_stand_in_a_wrapping(form: str) -> None:
    events = [delta(content="Hel"), delta(content="lo"), {**delta("stop"), "usage": USAGE}]
    message, finish = read(*(wrapped(form, event) for event in events), "[DONE]")
    assert (message.content, finish.finish_reason) == ("Hello", "stop")
    assert finish.usage


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_reply_may_stand_in_a_wrapping(form: str) -> None:
    reply = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}], "usage": USAGE}
    body = wrapped(form, reply)
    message, finish = read(body if isinstance(body, str) else json.dumps(body))
    assert (message.content, finish.finish_reason) == ("Hello", "stop")


@pytest.mark.parametrize("event", [[[[]]], [5, {"x": 1}], {"data": {"data": {"choices": []}}}, {"data": []}, '"{}"'])
def test_a_wrapping_without_a_chunk_says_nothing(event: Any) -> None:
    message, _ = read(delta(content="a"), event if isinstance(event, str) else json.dumps(event), delta("stop"))
    assert message.content == "a"


def test_a_choice_may_be_one_of_the_older_api() -> None:
    message, finish = read({"choices": [{"text": "Hel"}]}, {"choices": [{"text": "lo", "finish_reason": "length"}]})
    assert (message.content, finish.finish_reason) == ("Hello", "length")


def test_a_single_call_may_stand_without_a_list() -> None:
    message, _ = read(delta("tool_calls", tool_calls=call("f", "{}", id="a")))
    assert message.tool_calls
    assert message.tool_calls[0].function.name == "f"


def test_a_count_with_a_fraction_does_not_cost_the_text_beside_it() -> None:
    usage = {"prompt_tokens": 10.0, "completion_tokens": 5.6, "prompt_tokens_details": {"cached_tokens": ""}}
    message, finish = read({**delta("stop", content="Hello"), "usage": usage}, "[DONE]")
    assert (message.content, finish.finish_reason) == ("Hello", "stop")
    assert finish.usage == Usage(input_tokens=10, output_tokens=6, source=UsageSource.VENDOR)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"choices": [{"delta": {"content": "a \xf0\x9f"}}]}', "a \ufffd"),
        (b'{"choices": [{"delta": {"content": "a \\ud83d"}}]}', "a \ufffd"),
        (b'{"choices": [{"delta": {"content": "a\tb"}, "logprobs": NaN}]}', "a\tb"),
    ],
    ids=["no UTF-8", "half a surrogate pair", "a control character"],
)
def test_what_is_not_quite_json_is_read(data: bytes, text: str) -> None:
    chat = reader()
    chunk = chat.feed(b"data: " + data + b"\n\n")
    assert chat.error is None
    assert chunk
    assert chunk.text == text


def test_a_refusal_is_kept_apart() -> None:
    message, finish = read(delta(refusal="I can"), delta(refusal="not."), delta("stop"))
    assert (message.refusal, message.content, finish.finish_reason) == ("I cannot.", None, "stop")


def test_the_calls_of_a_reply_may_stand_in_a_choice_of_their_own() -> None:
    text = {"message": {"content": "I look."}, "finish_reason": "tool_calls"}
    calls = {"message": {"tool_calls": [call("f", "{}", id="a")]}, "finish_reason": "tool_calls"}
    for choices in ([text, calls], [{**text, "index": 0}, {**calls, "index": 1}]):
        message, finish = read({"choices": choices})
        assert (message.content, finish.finish_reason, finish.warnings) == ("I look.", "tool_calls", ())
        assert message.tool_calls
        assert message.tool_calls[0].function.name == "f"


def test_further_choices_are_ignored() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "length"}]}
    message, finish = read(delta(content="yes"), other, delta("stop"), other)
    assert (message.content, finish.finish_reason) == ("yes", "stop")


USAGE = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [], "usage": USAGE},
        {"usage": USAGE},
        {**delta(content=""), "usage": USAGE},
        {"choices": [{"index": 0, "delta": {}, "usage": USAGE}]},
        {"choices": [], "x_groq": {"usage": USAGE}},
        {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}, "x_groq": {"usage": USAGE}},
    ],
    ids=["own chunk", "no choices", "with choices", "Moonshot", "Groq", "Groq, beside zeros"],
)
def test_usage_stands_in_several_places(event: dict[str, Any]) -> None:
    _, finish = read(delta(content="x"), delta("stop"), event, "[DONE]")
    assert finish.usage == Usage(input_tokens=10, output_tokens=20, source=UsageSource.VENDOR)


def test_the_last_running_total_counts() -> None:
    _, finish = read(
        {**delta(content="x"), "usage": {**USAGE, "completion_tokens": 1}}, {**delta("stop"), "usage": USAGE}
    )
    assert finish.usage
    assert finish.usage.output_tokens == 20


NOTHING = {"prompt_tokens": 0, "completion_tokens": None, "total_tokens": 0}


@pytest.mark.parametrize("nothing", [NOTHING, {}, [], {"total_tokens": 30}, {"prompt_tokens": -1}])
def test_a_usage_of_nothing_is_none(nothing: Any) -> None:
    chat = reader()
    chat.feed(sse(delta(content="x"), delta("stop"), {"choices": [], "usage": nothing}))
    assert chat.stated is None
    assert chat.finish().usage is None


def test_a_count_of_more_digits_than_a_float_holds_is_left_out_beside_an_odd_field() -> None:
    usage = {"prompt_tokens": 10**400, "completion_tokens": 20}
    _, finish = read(delta("stop", content="a"), {"id": 5, "choices": [], "usage": usage}, "[DONE]")
    assert finish.usage
    assert (finish.usage.input_tokens, finish.usage.output_tokens) == (0, 20)


@pytest.mark.parametrize("nothing", [NOTHING, {}, [], {"prompt_tokens": -1, "completion_tokens": 2**64 - 1}])
def test_a_usage_of_nothing_takes_the_place_of_no_other(nothing: Any) -> None:
    chat = reader()
    chat.feed(sse(delta(content="x"), {**delta("stop"), "usage": USAGE}))
    stated = chat.stated
    chat.feed(sse({"choices": [], "usage": nothing}, "[DONE]"))
    assert chat.stated is stated
    assert chat.finish().usage == Usage(input_tokens=10, output_tokens=20, source=UsageSource.VENDOR)


def test_azures_first_chunk_names_nothing() -> None:
    first = {"choices": [], "id": "", "model": "", "prompt_filter_results": [{"prompt_index": 0}]}
    _, finish = read(first, delta(content="x"), delta("stop"))
    assert (finish.response_id, finish.response_model) == ("c1", "m1")


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"error": {"message": "boom", "type": "server_error", "code": None}}, ErrorCode.PROVIDER_UNAVAILABLE),
        ({"error": {"message": "slow", "type": "overloaded_error"}}, ErrorCode.OVERLOADED),
        ({"error": {"message": "bad", "code": 400}}, ErrorCode.INVALID_REQUEST),
        ({"error": {"message": "gateway", "code": 502}, **delta("error")}, ErrorCode.PROVIDER_UNAVAILABLE),
        ({"error": {"message": "no", "code": "tool_use_failed", "status_code": 400}}, ErrorCode.INVALID_REQUEST),
        ({"error": {"message": "filtered", "code": "content_filter", "status": 400}}, ErrorCode.CONTENT_FILTERED),
        ({"error": "boom"}, ErrorCode.PROVIDER_UNAVAILABLE),
        ({"object": "error", "message": "boom", "type": "BadRequestError", "code": 400}, ErrorCode.INVALID_REQUEST),
        ({"message": "Too many requests", "code": 429}, ErrorCode.RATE_LIMITED),
        ({"detail": "boom"}, ErrorCode.PROVIDER_UNAVAILABLE),
        (
            {"choices": [{"delta": {}, "finish_reason": "error", "error": {"message": "slow", "code": 429}}]},
            ErrorCode.RATE_LIMITED,
        ),
        ({"status": "449", "msg": "You exceeded your current rate limit"}, ErrorCode.RATE_LIMITED),
    ],
)
def test_an_error_in_the_stream_is_one_in_any_form(event: dict[str, Any], code: ErrorCode) -> None:
    chat = reader()
    assert chat.feed(sse(delta(content="half"), event, "[DONE]")) == Chunk(text="half")
    assert chat.error
    assert (chat.error.code, chat.error.provider) == (code, "openai")


def test_an_error_event_is_an_error_whatever_it_holds() -> None:
    chat = reader()
    chat.feed(b'event: error\ndata: {"reason": "boom"}\n\n')
    assert chat.error


def test_the_error_line_of_older_llama_servers_is_an_error() -> None:
    chat = reader()
    chat.feed(sse(delta(content="a")) + b'error: {"code": 503, "message": "Loading model"}\n\n')
    assert chat.error
    assert chat.error.code == ErrorCode.OVERLOADED


def test_pings_and_foreign_events_are_skipped() -> None:
    chat = reader()
    assert chat.feed(b": ping\n\nevent: ping\ndata: ping\n\ndata: {}\n\n" + sse({"x": 1}, delta(content="a"))) == Chunk(
        "a"
    )
    assert chat.error is None


@pytest.mark.parametrize(
    "done",
    [
        "data: [DONE]",
        "data:[DONE]\n\n",
        "data:  [DONE]  \n\n",
        'data: "[DONE]"\n\n',
        "data: [done]\n\n",
        "data:\ndata: [DONE]\r\n\r\n",
    ],
)
def test_the_end_marker_has_many_forms(done: str) -> None:
    chat = reader()
    chat.feed(sse(delta(content="a")) + done.encode())
    chat.end()
    assert (chat.error, chat.done, chat.finished) == (None, True, True)


def test_nothing_is_waited_for_behind_the_end_marker_when_the_usage_has_come() -> None:
    chat = reader()
    chat.feed(sse({**delta("stop", content="a"), "usage": USAGE}, "[DONE]"))
    assert chat.done


def test_usage_may_stand_behind_the_end_marker() -> None:
    chat = reader()
    assert chat.feed(sse(delta(content="a"), delta("stop"), "[DONE]")) == Chunk("a")
    assert (chat.done, chat.finished) == (False, True)
    chat.feed(sse("bye", delta(content="b")))
    assert chat.feed(sse({"choices": [], "usage": USAGE})) is None
    assert (chat.error, chat.done) == (None, True)
    assert chat.finish().usage


@pytest.mark.parametrize(
    "keep_alive",
    [
        b": ping\n\n",
        b"data:\n\n",
        b"data: \n\n",
        b"data: ping\n\n",
        b"data: : waiting\n\n",
        b"retry: 3000\n\n",
        b"id: 7\n\n",
    ],
)
def test_what_keeps_a_connection_alive_says_nothing(keep_alive: bytes) -> None:
    chat = reader()
    events = [sse(delta(content="a")), sse(delta(content="b")), sse(delta("stop")), sse("[DONE]")]
    chunks = [chat.feed(keep_alive + event + keep_alive) for event in events]
    assert [*chunks, chat.end()] == [Chunk("a"), Chunk("b"), None, None, None]
    assert (chat.error, chat.done) == (None, True)


FIRST, SECOND, LAST = (
    json.dumps(event).encode() for event in (delta(content="Hel"), delta(content="lo"), delta("stop"))
)


@pytest.mark.parametrize(
    "body",
    [
        b"data: " + FIRST + b"\ndata: " + SECOND + b"\ndata: " + LAST + b"\ndata: [DONE]\n",
        b"data: " + FIRST + SECOND + LAST + b"\n\ndata: [DONE]\n\n",
        b"data: " + FIRST + b"data: " + SECOND + b"\n\ndata: " + LAST + b" [DONE]\n\n",
        FIRST + b"\n" + SECOND + b"\n" + LAST + b"\n",
        FIRST + b"\n\ndata: " + SECOND + b"\n\ndata: " + LAST + b"\n\ndata: [DONE]\n\n",
        b"\xef\xbb\xbfdata: " + FIRST + b"\r\rdata: " + SECOND + b"\r\rdata: " + LAST,
    ],
    ids=["one line end between", "in one line", "a line end missing", "a line each", "the first without a field", "CR"],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunks_are_told_apart_where_their_events_are_not(body: bytes, size: int) -> None:
    chat = reader()
    gathering = Gathering()
    for piece in [*(body[at : at + size] for at in range(0, len(body), size)), b""]:
        if chunk := chat.feed(piece) if piece else chat.end():
            gathering.add(chunk)
    assert chat.error is None
    assert (gathering.message().content, chat.finish().finish_reason, chat.finish().warnings) == ("Hello", "stop", ())


def test_a_chunk_that_is_cut_behind_a_whole_one_costs_only_itself() -> None:
    chat = reader()
    assert chat.feed(b"data: " + FIRST + b'{"choices": [') is None
    assert chat.end() == Chunk("Hel")
    assert (chat.error, chat.finished) == (None, False)


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": "Hello"}},
        {"message": {"content": "Hello"}, "delta": {}},
        {"message": {"content": "Hello"}, "delta": {"role": "assistant", "content": ""}},
        {"message": {"content": "Hello"}, "delta": {"content": "Hello"}},
        {"message": {"content": ""}, "delta": {"content": "Hello"}},
    ],
)
def test_a_message_beside_a_delta_counts_once(choice: dict[str, Any]) -> None:
    chat = reader()
    chat.feed(json.dumps({"choices": [{"index": 0, **choice, "finish_reason": "stop"}]}).encode())
    assert chat.end() == Chunk("Hello")


def test_a_message_that_repeats_all_deltas_adds_only_what_they_left_out() -> None:
    def chunk(new: str, whole: str, reason: str | None = None, **fields: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": whole, **fields}
        return {"choices": [{"index": 0, "delta": {"content": new}, "message": message, "finish_reason": reason}]}

    calls = [call("f", "{}", id="a")]
    message, finish = read(
        chunk("", ""), chunk("Hel", "Hel"), chunk("lo", "Hello"), chunk("", "Hello", "stop", tool_calls=calls)
    )
    assert message.content == "Hello"
    assert message.tool_calls
    assert [made.id for made in message.tool_calls] == ["a"]
    assert finish.finish_reason == "tool_calls"


def test_messages_in_place_of_deltas_are_a_stream() -> None:
    first, second = ({"choices": [{"message": {"content": text}}]} for text in ("Hel", "lo"))
    message, _ = read(first, second, delta("stop"))
    assert message.content == "Hello"


def test_an_answer_of_nothing_is_one_with_a_warning() -> None:
    message, finish = read(delta(role="assistant", content=""), delta("stop"), "[DONE]")
    assert (message.content, finish.finish_reason, finish.warnings) == (None, "stop", ("openai gave an empty answer",))


def test_an_answer_that_was_cut_before_it_began_says_so_by_its_reason() -> None:
    _, finish = read(delta("length"), "[DONE]")
    assert (finish.finish_reason, finish.warnings) == ("length", ())


def test_what_comes_after_a_finish_reason_counts() -> None:
    message, finish = read(delta("stop", content="Hel"), delta(content="lo"), delta("stop"), "[DONE]")
    assert (message.content, finish.finish_reason) == ("Hello", "stop")


def test_a_chunk_knows_how_many_deltas_are_in_it() -> None:
    chat = reader()
    chunk = chat.feed(
        sse(delta(role="assistant"), delta(content="a"), delta(content="b"), delta(reasoning="r"), delta(""))
    )
    assert chunk
    assert chunk.pieces == 3
    chunk = chat.feed(sse(delta(content="c")))
    assert chunk
    assert chunk.pieces == 1


def test_a_whole_reply_is_read_where_a_stream_was_asked() -> None:
    chat = reader()
    body = json.dumps(
        {
            "id": "c1",
            "model": "m1",
            "choices": [
                {
                    "index": 0,
                    "message": {"content": "Olá", "tool_calls": [call("f", "{}", id="a")]},
                    "finish_reason": "tool_calls",
                }
            ],
            "usage": USAGE,
        },
        indent=1,
    ).encode()
    pieces = b"\n  " + body
    assert [chat.feed(pieces[at : at + 1]) for at in range(len(pieces))] == [None] * len(pieces)
    chunk = chat.end()
    assert chunk
    assert (chunk.text, chunk.tool_calls[0].name) == ("Olá", "f")
    assert chat.finish().finish_reason == "tool_calls"


def test_half_a_whole_reply_is_none() -> None:
    chat = reader()
    chat.feed(b'{"choices": [{"index": 0, "mess')
    assert chat.end() is None
    assert not chat.finished


def test_an_event_that_is_no_json_interrupts() -> None:
    chat = reader()
    assert chat.feed(sse(delta(content="a"), '{"choices": [')) == Chunk(text="a")
    assert chat.error
    assert chat.error.code == ErrorCode.STREAM_INTERRUPTED


def test_an_event_that_is_no_json_costs_nothing_behind_the_finish_reason() -> None:
    message, finish = read(delta("stop", content="a"), "bye", {"choices": [], "usage": USAGE}, "[DONE]")
    assert message.content == "a"
    assert finish.usage


def test_the_body_holds_what_was_asked_and_nothing_else() -> None:
    request = CompletionRequest.model_validate(
        {
            "id": "r",
            "tenant": "t",
            "agent": "a",
            "model": "openai/gpt-4o",
            "messages": [
                {
                    "role": "assistant",
                    "content": "x",
                    "reasoning": "hidden",
                    "provider_data": {"anthropic": {"signature": "s"}},
                }
            ],
            "metadata": {"run": 1},
        }
    )
    body = request_body(request, model="gpt-4o", max_tokens_field="max_completion_tokens", stream_options=None)
    assert body == {"model": "gpt-4o", "messages": [{"role": "assistant", "content": "x"}], "stream": True}


@pytest.mark.parametrize("data", [b'[{"choices": [', b'{"choices": 1, "id": "', b'data: {"choices": 1, "id'])
def test_what_is_cut_in_another_form_is_not_finished(data: bytes) -> None:
    chat = reader()
    assert chat.feed(data) is None
    assert chat.end() is None
    assert (chat.finished, chat.error) == (False, None)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
BESIDE_THE_TEXT = (
    *("id", "model", "object", "created", "usage", "service_tier", "x_groq", "usage.prompt_tokens", "x_groq.usage"),
    *("usage.prompt_tokens_details", "usage.prompt_tokens_details.cached_tokens", "usage.total_tokens"),
    *("choices.0.logprobs", "choices.0.usage", "choices.0.message", "choices.0.delta.role", "choices.0.delta.refusal"),
    *("choices.0.delta.reasoning", "choices.0.delta.reasoning_content", "choices.0.delta.reasoning_details"),
    *("choices.0.delta.thinking_blocks", "choices.0.delta.reasoning_opaque", "choices.0.delta.extra_content"),
    *("choices.0.delta.function_call", "choices.0.delta.tool_calls", "choices.0.delta.tool_calls.0"),
    *("choices.0.delta.tool_calls.0.index", "choices.0.delta.tool_calls.0.id"),
    *("choices.0.delta.tool_calls.0.extra_content", "choices.0.delta.tool_calls.0.function"),
    *("choices.0.delta.tool_calls.0.function.name", "choices.0.delta.tool_calls.0.function.arguments"),
)


def with_field(event: Any, field: str, value: Any) -> Any:
    """`event`, changed in place; the field's parents are made where they are missing."""
    *way, last = field.split(".")
    place = event
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    place[int(last) if isinstance(place, list) else last] = value
    return event


def read_in_pieces(body: bytes, size: int) -> tuple[AssistantMessage, Finish, ChatReader]:
    """As far as a reply is read: to its end, or to an error. Ids of tool calls are left out: some are ours."""
    chat = reader()
    gathering = Gathering()
    for piece in [*(body[at : at + size] for at in range(0, len(body), size)), b""]:
        if chat.error or chat.done:
            break
        if chunk := chat.feed(piece) if piece else chat.end():
            gathering.add(chunk)
    finish = chat.finish()
    message = gathering.message(finish.provider_data)
    calls = tuple(made.model_copy(update={"id": "?"}) for made in message.tool_calls or ())
    return message.model_copy(update={"tool_calls": calls}), finish, chat


@given(field=st.sampled_from(BESIDE_THE_TEXT), value=ANYTHING)
def test_no_value_of_a_field_costs_the_text_beside_it(field: str, value: Any) -> None:
    event = delta(content="lo", tool_calls=[{**call("f", "{}"), "index": 0, "id": "a"}])
    body = sse(delta(content="Hel"), with_field(event, field, value), {**delta("stop"), "usage": USAGE}, "[DONE]")
    message, finish, chat = read_in_pieces(body, len(body))
    assert chat.error is None
    assert message.content == "Hello"
    assert finish.finish_reason in ("stop", "tool_calls")
    assert finish.usage
    assert (finish.usage.input_tokens, finish.usage.output_tokens) == (10, 20)


@given(
    field=st.sampled_from(
        (*BESIDE_THE_TEXT, "choices", "choices.0", "choices.0.delta", "choices.0.delta.content", "error")
    ),
    value=ANYTHING,
    size=st.integers(1, 50),
)
def test_no_cut_changes_what_is_read(field: str, value: Any, size: int) -> None:
    event = delta(content="lo", tool_calls=[{**call("f", "{}"), "index": 0, "id": "a"}])
    body = sse(delta(content="Hel"), with_field(event, field, value), {**delta("stop"), "usage": USAGE}, "[DONE]")
    whole, in_pieces = read_in_pieces(body, len(body)), read_in_pieces(body, size)
    assert in_pieces[0] == whole[0]
    assert str(in_pieces[2].error) == str(whole[2].error)
    assert whole[2].error or in_pieces[1] == whole[1]


_DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "content": st.sampled_from(["", "a", " bc", "a", None, 7, [{"type": "text", "text": "d"}]]),
        "reasoning_content": st.sampled_from(["", "r", None]),
        "refusal": st.sampled_from(["no", None]),
        "role": st.just("assistant"),
        "tool_calls": st.just([{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]),
    },
)
_CHUNKS = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries(
                {"delta": _DELTAS},
                optional={"index": st.sampled_from([0, 1, None]), "finish_reason": st.sampled_from([None, "stop"])},
            ),
            max_size=2,
        )
    },
    optional={
        "id": st.just("x"),
        "model": st.just("m"),
        "service_tier": st.sampled_from(["flex", None]),
        "usage": st.sampled_from([None, {"prompt_tokens": 1, "completion_tokens": 2}]),
    },
)


@given(st.lists(_CHUNKS, max_size=8))
def test_a_chunk_that_comes_alone_says_what_it_says_among_others(chunks: list[dict[str, Any]]) -> None:
    events = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    texts = [
        b"data: " + json.dumps({"id": "x", "model": "m", "choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"
        for text in ("one", " two")
    ]
    alone, together = reader(), reader()
    said_alone, said_together = Gathering(), Gathering()
    for event in [*texts, *events]:
        if (chunk := alone.feed(event)) is not None:
            said_alone.add(chunk)
        if alone.done or alone.error:
            break
    if (chunk := together.feed(b"".join([*texts, *events]))) is not None:
        said_together.add(chunk)
    for one, gathering in ((alone, said_alone), (together, said_together)):
        if not (one.done or one.error) and (chunk := one.end()) is not None:
            gathering.add(chunk)
    assert said_alone.message() == said_together.message()
    if not said_alone.message().tool_calls:  # a call is passed on when it is certain, as one piece
        assert said_alone.pieces == said_together.pieces
    assert (alone.finished, str(alone.error)) == (together.finished, str(together.error))
    assert alone.finish() == together.finish()
