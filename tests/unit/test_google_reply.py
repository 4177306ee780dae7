"""Gemini's replies, in the forms in which they come."""

import json
from typing import Any

import pytest

from contracts.errors import ErrorCode, FleetError
from contracts.requests import AssistantMessage
from contracts.usage import Usage, UsageSource
from workers.providers import google_errors
from workers.providers.base import Chunk, Finish, Gathering
from workers.providers.google_reply import ReplyReader


def reader(*warnings: str) -> ReplyReader:
    return ReplyReader(
        provider="google",
        classify=lambda body: google_errors.from_body(body, provider="google", key=None),
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


@pytest.mark.parametrize(
    ("said", "reason", "warned"),
    [
        ("STOP", "stop", False),
        ("MAX_TOKENS", "length", False),
        ("CONTINUATION", "length", True),
        ("SAFETY", "content_filter", False),
        ("RECITATION", "content_filter", True),
        ("PROHIBITED_CONTENT", "content_filter", True),
        ("IMAGE_SAFETY", "content_filter", True),
        ("OTHER", "stop", True),
        ("MALFORMED_FUNCTION_CALL", "stop", True),
        ("SOMETHING_NEW", "stop", True),
    ],
)
def test_says_why_a_reply_ended(said: str, reason: str, warned: bool) -> None:
    _, finish = read(sse({"candidates": [{"finishReason": said}]}))
    assert finish.finish_reason == reason
    assert finish.warnings == ((f"google ended with the finish reason {said}",) if warned else ())


@pytest.mark.parametrize(
    ("said", "reason"), [("STOP", "tool_calls"), ("UNEXPECTED_TOOL_CALL", "tool_calls"), ("MAX_TOKENS", "length")]
)
def test_calls_end_a_turn_unless_it_was_cut(said: str, reason: str) -> None:
    _, finish = read(sse(reply(call("f"), reason=said)))
    assert finish.finish_reason == reason


def test_a_reason_that_says_nothing_is_no_end() -> None:
    chat = reader()
    chat.feed(sse(reply(text("a"), reason="FINISH_REASON_UNSPECIFIED")))
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
    message, _ = read(sse(reply(call("default_api:f"), call(""), reason="STOP")))
    assert [one.function.name for one in message.tool_calls or ()] == ["default_api_f", "unnamed"]


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
    ],
)
def test_usage_is_the_last_running_total(stated: list[dict[str, Any]], usage: tuple[int, ...]) -> None:
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


def test_usage_without_counts_is_none() -> None:
    assert read(sse(reply(text("a"), reason="STOP", usageMetadata={"trafficType": "ON_DEMAND"})))[1].usage is None


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}, ErrorCode.OVERLOADED),
        ([{"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}], ErrorCode.RATE_LIMITED),
        ({"error": "why"}, ErrorCode.PROVIDER_UNAVAILABLE),
        ({"code": 500, "message": "why", "status": "INTERNAL"}, ErrorCode.PROVIDER_UNAVAILABLE),
        ({"promptFeedback": {"blockReason": "SAFETY"}}, ErrorCode.CONTENT_FILTERED),
        ({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {}}, ErrorCode.CONTENT_FILTERED),
        ({"candidates": [{"content": "text"}]}, ErrorCode.STREAM_INTERRUPTED),
        ({"candidates": "none"}, ErrorCode.STREAM_INTERRUPTED),
    ],
)
def test_an_error_in_a_reply_ends_it(event: Any, code: ErrorCode) -> None:
    assert fails(sse(reply(text("a")), event, reply(text("never")))).code == code
    if not isinstance(event, list):
        assert fails(json.dumps(event).encode()).code == code


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
