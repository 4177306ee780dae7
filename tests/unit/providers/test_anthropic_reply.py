"""Replies in the format of Anthropic's Messages API, streamed and whole."""

import json
import time
from collections.abc import Callable
from typing import Any, get_args

import pytest

from contracts.errors import ErrorCode
from contracts.requests import AssistantMessage
from contracts.usage import Usage, UsagePart, UsageSource
from workers.providers.anthropic import usage as anthropic_usage
from workers.providers.anthropic.errors import ERRORS
from workers.providers.anthropic.reply import MessageReader
from workers.providers.base import Chunk, Finish, Gathering, Stated
from workers.providers.shared.replies.token_counts import MAX_PARTS

USAGE = {"input_tokens": 3, "output_tokens": 1}


def reader() -> MessageReader:
    return MessageReader(
        classify=lambda body: ERRORS.from_body(body, provider="anthropic", key=None), warnings=("before",)
    )


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def start(**usage: Any) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "model": "m1", "content": [], "usage": {**USAGE, **usage}}
    return {"type": "message_start", "message": message}


def block(*deltas: dict[str, Any], index: int = 0, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": fields},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text(*parts: str, index: int = 0) -> list[dict[str, Any]]:
    return block(*({"type": "text_delta", "text": part} for part in parts), index=index, type="text", text="")


def call(*fragments: str, index: int = 0, **fields: Any) -> list[dict[str, Any]]:
    deltas = ({"type": "input_json_delta", "partial_json": fragment} for fragment in fragments)
    return block(
        *deltas, index=index, **{"type": "tool_use", "id": f"toolu_{index}", "name": "f", "input": {}, **fields}
    )


def stop(reason: Any = "end_turn", *, details: Any = None, **usage: Any) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None, "stop_details": details}
    return [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9, **usage}},
        {"type": "message_stop"},
    ]


def read(*events: dict[str, Any]) -> tuple[AssistantMessage, Finish]:
    return read_stream(sse(*events))


def read_stream(data: bytes) -> tuple[AssistantMessage, Finish]:
    """Read at once, and byte by byte, which must not differ."""
    found = [_read(data, size) for size in (1, 1_000_000)]
    assert found[0] == found[1]
    return found[0]


def without(field: str, *events: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: value for name, value in event.items() if name != field} for event in events]


def _read(data: bytes, size: int) -> tuple[AssistantMessage, Finish]:
    messages = reader()
    gathering = Gathering()
    for at in range(0, len(data), size):
        if chunk := messages.feed(data[at : at + size]):
            gathering.add(chunk)
    assert messages.error is None
    assert messages.finished
    finish = messages.finish()
    return gathering.message(finish.provider_data), finish


def calls_of(message: AssistantMessage) -> list[tuple[str, str, str]]:
    return [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]


def blocks_of(finish: Finish) -> list[dict[str, Any]]:
    data: Any = finish.provider_data
    return data["anthropic"]["content"]


def test_what_came_together_is_one_chunk() -> None:
    assert reader().feed(sse(start(), *text("a", "b"), *text("c", index=1))) == Chunk(text="abc")


def test_pings_and_events_of_later_versions_are_skipped() -> None:
    message, finish = read(start(), {"type": "ping"}, *text("a"), {"type": "news", "delta": {"x": 1}}, *stop())
    assert (message.content, finish.finish_reason, finish.response_id, finish.response_model) == (
        "a",
        "stop",
        "msg_1",
        "m1",
    )
    assert finish.warnings == ("before",)


def test_plain_replies_need_nothing_back() -> None:
    message, _ = read(start(), *text("a"), *call('{"x": 1}', index=1, caller={"type": "direct"}), *stop("tool_use"))
    assert message.provider_data is None


@pytest.mark.parametrize(
    ("fragments", "given", "arguments"),
    [
        (['{"x"', ": 1}"], {}, '{"x": 1}'),
        ([""], {}, "{}"),
        ([], {}, "{}"),
        ([], {"x": 1}, '{"x":1}'),
        ([], '{"x": 1}', '{"x": 1}'),
        ([], None, "{}"),
        ([], "null", "{}"),
        ([], [], "{}"),
        (['{"x"', ": 1}"], {"x": 2}, '{"x": 1}'),
        (["null"], {}, "{}"),
        (["n", "ul", "l"], {}, "{}"),
        (["{", "}"], {}, "{}"),
        (["{}", '{"x"', ": 1}"], {}, '{"x": 1}'),
        (["null", '{"x": 1}'], {}, '{"x": 1}'),
        (["{}"], {"x": 1}, '{"x":1}'),
        ([" "], {}, "{}"),
        (["n", "o"], {}, "no"),
    ],
    ids=[
        "in fragments",
        "without arguments",
        "without fragments",
        "whole at its beginning",
        "a text at its beginning",
        "null at its beginning",
        "the text null at its beginning",
        "a list at its beginning",
        "at its beginning and in fragments",
        "null",
        "null in fragments",
        "nothing in fragments",
        "an empty object before them",
        "null before them",
        "at its beginning and as an empty object",
        "blank",
        "no object",
    ],
)
def test_puts_tool_calls_together(fragments: list[str], given: Any, arguments: str) -> None:
    message, finish = read(
        start(), *text("a"), *call(*fragments, index=1, input=given), *call(index=2), *stop("tool_use")
    )
    assert calls_of(message) == [("toolu_1", "f", arguments), ("toolu_2", "f", "{}")]
    assert finish.finish_reason == "tool_calls"


def test_a_call_without_its_stop_is_whole_at_the_end() -> None:
    message, _ = read(start(), *call()[:-1], *stop("tool_use"))
    assert calls_of(message) == [("toolu_0", "f", "{}")]


def test_a_call_without_an_input_has_what_its_fragments_say() -> None:
    begun, *rest = call('{"x": 1}')
    begun["content_block"] = {"type": "tool_use", "id": "toolu_0", "name": "f"}
    assert calls_of(read(start(), begun, *rest, *stop("tool_use"))[0]) == [("toolu_0", "f", '{"x": 1}')]


@pytest.mark.parametrize("given", [{"x": 1}, '{"x":1}'])
def test_a_fragment_may_be_the_object_itself(given: Any) -> None:
    whole = block({"type": "input_json_delta", "partial_json": given}, type="tool_use", id="t1", name="f", input={})
    assert calls_of(read(start(), *whole, *stop("tool_use"))[0]) == [("t1", "f", '{"x":1}')]


@pytest.mark.parametrize("fields", [{}, {"id": "", "name": None}, {"name": "", "input": {}}, {"input": "null"}])
def test_a_blank_call_is_none(fields: dict[str, Any]) -> None:
    blank = block(index=1, type="tool_use", **fields)
    message, finish = read(start(), *text("a"), *blank, *stop())
    assert (message.tool_calls, finish.finish_reason, finish.warnings) == (None, "stop", ("before",))


@pytest.mark.parametrize("name", ["", None, 7])
def test_a_call_without_a_name_is_passed_on_with_a_warning(name: Any) -> None:
    message, finish = read(start(), *call('{"x": 1}', name=name), *stop("tool_use"))
    assert calls_of(message) == [("toolu_0", "unnamed", '{"x": 1}')]
    assert finish.warnings == ("before", "anthropic made a tool call without a name")


def test_two_calls_under_one_id_are_told_apart_also_when_they_come_back() -> None:
    messages = reader()
    thoughts = block({"type": "signature_delta", "signature": "s"}, type="thinking", thinking="")
    stream = (start(), *thoughts, *call(index=1, id="t1"), *call(index=2, id="t1"), *stop("tool_use"))
    chunk = messages.feed(sse(*stream))
    assert chunk
    first, second = [delta.id for delta in chunk.tool_calls]
    assert (first, first != second) == ("t1", True)
    assert [each["id"] for each in blocks_of(messages.finish())[1:]] == [first, second]


def test_an_id_may_be_a_number() -> None:
    assert calls_of(read(start(), *call(id=7), *stop("tool_use"))[0]) == [("7", "f", "{}")]


def test_a_call_that_is_announced_twice_is_one() -> None:
    begun, *rest = call('{"x": 1}')
    assert calls_of(read(start(), begun, begun, *rest, *stop("tool_use"))[0]) == [("toolu_0", "f", '{"x": 1}')]


@pytest.mark.parametrize("odd", [None, "one", []])
def test_blocks_without_an_index_follow_one_another(odd: Any) -> None:
    thoughts = block({"type": "signature_delta", "signature": "s"}, type="thinking", thinking="")
    events = [*thoughts, *text("a"), *call('{"x": 1}', id="t1"), *call(id="t2", input={"y": 2})]
    for stream in (without("index", *events), [{**event, "index": odd} for event in events], events):
        message, finish = read(start(), *stream, *stop("tool_use"))
        assert calls_of(message) == [("t1", "f", '{"x": 1}'), ("t2", "f", '{"y":2}')]
        assert [each["type"] for each in blocks_of(finish)] == ["thinking", "text", "tool_use", "tool_use"]


def test_only_the_beginnings_may_lack_their_index() -> None:
    events = [*text("a"), *call('{"x": 1}', index=1, id="t1"), *call('{"y": 2}', index=2, id="t2")]
    bare = [without("index", each)[0] if each["type"] == "content_block_start" else each for each in events]
    message, _ = read(start(), *bare, *stop("tool_use"))
    assert calls_of(message) == [("t1", "f", '{"x": 1}'), ("t2", "f", '{"y": 2}')]


def test_blocks_without_a_beginning_are_what_their_deltas_say() -> None:
    thoughts = block(
        {"type": "thinking_delta", "thinking": "Hm"}, {"type": "signature_delta", "signature": "s"}, type="thinking"
    )
    events = [*thoughts, *text("a", index=1), *call('{"x": 1}', index=2)]
    unannounced = [each for each in events if "content_block" not in each]
    message, finish = _read(sse(start(), *unannounced, *stop("tool_use")), 1_000_000)
    assert (message.reasoning, message.content) == ("Hm", "a")
    ((made, name, arguments),) = calls_of(message)
    assert (name, arguments) == ("unnamed", '{"x": 1}')
    assert finish.provider_data == {
        "anthropic": {
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "s"},
                {"type": "text", "text": "a"},
                {"type": "tool_use", "id": made, "name": "unnamed", "input": {"x": 1}},
            ]
        }
    }


@pytest.mark.parametrize("odd", [None, 7, []])
def test_a_block_or_delta_without_a_type_is_what_its_fields_say(odd: Any) -> None:
    events = [*text("a"), *block({"type": odd, "text": "b"}, type=odd, text=""), *call('{"x": 1}', index=1, type=odd)]
    for stream in (
        events,
        [{**each, "delta": {**each["delta"], "type": odd}} if "delta" in each else each for each in events],
    ):
        message, _ = read(start(), *stream, *stop("tool_use"))
        assert (message.content, calls_of(message)) == ("ab", [("toolu_1", "f", '{"x": 1}')])


def test_events_are_read_by_their_type_or_else_by_their_name() -> None:
    events = [start(), *text("a"), *call('{"x": 1}', index=1), *stop("tool_use")]
    nameless = b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events)
    typeless = "".join(f"event: {each['type']}\ndata: {json.dumps(without('type', each)[0])}\n\n" for each in events)
    assert read_stream(nameless) == read_stream(typeless.encode()) == read(*events)


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "content_block_delta", "index": 0, "delta": None},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": None}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ["b"]}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": 7}},
        {"type": "content_block_start", "index": 1, "content_block": "text"},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": 5}},
        {"type": "content_block_stop", "index": {}},
        {"type": "message_start", "message": None},
        {"type": "message_delta", "delta": None, "usage": "none"},
        {"type": "message_delta", "delta": "end_turn", "usage": None},
    ],
    ids=json.dumps,
)
def test_an_odd_event_is_left_out_alone(odd: dict[str, Any]) -> None:
    assert read(start(), *text("a"), odd, *text("c", index=2), *stop()) == read(
        start(), *text("a"), *text("c", index=2), *stop()
    )


def test_what_only_a_strict_reader_refuses_is_read() -> None:
    halves = text("a\ud83d", "\ude00b")
    assert read(start(), *halves, *stop())[0].content == "a\ufffd\ufffdb"
    assert read_stream(sse(start(), *text("a?"), *stop()).replace(b"a?", b"a\xf0\x9f"))[0].content == "a\ufffd"


def test_thoughts_are_kept_with_their_signatures() -> None:
    thoughts = block(
        {"type": "thinking_delta", "thinking": "Hm"},
        {"type": "thinking_delta", "thinking": "…"},
        {"type": "signature_delta", "signature": "c2ln"},
        type="thinking",
        thinking="",
        signature="",
    )
    hidden = block(index=1, type="redacted_thinking", data="ZGF0YQ==")
    message, _ = read(start(), *thoughts, *hidden, *text("a", index=2), *call('{"x": 1}', index=3), *stop("tool_use"))
    assert (message.reasoning, message.content) == ("Hm…", "a")
    assert message.provider_data == {
        "anthropic": {
            "content": [
                {"type": "thinking", "thinking": "Hm…", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "ZGF0YQ=="},
                {"type": "text", "text": "a"},
                {"type": "tool_use", "id": "toolu_3", "name": "f", "input": {"x": 1}},
            ]
        }
    }


def test_what_cannot_come_back_is_not_kept() -> None:
    """Thoughts without a signature, as gateways make them, and texts of nothing."""
    unsigned = block({"type": "thinking_delta", "thinking": "Hm"}, type="thinking", thinking="")
    message, _ = read(start(), *unsigned, *text(index=1), *text("a", index=2), *stop())
    assert message.reasoning == "Hm"
    assert message.provider_data == {"anthropic": {"content": [{"type": "text", "text": "a"}]}}


def test_blocks_of_the_vendors_own_tools_are_kept_and_not_shown() -> None:
    search = block(
        {"type": "input_json_delta", "partial_json": '{"query": "x"}'},
        type="server_tool_use",
        id="srvtoolu_1",
        name="web_search",
        input={},
    )
    found = block(index=1, type="web_search_tool_result", tool_use_id="srvtoolu_1", content=[{"url": "u"}])
    cited = block(
        {"type": "text_delta", "text": "a"},
        {"type": "citations_delta", "citation": {"url": "u"}},
        {"type": "citations_delta", "citation": {"url": "v"}},
        index=2,
        type="text",
        text="",
        citations=[],
    )
    message, finish = read(start(), *search, *found, *cited, *stop("pause_turn"))
    assert (message.content, message.tool_calls, finish.finish_reason) == ("a", None, "stop")
    assert "pause_turn" in finish.warnings[-1]
    assert message.provider_data == {
        "anthropic": {
            "content": [
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
                {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"url": "u"}]},
                {"type": "text", "text": "a", "citations": [{"url": "u"}, {"url": "v"}]},
            ]
        }
    }


def cited(times: int) -> list[dict[str, Any]]:
    return block(*[{"type": "citations_delta", "citation": {}}] * times, type="text", text="")


def grown(times: int) -> list[dict[str, Any]]:
    return block(*[{"type": "compaction_delta", "content": "x" * 100}] * times, type="compaction", content="")


def blank_input(times: int) -> list[dict[str, Any]]:
    return call(*[" "] * times)


def stopped_again(times: int) -> list[dict[str, Any]]:
    begun, given, stopped = call(" ", id="", name="", input=" " * 100 * times)
    return [begun, given, *[stopped] * times]


@pytest.mark.parametrize("events_for", [cited, grown, blank_input, stopped_again])
def test_a_delta_costs_the_same_after_many_others(events_for: Callable[[int], list[dict[str, Any]]]) -> None:
    def seconds(deltas: int) -> float:
        data = sse(start(), *events_for(deltas), *stop())
        found: list[float] = []
        for _ in range(3):
            messages = reader()
            before = time.process_time()
            messages.feed(data)
            messages.finish()
            found.append(time.process_time() - before)
        return min(found)

    assert seconds(16_000) < 64 * seconds(1_000), "16 times as much, but for what varies; its square would be 256 times"


def test_blocks_of_later_versions_grow_too() -> None:
    compaction = block(
        {"type": "compaction_delta", "content": "Sum", "encrypted_content": "a"},
        {"type": "compaction_delta", "content": "mary", "encrypted_content": "b"},
        type="compaction",
        content=None,
    )
    message, _ = read(start(), *compaction, *text("a", index=1), *stop())
    assert message.provider_data == {
        "anthropic": {
            "content": [
                {"type": "compaction", "content": "Summary", "encrypted_content": "ab"},
                {"type": "text", "text": "a"},
            ]
        }
    }


@pytest.mark.parametrize(
    ("said", "meant", "warns"),
    [
        ("end_turn", "stop", False),
        ("stop_sequence", "stop", False),
        ("max_tokens", "length", False),
        ("model_context_window_exceeded", "length", False),
        ("refusal", "content_filter", False),
        ("pause_turn", "stop", True),
        ("compaction", "stop", True),
        ("something_new", "stop", True),
        (None, "stop", True),
        (7, "stop", True),
        ("tool_use", "stop", True),
        ("END_TURN", "stop", False),
        ("stop", "stop", False),
        ("length", "length", False),
        ("MAX_TOKENS", "length", False),
        ("tool_calls", "stop", True),
        ("content_filter", "content_filter", False),
        ("content-filter", "content_filter", False),
        ("sensitive", "content_filter", False),
        ("SAFETY", "content_filter", False),
    ],
)
def test_says_why_it_ended(said: Any, meant: str, warns: bool) -> None:
    _, finish = read(start(), *text("a"), *stop(said))
    assert finish.finish_reason == meant
    assert (len(finish.warnings) > 1) is warns


def test_every_stop_reason_of_the_sdk_is_known() -> None:
    from anthropic.types import StopReason
    from anthropic.types.beta import BetaStopReason

    for said in {*get_args(StopReason), *get_args(BetaStopReason)}:
        assert not any("unknown" in warning for warning in read(start(), *text("a"), *stop(said))[1].warnings)


@pytest.mark.parametrize("said", ["end_turn", "stop", "tool_use", "tool_calls", "something_new", None])
def test_calls_end_a_turn_whatever_the_server_says(said: str | None) -> None:
    assert read(start(), *call(), *stop(said))[1].finish_reason == "tool_calls"


def test_an_end_for_a_tool_without_a_call_is_said() -> None:
    _, finish = read(start(), *text("a"), *stop("tool_use"))
    assert finish.warnings == ("before", "anthropic ended for a tool call and made none")


def test_an_empty_answer_is_said() -> None:
    thoughts = block({"type": "thinking_delta", "thinking": "Hm"}, type="thinking", thinking="")
    for events in ([], text(), thoughts):
        assert read(start(), *events, *stop())[1].warnings == ("before", "anthropic gave an empty answer")
    assert len(read(start(), *stop("pause_turn"))[1].warnings) == 2
    assert read(start(), *stop("max_tokens"))[1].warnings == ("before",)


@pytest.mark.parametrize("said", ["network_error", "error", "abort"])
def test_a_reply_that_broke_off_is_interrupted(said: str) -> None:
    messages = reader()
    messages.feed(sse(start(), *text("a"), *stop(said)))
    assert messages.error
    assert (messages.error.code, messages.finished) == (ErrorCode.STREAM_INTERRUPTED, False)


@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"data:  [DONE] \n\n", b"data: [DONE]"])
def test_the_end_of_another_format_is_one_after_a_reason(end: bytes) -> None:
    messages = reader()
    messages.feed(sse(start(), *call(input={"x": 1})[:1], *stop("tool_use")[:1]) + end)
    chunk = messages.end()
    assert (messages.finished, messages.error) == (True, None)
    assert chunk is None or chunk.tool_calls[0].arguments == '{"x":1}'


def test_the_end_of_another_format_without_a_reason_is_an_interruption() -> None:
    messages = reader()
    messages.feed(sse(start(), *text("a")) + b"data: [DONE]\n\n")
    assert messages.error
    assert messages.error.code == ErrorCode.STREAM_INTERRUPTED


@pytest.mark.parametrize("blank", [b"event: ping\ndata: \n\n", b"event: keepalive\ndata: ok\n\n", b"data: {}\n\n"])
def test_what_keeps_a_stream_alive_is_skipped(blank: bytes) -> None:
    message, _ = read_stream(blank + sse(start(), *text("a")) + blank + sse(*stop()))
    assert message.content == "a"


def test_a_refusal_has_its_explanation() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    message, finish = read(start(), *text("a"), *stop("refusal", details=details))
    assert (message.content, message.refusal, finish.finish_reason) == ("a", "Not this.", "content_filter")


@pytest.mark.parametrize(
    ("at_start", "at_end", "usage"),
    [
        ({}, {}, (3, 9, 0, 0, 0)),
        ({"cache_read_input_tokens": 1000, "cache_creation_input_tokens": 100}, {}, (1103, 9, 1000, 100, 0)),
        ({"cache_read_input_tokens": 1000}, {"input_tokens": 50, "cache_read_input_tokens": 0}, (50, 9, 0, 0, 0)),
        ({}, {"output_tokens_details": {"thinking_tokens": 4}}, (3, 9, 0, 0, 4)),
        ({"cache_read_input_tokens": 7}, {"input_tokens": 0, "cache_read_input_tokens": 0}, (10, 9, 7, 0, 0)),
        ({"cache_read_input_tokens": 7}, {"input_tokens": 3, "cache_read_input_tokens": 0}, (10, 9, 7, 0, 0)),
        ({"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 8, "cache_read_input_tokens": 2}, (10, 9, 2, 0, 0)),
        ({"input_tokens": "8"}, {"output_tokens": "5"}, (8, 5, 0, 0, 0)),
        ({"input_tokens": 8.0}, {"output_tokens": 4.6}, (8, 5, 0, 0, 0)),
        ({"cache_read_input_tokens": -5}, {"cache_creation_input_tokens": 2**64 - 1}, (3, 9, 0, 0, 0)),
        ({"input_tokens": 8}, {"input_tokens": -1, "cache_creation": [], "iterations": {}}, (8, 9, 0, 0, 0)),
        ({"input_tokens": 8}, {"input_tokens": None, "output_tokens_details": "none"}, (8, 9, 0, 0, 0)),
    ],
    ids=[
        "in two places",
        "cached",
        "another prompt at the end",
        "thinking",
        "zeros at the end",
        "the same prompt at the end, its cache unknown",
        "zeros at the start",
        "as texts",
        "with fractions",
        "impossible",
        "impossible at the end",
        "odd at the end",
    ],
)
def test_usage_is_a_total(at_start: Any, at_end: Any, usage: tuple[int, ...]) -> None:
    _, finish = read(start(**at_start), *text("a"), *stop(**at_end))
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    assert finish.usage == Usage(source=UsageSource.VENDOR, **dict(zip(names, usage, strict=True)))


@pytest.mark.parametrize(
    "stated",
    [None, "", [], {}, {"output_tokens": None}, {"output_tokens": 0}, {"output_tokens": -1}, {"input_tokens": 3}],
)
def test_usage_without_its_end_is_none(stated: Any) -> None:
    """One output token, as the start says, would be a wrong bill."""
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": stated}
    messages = reader()
    messages.feed(sse(start(), *text("a"), delta, {"type": "message_stop"}))
    assert messages.finish().usage is None
    assert messages.stated == Stated(
        Usage(source=UsageSource.VENDOR, input_tokens=3, output_tokens=1), response_model="m1"
    )


def test_nothing_but_zeros_is_no_usage() -> None:
    zeros = {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0}
    messages = reader()
    messages.feed(sse(start(**zeros), *text("a"), *stop(**zeros)))
    assert messages.finish().usage is None
    assert messages.stated
    assert messages.stated.usage is None


def test_usage_may_come_with_the_last_event() -> None:
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    _, finish = read(start(), *text("a"), delta, {"type": "message_stop", "usage": {"output_tokens": 9}})
    assert finish.usage == Usage(source=UsageSource.VENDOR, input_tokens=3, output_tokens=9)


def test_zeros_after_the_end_change_nothing() -> None:
    zeros = {"type": "message_delta", "delta": {}, "usage": {"input_tokens": 0, "output_tokens": 0}}
    end, marker = stop()
    _, finish = read(start(), *text("a"), end, zeros, marker)
    assert finish.usage == Usage(source=UsageSource.VENDOR, input_tokens=3, output_tokens=9)
    assert finish.finish_reason == "stop"


def test_cache_writes_of_an_hour_are_told_apart() -> None:
    written = {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 70}
    at_start = start(cache_creation_input_tokens=100, cache_creation=written)

    usage = read(at_start, *text("a"), *stop())[1].usage

    assert usage == Usage(
        source=UsageSource.VENDOR,
        input_tokens=103,
        output_tokens=9,
        cache_write_tokens=100,
        cache_write_1h_tokens=70,
    )


def test_what_is_billed_beside_the_reply_is_a_part_of_the_usage() -> None:
    iterations = [
        {"type": "compaction", "input_tokens": 100, "cache_read_input_tokens": 900, "output_tokens": 7},
        {"type": "advisor_message", "model": "claude-opus-5", "input_tokens": 50, "output_tokens": 5},
        {"type": "message", "input_tokens": 3, "output_tokens": 9},
    ]

    usage = read(start(), *text("a"), *stop(iterations=iterations))[1].usage

    assert usage == Usage(
        source=UsageSource.VENDOR,
        input_tokens=3 + 1000 + 50,
        output_tokens=9 + 7 + 5,
        cache_read_tokens=900,
        parts=(
            UsagePart(input_tokens=1000, output_tokens=7, cache_read_tokens=900),
            UsagePart(model="claude-opus-5", input_tokens=50, output_tokens=5),
        ),
    )


def test_of_parts_no_more_are_kept_than_show_that_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def counting(**counts: Any) -> UsagePart:
        nonlocal made
        made += 1
        return UsagePart(**counts)

    monkeypatch.setattr(anthropic_usage, "UsagePart", counting)
    iterations = [{"type": "message"}, {"type": "compaction", "input_tokens": 1}] * 5_000
    messages = reader()

    messages.feed(sse(start(iterations=iterations), *[stop()[0]] * 100))

    assert messages.stated
    assert messages.stated.usage
    assert len(messages.stated.usage.parts) == made == MAX_PARTS + 1


def test_iterations_that_are_no_parts_do_not_count_for_any() -> None:
    iterations = [{"type": "message"}] * 1_000 + [{"type": "compaction", "input_tokens": 1}]

    usage = read(start(), *text("a"), *stop(iterations=iterations))[1].usage

    assert usage
    assert usage.parts == (UsagePart(input_tokens=1),)


def test_what_a_fallback_model_said_is_its_own_part_of_the_usage() -> None:
    iteration = {"type": "fallback_message", "model": "claude-opus-4-8", "input_tokens": 3, "output_tokens": 9}

    usage = read(start(), *text("a"), *stop(iterations=[iteration]))[1].usage

    part = UsagePart(model="claude-opus-4-8", input_tokens=3, output_tokens=9)
    assert usage == Usage(source=UsageSource.VENDOR, input_tokens=3, output_tokens=9, parts=(part,))


def test_a_refusal_before_any_output_is_not_billed() -> None:
    assert read(start(), *stop("refusal"))[1].usage == Usage(source=UsageSource.VENDOR)
    assert read(start(), *stop("refusal", output_tokens=0))[1].usage == Usage(source=UsageSource.VENDOR)
    assert read(start(), *text("a"), *stop("refusal"))[1].usage == Usage(
        source=UsageSource.VENDOR, input_tokens=3, output_tokens=9
    )


@pytest.mark.parametrize(
    ("usage", "tier"),
    [
        ({}, None),
        ({"service_tier": "standard", "speed": "standard", "inference_geo": "global"}, None),
        ({"inference_geo": "not_available"}, None),
        ({"service_tier": "priority"}, "priority"),
        ({"speed": "fast"}, "fast"),
        ({"service_tier": "batch", "inference_geo": "us"}, "batch+us"),
        ({"service_tier": 7}, "unknown"),
        ({"service_tier": "x" * 1000}, "unknown"),
        ({"service_tier": None, "speed": ""}, None),
    ],
)
def test_the_service_tier_is_what_the_vendor_served(usage: dict[str, Any], tier: str | None) -> None:
    assert read(start(**usage), *text("a"), *stop())[1].service_tier == tier


def test_what_is_stated_before_the_end_is_known_when_the_stream_is_cut() -> None:
    messages = reader()
    messages.feed(sse(start(cache_read_input_tokens=7, service_tier="priority"), *text("a")))
    at_first = Usage(source=UsageSource.VENDOR, input_tokens=10, output_tokens=1, cache_read_tokens=7)
    assert messages.stated == Stated(at_first, service_tier="priority", response_model="m1")

    messages.feed(sse(stop()[0]))

    whole = at_first.model_copy(update={"output_tokens": 9})
    assert messages.stated == Stated(whole, is_final=True, service_tier="priority", response_model="m1")


@pytest.mark.parametrize("events", [[], [start()], [start(), *text("a")], [start(), *text("a"), *stop()[:1]]])
def test_without_message_stop_it_is_not_finished(events: list[dict[str, Any]]) -> None:
    messages = reader()
    messages.feed(sse(*events))
    messages.end()
    assert not messages.finished


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}  }\n\n', "overloaded"),
        (b'data: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n', "provider_unavailable"),
        (b'data: {"error":{"type":"rate_limit_error","message":"x"}}\n\n', "rate_limited"),
        (b'data: {"error":"no"}\n\n', "provider_unavailable"),
        (b"event: error\ndata: null\n\n", "provider_unavailable"),
        (b'data: {"type": "message_start", "message": "none", "error": {"message": "x"}}\n\n', "provider_unavailable"),
        (b"data: {broken\n\n", "stream_interrupted"),
    ],
)
def test_errors_inside_the_stream(data: bytes, code: str) -> None:
    messages = reader()
    messages.feed(data)
    assert messages.error
    assert messages.error.code == ErrorCode(code)
    assert not messages.finished


def test_a_whole_reply_is_understood() -> None:
    message = {
        "id": "msg_1",
        "type": "message",
        "model": "m1",
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 3, "output_tokens": 9},
    }
    messages = reader()
    assert messages.feed(b" \n" + json.dumps(message).encode()) is None
    chunk = messages.end()
    assert chunk
    assert (chunk.text, chunk.reasoning, chunk.tool_calls[0].arguments) == ("a", "Hm", '{"x":1}')
    finish = messages.finish()
    assert (finish.finish_reason, finish.response_model) == ("tool_calls", "m1")
    assert finish.provider_data == {"anthropic": {"content": message["content"]}}


@pytest.mark.parametrize(
    ("odd", "content", "calls"),
    [
        ({"content": "a"}, "a", 0),
        ({"content": [None, "b", {"type": "text", "text": "a"}, {"type": "text", "text": None}]}, "a", 0),
        ({"type": None, "id": 7, "usage": []}, "a", 1),
        ({"stop_reason": []}, "a", 1),
        ({"content": None}, None, 0),
    ],
    ids=["a text as content", "odd blocks", "odd fields", "no reason", "nothing"],
)
def test_an_odd_whole_reply_is_understood(odd: dict[str, Any], content: str | None, calls: int) -> None:
    usual = [{"type": "text", "text": "a"}, {"type": "tool_use", "id": "t1", "name": "f", "input": {}}]
    messages, gathering = reader(), Gathering()
    messages.feed(json.dumps({"type": "message", "content": usual, "stop_reason": "end_turn", **odd}).encode())
    if chunk := messages.end():
        gathering.add(chunk)
    message = gathering.message(messages.finish().provider_data)
    assert (message.content, len(message.tool_calls or ()), messages.finished) == (content, calls, True)


@pytest.mark.parametrize("end", [sse({"type": "message_stop"}), b"data: [DONE]\n\n"])
def test_a_stream_whose_first_event_holds_the_whole_reply_is_understood(end: bytes) -> None:
    begun = start()
    begun["message"]["content"] = [{"type": "text", "text": "a"}]
    stopped = stop()[:1]
    assert read_stream(sse(begun, *stopped) + end)[0].content == "a"
    said_twice = sse(begun, *text("a"), *stopped) + end
    assert read_stream(said_twice)[0].content == "a"


def test_a_whole_error_is_one() -> None:
    messages = reader()
    messages.feed(b'{"type": "error", "error": {"type": "overloaded_error", "message": "x"}, "content": []}')
    messages.end()
    assert messages.error
    assert messages.error.code == ErrorCode.OVERLOADED


def test_a_chunk_says_how_many_pieces_it_is() -> None:
    chunk = reader().feed(sse(start(), *text("a", "b", ""), *call('{"x"', ": 1}", index=1), *call(index=2)))
    assert chunk
    assert chunk.pieces == 2 + 3 + 1


def test_a_whole_reply_that_is_cut_is_not_finished() -> None:
    messages = reader()
    messages.feed(b'{"id": "msg_1", "type": "message", "content": [{"type": "text", "text": "a')
    messages.end()
    assert not messages.finished
    assert messages.error is None
