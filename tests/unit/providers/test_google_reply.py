"""Gemini's replies, in the forms in which they come."""

import json
import re
from typing import Any

import pytest

from contracts.errors import ErrorCode, FleetError
from contracts.requests import AssistantMessage
from contracts.usage import Usage, UsageSource
from workers.providers.base import Chunk, Finish, Gathering
from workers.providers.google import parts as google_parts
from workers.providers.google import reply as google_reply
from workers.providers.google.errors import ERRORS
from workers.providers.google.reply import ReplyReader
from workers.providers.shared.json_text import decode_any


def reader(*warnings: str) -> ReplyReader:
    return ReplyReader(
        provider="google",
        classify=lambda body: ERRORS.from_body(body, provider="google", key=None),
        warnings=warnings,
    )


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\r\n\r\n" for event in events)


def reply(*parts: dict[str, Any], reason: str | None = None, **fields: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if reason:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], "modelVersion": "m1", "responseId": "r1", **fields}


def text(said: str, **fields: Any) -> dict[str, Any]:
    return {"text": said, **fields}


def call(name: str, args: Any = None, **fields: Any) -> dict[str, Any]:
    function = {"name": name, **({"args": args} if args is not None else {})}
    return {"functionCall": {**function, **fields.pop("function", {})}, **fields}


def read(data: bytes) -> tuple[AssistantMessage, Finish]:
    chat = reader()
    gathering = Gathering()
    for chunk in (chat.feed(data), chat.end()):
        if chunk:
            gathering.add(chunk)
    assert chat.error is None
    assert chat.finished
    finish = chat.finish()
    return gathering.message(finish.provider_data), finish


def fails(data: bytes) -> FleetError:
    chat = reader()
    chat.feed(data)
    if chat.error is None:
        chat.end()
    assert chat.error
    return chat.error


def test_what_came_together_is_one_chunk() -> None:
    data = sse(reply(text("r", thought=True)), reply(text("a")), reply(text("b")))
    assert reader().feed(data) == Chunk(text="ab", reasoning="r")


def test_an_empty_text_is_no_chunk() -> None:
    assert reader().feed(sse(reply(text("")), reply())) is None


def test_a_reply_says_who_wrote_it() -> None:
    message, finish = read(sse(reply(text("a")), reply(text("b"), reason="STOP")))
    assert message.content == "ab"
    assert (finish.finish_reason, finish.response_model, finish.response_id) == ("stop", "m1", "r1")
    assert (finish.usage, finish.provider_data, finish.warnings) == (None, None, ())


@pytest.mark.parametrize("form", ["stream", "object", "list", "indented list"])
def test_a_reply_is_the_same_in_every_form(form: str) -> None:
    parts = [text("hm", thought=True), text("a", thoughtSignature="s"), call("f", {"x": 1})]
    events = [reply(parts[0]), reply(*parts[1:], reason="STOP")]
    data = {
        "stream": sse(*events),
        "object": json.dumps(reply(*parts, reason="STOP"), indent=2).encode(),
        "list": json.dumps(events).encode(),
        "indented list": json.dumps(events, indent=2).replace("\n", "\r\n").encode(),
    }[form]
    message, finish = read(data)
    assert (message.reasoning, message.content, finish.finish_reason) == ("hm", "a", "tool_calls")
    assert message.tool_calls
    assert json.loads(message.tool_calls[0].function.arguments) == {"x": 1}
    assert message.provider_data == {"google": {"parts": parts[1:]}}


FINISH_REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "ESCALATION": "content_filter",
    "PUP_LIMITED_DISABLED": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "OTHER": "stop",
    "MALFORMED_FUNCTION_CALL": "stop",
    "UNEXPECTED_TOOL_CALL": "stop",
    "TOO_MANY_TOOL_CALLS": "stop",
    "MISSING_THOUGHT_SIGNATURE": "stop",
    "MALFORMED_RESPONSE": "stop",
    "IMAGE_OTHER": "stop",
    "NO_IMAGE": "stop",
}


def test_every_finish_reason_of_the_sdk_has_a_meaning_here() -> None:
    from google.genai.types import FinishReason

    assert {reason.value for reason in FinishReason} - {"FINISH_REASON_UNSPECIFIED"} == set(FINISH_REASONS)


@pytest.mark.parametrize(("said", "reason"), [*FINISH_REASONS.items(), ("SOMETHING_NEW", "stop")])
def test_says_why_a_reply_ended(said: str, reason: str) -> None:
    for spelling in (said, said.lower()):
        _, finish = read(sse(reply(text("a"), reason=spelling)))
        assert finish.finish_reason == reason
        is_usual = said in ("STOP", "MAX_TOKENS", "SAFETY")
        assert finish.warnings == (() if is_usual else (f"google ended with the finish reason {spelling}",))


@pytest.mark.parametrize(
    ("said", "reason", "warnings"),
    [
        (1, "stop", ()),
        (2, "length", ()),
        (3, "content_filter", ()),
        (4, "content_filter", ("google ended with the finish reason RECITATION",)),
        (77, "stop", ("google ended with the finish reason 77",)),
        (["STOP"], "stop", ("google ended with the finish reason that is no name",)),
        (True, "stop", ("google ended with the finish reason that is no name",)),
    ],
)
def test_a_reason_that_is_no_name_is_an_end_all_the_same(said: Any, reason: str, warnings: tuple[str, ...]) -> None:
    message, finish = read(sse({"candidates": [{"content": {"parts": [text("a")]}, "finishReason": said}]}))
    assert (message.content, finish.finish_reason, finish.warnings) == ("a", reason, warnings)


def test_lists_of_one_may_lack_their_brackets() -> None:
    made = call("f", {"x": 1})
    message, finish = read(sse({"candidates": {"content": {"parts": made}, "finishReason": "STOP"}}))
    assert [(one.function.name, one.function.arguments) for one in message.tool_calls or ()] == [("f", '{"x":1}')]
    assert finish.finish_reason == "tool_calls"


def test_a_reply_that_broke_off_is_interrupted() -> None:
    assert fails(sse(reply(text("a"), reason="ERROR"))).code == ErrorCode.STREAM_INTERRUPTED


def test_an_empty_answer_is_said_unless_its_end_says_why() -> None:
    assert read(sse(reply(reason="STOP")))[1].warnings == ("google gave an empty answer",)
    assert read(sse(reply(text("hm", thought=True), reason="STOP")))[1].warnings == ("google gave an empty answer",)
    assert read(sse(reply(reason="OTHER")))[1].warnings == ("google ended with the finish reason OTHER",)


@pytest.mark.parametrize(
    ("said", "reason"), [("STOP", "tool_calls"), ("UNEXPECTED_TOOL_CALL", "tool_calls"), ("MAX_TOKENS", "length")]
)
def test_calls_end_a_turn_unless_it_was_cut(said: str, reason: str) -> None:
    _, finish = read(sse(reply(call("f"), reason=said)))
    assert finish.finish_reason == reason


@pytest.mark.parametrize("reason", ["FINISH_REASON_UNSPECIFIED", "finish_reason_unspecified", "", None, [], {}])
def test_a_reason_that_says_nothing_is_no_end(reason: Any) -> None:
    chat = reader()
    chat.feed(sse({"candidates": [{"content": {"parts": [text("a")]}, "finishReason": reason}]}))
    assert not chat.finished


def test_calls_without_ids_get_some() -> None:
    message, finish = read(sse(reply(call("f"), call("f", {})), reply(call("g", None), reason="STOP")))
    made = message.tool_calls or ()
    assert [(one.function.name, one.function.arguments) for one in made] == [("f", "{}"), ("f", "{}"), ("g", "{}")]
    assert len({one.id for one in made}) == 3
    assert finish.provider_data is None


def test_a_calls_own_id_is_kept() -> None:
    message, _ = read(sse(reply(call("f", {"n": 2**70}, function={"id": "x1"}), reason="STOP")))
    assert message.tool_calls
    assert message.tool_calls[0].id == "x1"
    assert json.loads(message.tool_calls[0].function.arguments) == {"n": 2**70}


def test_a_name_that_no_tool_can_have_is_cut_down() -> None:
    message, _ = read(sse(reply(call("default_api:f"), reason="STOP")))
    assert [one.function.name for one in message.tool_calls or ()] == ["default_api_f"]


@pytest.mark.parametrize(
    ("args", "arguments"),
    [
        ('{"x": "ls -l"}', '{"x": "ls -l"}'),
        ("null", "{}"),
        ("", "{}"),
        ([], "{}"),
        (7, "{}"),
        ("ls", "ls"),
        ({"x": "\ud83d"}, '{"x":"\ufffd"}'),
    ],
)
def test_arguments_are_the_text_of_an_object(args: Any, arguments: str) -> None:
    message, _ = read(sse(reply(call("f", args), reason="STOP")))
    assert [one.function.arguments for one in message.tool_calls or ()] == [arguments]


def test_arguments_of_bytes_that_are_no_text_are_read() -> None:
    message, _ = read(sse(reply(call("f", {"x": "?"}), reason="STOP")).replace(b"?", b"\xff"))
    assert [one.function.arguments for one in message.tool_calls or ()] == ['{"x":"\ufffd"}']


@pytest.mark.parametrize("blank", [{}, None, "f", [], {"name": ""}, {"name": None, "args": {}}, {"name": 7}])
def test_a_blank_call_is_none(blank: Any) -> None:
    message, finish = read(sse(reply(text("a"), {"functionCall": blank, "thoughtSignature": "s"}, reason="STOP")))
    assert (message.content, message.tool_calls, finish.finish_reason) == ("a", None, "stop")
    assert finish.warnings == ()


def test_the_signature_of_a_blank_call_is_kept_without_it() -> None:
    _, finish = read(sse(reply(text("a"), {"functionCall": {}, "thoughtSignature": "s"}, reason="STOP")))
    assert finish.provider_data == {"google": {"parts": [text("a"), text("", thoughtSignature="s")]}}


def test_a_call_without_a_name_is_passed_on_with_a_warning() -> None:
    message, finish = read(sse(reply(call("", {"x": 1}), reason="STOP")))
    assert [(one.function.name, one.function.arguments) for one in message.tool_calls or ()] == [
        ("unnamed", '{"x": 1}')
    ]
    assert finish.warnings == ("google made a tool call without a name",)


def test_two_calls_under_one_id_are_told_apart() -> None:
    message, _ = read(sse(reply(*[call("f", function={"id": "x1"})] * 2, reason="STOP")))
    first, second = [one.id for one in message.tool_calls or ()]
    assert (first, first != second) == ("x1", True)


def test_a_call_beside_a_text_in_one_part_counts() -> None:
    message, _ = read(sse(reply({**text("a"), **call("f")}, {**text(""), **call("g")}, reason="STOP")))
    assert message.content == "a"
    assert [one.function.name for one in message.tool_calls or ()] == ["f", "g"]


def test_a_signed_call_goes_back_as_an_object_with_a_name() -> None:
    signed = {"thoughtSignature": "s"}
    message, finish = read(
        sse(reply(call("f", '{"x": 1}', **signed), call("", {"x": 2}), {"functionCall": {}}, reason="STOP"))
    )
    assert len(message.tool_calls or ()) == 2
    assert finish.provider_data == {"google": {"parts": [call("f", {"x": 1}, **signed), call("unnamed", {"x": 2})]}}


def test_signed_parts_keep_their_place_and_text_between_them_is_joined() -> None:
    _, finish = read(
        sse(
            reply(text("think", thought=True), text("a")),
            reply(text("b")),
            reply(call("f", thoughtSignature="s1"), call("g")),
            reply(text("c")),
            reply(text("", thoughtSignature="s2"), reason="STOP"),
        )
    )
    assert finish.provider_data == {
        "google": {
            "parts": [
                text("ab"),
                call("f", thoughtSignature="s1"),
                call("g"),
                text("c"),
                text("", thoughtSignature="s2"),
            ]
        }
    }


def test_a_signed_thought_is_kept() -> None:
    signed = text("hm", thought=True, thoughtSignature="s")
    message, finish = read(sse(reply(signed, text("a"), reason="STOP")))
    assert message.reasoning == "hm"
    assert finish.provider_data == {"google": {"parts": [signed, text("a")]}}


def test_what_its_own_tools_did_is_kept_and_said() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "1"}}
    result = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}}
    message, finish = read(sse(reply(code, text("")), reply(result, text("One."), reason="STOP")))
    assert message.content == "One."
    assert finish.provider_data == {"google": {"parts": [code, result, text("One.")]}}
    assert finish.warnings == ("google used tools of its own (codeExecutionResult, executableCode); see provider_data",)


def test_media_is_left_out_and_said() -> None:
    media = {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "AAAA"}}
    file = {"fileData": {"fileUri": "https://h/a"}}
    message, finish = read(sse(reply(media, file, text("Hear."), reason="STOP")))
    assert message.content == "Hear."
    assert finish.provider_data is None
    assert finish.warnings == ("google made audio/L16, media, which is not passed on",)


def test_what_a_server_names_does_not_make_a_warning_without_an_end() -> None:
    tools = [{f"tool{number:03d}" + "x" * 1000: {}} for number in range(300)]
    media = [{"inlineData": {"mimeType": f"image/{number:03d}" + "x" * 1000, "data": "AAAA"}} for number in range(300)]
    _, finish = read(sse(reply({name: 1 for tool in tools for name in tool}, *tools, *media, reason="STOP")))
    made, used = finish.warnings
    assert made.count("image/") == used.count("tool0") == 10
    assert max(map(len, re.findall(r"[\w/]+", made + used))) == 64


def test_other_candidates_are_not_read() -> None:
    event = {
        "candidates": [
            {"index": 1, "content": {"parts": [call("other")]}, "finishReason": "STOP"},
            {"index": 0, "content": {"parts": [call("f", thoughtSignature="s")]}, "finishReason": "STOP"},
        ]
    }
    message, finish = read(sse(event))
    assert [one.function.name for one in message.tool_calls or ()] == ["f"]
    assert finish.provider_data == {"google": {"parts": [call("f", thoughtSignature="s")]}}


@pytest.mark.parametrize("as_list", [False, True])
def test_an_event_is_decoded_as_often_whatever_the_number_of_its_candidates(
    monkeypatch: pytest.MonkeyPatch, as_list: bool
) -> None:
    decoded = 0

    def counting(data: bytes) -> Any:
        nonlocal decoded
        decoded += 1
        return decode_any(data)

    monkeypatch.setattr(google_reply, "decode_any", counting)
    monkeypatch.setattr(google_parts, "decode_any", counting)

    def times_for(candidates: int) -> int:
        before = decoded
        made = {"content": {"parts": [call("f", thoughtSignature="s")]}}
        event = {"candidates": [made] * candidates}
        message, _ = read(sse([event] if as_list else event, reply(reason="STOP")))
        assert len(message.tool_calls or ()) == candidates
        return decoded - before

    assert times_for(50) == times_for(1)


@pytest.mark.parametrize(
    ("stated", "usage"),
    [
        (
            [{"promptTokenCount": 4}, {"promptTokenCount": 4, "candidatesTokenCount": 5, "totalTokenCount": 9}],
            (4, 5, 0, 0),
        ),
        ([{"promptTokenCount": 4, "thoughtsTokenCount": 2, "candidatesTokenCount": 5}], (4, 7, 0, 2)),
        ([{"promptTokenCount": 4, "toolUsePromptTokenCount": 6, "cachedContentTokenCount": 3}], (10, 0, 3, 0)),
        ([{"promptTokenCount": 4, "candidatesTokenCount": 5}, {"trafficType": "ON_DEMAND"}], (4, 5, 0, 0)),
        ([{"promptTokenCount": 4, "candidatesTokenCount": None}], (4, 0, 0, 0)),
        ([{"promptTokenCount": 4}, {"candidatesTokenCount": 5}], (4, 5, 0, 0)),
        ([{"promptTokenCount": 4, "candidatesTokenCount": 5}, {}], (4, 5, 0, 0)),
        (
            [
                {"promptTokenCount": 4, "candidatesTokenCount": 5, "thoughtsTokenCount": 2},
                {"promptTokenCount": 0, "candidatesTokenCount": 0, "thoughtsTokenCount": None},
            ],
            (4, 7, 0, 2),
        ),
        ([{"promptTokenCount": 4, "candidatesTokenCount": 5, "cachedContentTokenCount": -1}], (4, 5, 0, 0)),
        ([{"promptTokenCount": 4, "candidatesTokenCount": 2**64 - 1}], (4, 0, 0, 0)),
        ([{"promptTokenCount": "4", "candidatesTokenCount": 5.4}], (4, 5, 0, 0)),
        ([{"promptTokenCount": 4, "candidatesTokenCount": 5}, []], (4, 5, 0, 0)),
    ],
)
def test_usage_is_the_last_running_total_of_each_count(stated: list[Any], usage: tuple[int, ...]) -> None:
    *before, last = [reply(text("a"), usageMetadata=counts) for counts in stated]
    last["candidates"][0]["finishReason"] = "STOP"
    _, finish = read(sse(*before, last))
    given, out, cached, thoughts = usage
    assert finish.usage == Usage(
        input_tokens=given,
        output_tokens=out,
        cache_read_tokens=cached,
        reasoning_tokens=thoughts,
        source=UsageSource.VENDOR,
    )


@pytest.mark.parametrize(
    "counts",
    [{"trafficType": "ON_DEMAND"}, {}, {"promptTokenCount": 0, "candidatesTokenCount": 0}, {"promptTokenCount": -1}],
)
def test_usage_without_counts_is_none(counts: dict[str, Any]) -> None:
    chat = reader()
    chat.feed(sse(reply(text("a"), reason="STOP", usageMetadata=counts)))
    assert (chat.finish().usage, chat.stated) == (None, None)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}, ErrorCode.OVERLOADED),
        ([{"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}], ErrorCode.RATE_LIMITED),
        ({"error": "why"}, ErrorCode.PROVIDER_UNAVAILABLE),
        ({"code": 500, "message": "why", "status": "INTERNAL"}, ErrorCode.PROVIDER_UNAVAILABLE),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, ErrorCode.CONTENT_FILTERED),
        ({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {}}, ErrorCode.CONTENT_FILTERED),
    ],
)
def test_an_error_in_a_reply_ends_it(event: Any, code: ErrorCode) -> None:
    assert fails(sse(reply(text("a")), event, reply(text("never")))).code == code
    if not isinstance(event, list):
        assert fails(json.dumps(event).encode()).code == code


@pytest.mark.parametrize(
    "odd",
    [
        {"candidates": {}},
        {"candidates": [None, {}]},
        {"candidates": [{"content": "b"}]},
        {"candidates": [{"content": {"parts": None}}]},
        {"candidates": [{"content": {"parts": [None, {"text": 7}, {"text": None}]}}]},
        {"promptFeedback": "none"},
        {"promptFeedback": {"blockReason": {}}},
        {"error": None, "message": None},
        {"usageMetadata": "none"},
        [],
        None,
        "b",
    ],
    ids=json.dumps,
)
def test_an_event_of_another_form_is_left_out_alone(odd: Any) -> None:
    message, _ = read(sse(reply(text("a")), odd, reply(text("c"), reason="STOP")))
    assert message.content == "ac"


@pytest.mark.parametrize(
    ("field", "value"),
    [("responseId", 7), ("modelVersion", []), ("usageMetadata", []), ("promptFeedback", []), ("error", False)],
)
def test_what_stands_beside_an_odd_field_counts(field: str, value: Any) -> None:
    message, finish = read(sse(reply(text("a")), {**reply(text("b"), call("f"), reason="STOP"), field: value}))
    assert (message.content, finish.finish_reason, len(message.tool_calls or ())) == ("ab", "tool_calls", 1)


@pytest.mark.parametrize(
    ("thought", "is_thought"), [("true", True), (1, True), ("false", False), (0, False), ([], False)]
)
def test_what_a_thought_is_can_be_said_in_words(thought: Any, is_thought: bool) -> None:
    message, _ = read(sse(reply(text("a", thought=thought), reason="STOP")))
    assert (message.reasoning, message.content) == (("a", None) if is_thought else (None, "a"))


def test_what_a_list_holds_beside_replies_is_left_out() -> None:
    message, _ = read(json.dumps([None, [reply(text("no"))], reply(text("a\ud83d"), reason="STOP")]).encode())
    assert message.content == "a\ufffd"


@pytest.mark.parametrize("end", [b"[DONE]", b" [DONE] ", b"[DONE]\n\ndata: {"])
def test_the_end_of_another_format_is_one(end: bytes) -> None:
    chat = reader()
    chat.feed(sse(reply(text("a"), reason="STOP")) + b"data: " + end + b"\n\n")
    assert (chat.done, chat.finished, chat.error) == (True, True, None)


def test_the_end_of_another_format_without_a_reason_is_none() -> None:
    chat = reader()
    chat.feed(sse(reply(text("a"))) + b"data: [DONE]\n\n")
    assert (chat.done, chat.finished, chat.error) == (True, False, None)


def test_a_chunk_says_how_many_pieces_it_is() -> None:
    chunk = reader().feed(sse(reply(text("a"), text("h", thought=True), call("f"), text("")), reply(text("b"))))
    assert chunk
    assert chunk.pieces == 4


def test_an_event_that_is_no_json_interrupts() -> None:
    assert fails(b"data: {\r\n\r\n").code == ErrorCode.STREAM_INTERRUPTED


@pytest.mark.parametrize("data", [b'{"candidates": [', b'[{"candidates": []},', b"data: {", b"", b"<html>", b"data: 1"])
def test_what_is_cut_is_not_finished(data: bytes) -> None:
    chat = reader()
    assert chat.feed(data) is None
    assert chat.end() is None
    assert (chat.finished, chat.error) == (False, None)


def test_feedback_beside_an_answer_does_not_fail_it() -> None:
    message, _ = read(sse(reply(text("a"), reason="STOP", promptFeedback={"safetyRatings": []})))
    assert message.content == "a"


def test_what_is_known_from_the_request_is_said_with_the_rest() -> None:
    chat = reader("seed is ignored")
    chat.feed(sse(reply(reason="OTHER")))
    assert chat.finish().warnings == ("seed is ignored", "google ended with the finish reason OTHER")
