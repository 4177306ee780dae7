"""Ollama's format, part by part."""

import inspect
from functools import partial
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from contracts.errors import ErrorCode, InternalError, InvalidRequest, UnsupportedFeature
from contracts.requests import CompletionRequest
from contracts.usage import Usage, UsageSource
from workers.providers.base import Chunk, Finish
from workers.providers.ollama.errors import BY_HTTPX2_CLASS, ERRORS
from workers.providers.ollama.reply import OllamaReader
from workers.providers.ollama.request import chat_body, check, ignored
from workers.providers.shared.errors.vendor_errors import of_class
from workers.providers.shared.http.ndjson import MAX_LINE_BYTES, Lines, json_texts
from workers.providers.shared.http.sse import EventTooLarge
from workers.providers.shared.json_text import MOST_IN_A_ROW

KEY = SecretStr("sk-Zx81kQpvL0aa93Jw72mmDf55")


def request(**fields: Any) -> CompletionRequest:
    least = {"id": "r", "tenant": "t", "agent": "a", "model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    return CompletionRequest.model_validate({**least, **fields})


def said(*parts: bytes, ends: bool = False) -> tuple[list[Chunk], OllamaReader]:
    classify = partial(ERRORS.from_body, provider="ollama", model="m", key=KEY)
    reader = OllamaReader(classify=classify, estimate_input=lambda: 77)
    chunks = [reader.feed(part) for part in parts]
    return [chunk for chunk in [*chunks, reader.end() if ends else None] if chunk], reader


def finish(*parts: bytes) -> Finish:
    return said(*parts)[1].finish()


@pytest.mark.parametrize(
    "kind",
    [kind for _, kind in inspect.getmembers(httpx2, inspect.isclass) if issubclass(kind, Exception)],
    ids=lambda kind: kind.__name__,
)
def test_every_error_of_the_client_is_mapped(kind: type[Exception]) -> None:
    assert of_class(kind.__new__(kind), BY_HTTPX2_CLASS) is not InternalError


def test_a_server_that_does_not_answer_in_time_is_a_timeout() -> None:
    failure = ERRORS.from_sdk(httpx2.ReadTimeout("slow"), provider="ollama", key=KEY, host="127.0.0.1:11434")
    assert failure.code == ErrorCode.PROVIDER_TIMEOUT
    assert "127.0.0.1:11434" in failure.message


def test_a_server_that_cannot_be_connected_to_in_time_is_unavailable() -> None:
    """It was never asked, so nothing is booked."""
    failure = ERRORS.from_sdk(httpx2.ConnectTimeout("slow"), provider="ollama", key=KEY, host="127.0.0.1:11434")
    assert failure.code == ErrorCode.PROVIDER_UNAVAILABLE


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (400, "invalid options: temperature", ErrorCode.INVALID_REQUEST),
        (400, "registry.ollama.ai/library/gemma:2b does not support tools", ErrorCode.UNSUPPORTED_FEATURE),
        (400, '"gemma" does not support thinking', ErrorCode.UNSUPPORTED_FEATURE),
        (400, 'think value "high" is not supported for this model', ErrorCode.UNSUPPORTED_FEATURE),
        (500, "this model is missing data required for image input", ErrorCode.UNSUPPORTED_FEATURE),
        (400, "the input length exceeds the context length", ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (500, "prompt too long; exceeded max context length by 12 tokens", ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (401, "unauthorized", ErrorCode.AUTHENTICATION_FAILED),
        (403, "access denied", ErrorCode.AUTHENTICATION_FAILED),
        (403, "this model requires a subscription, upgrade for access", ErrorCode.QUOTA_EXHAUSTED),
        (404, 'model "llama9" not found, try pulling it first', ErrorCode.MODEL_NOT_FOUND),
        (429, "too many concurrent requests", ErrorCode.RATE_LIMITED),
        (429, "you have reached your hourly usage limit", ErrorCode.QUOTA_EXHAUSTED),
        (500, "model requires more system memory (5.0 GiB) than is available", ErrorCode.PROVIDER_UNAVAILABLE),
        (500, "llama runner process has terminated: exit status 2", ErrorCode.PROVIDER_UNAVAILABLE),
        (503, "server busy, please try again.  maximum pending requests exceeded", ErrorCode.OVERLOADED),
        (None, "unexpected EOF", ErrorCode.PROVIDER_UNAVAILABLE),
        (None, "context limit hit", ErrorCode.CONTEXT_LENGTH_EXCEEDED),
    ],
)
def test_says_what_ollama_means(status: int | None, text: str, code: ErrorCode) -> None:
    failure = ERRORS.from_body({"error": text}, provider="ollama", model="m", key=KEY, status=status)
    assert (failure.code, failure.status) == (code, status)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no", "type": "api_error"}}, "no"),
        ({"message": "no"}, "no"),
        ("404 page not found", "404 page not found"),
        ("<html>", "no reason given"),
        ([], "no reason given"),
    ],
)
def test_reads_every_form_of_an_error(body: object, words: str) -> None:
    failure = ERRORS.from_body(body, provider="ollama", key=KEY, status=500)
    assert failure.message == f"ollama answered 500: {words}"


def test_no_error_shows_the_key() -> None:
    failure = ERRORS.from_body({"error": f"bad {KEY.get_secret_value()}"}, provider="ollama", key=KEY, status=401)
    assert "Zx81kQ" not in failure.message


def test_lines_come_whole_wherever_they_are_cut() -> None:
    data = '{"a":"čau"}\r\n\n{"b":1}\n{"c"'.encode()
    for size in range(1, len(data)):
        lines = Lines()
        found = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
        assert [line.strip() for line in found] == ['{"a":"čau"}'.encode(), b'{"b":1}']
        assert lines.end() == b'{"c"'


@pytest.mark.parametrize(
    ("data", "found", "last"),
    [
        (b'\xef\xbb\xbf{"a":1}\n{"b":1}\n', [b'{"a":1}', b'{"b":1}'], b""),
        (b'\xef\xbb\xbf{"a":1}', [], b'{"a":1}'),
        (b'\xef\xbb\xbf\n{"a":1}\n \n', [b'{"a":1}'], b""),
        (b'{\n  "a": 1\n}\n', [], b'{\n  "a": 1\n}'),
        (b"\n{\r\n}", [], b"{\r\n}"),
    ],
    ids=["byte order mark", "on the only line", "on a line of its own", "one text over lines", "the least of it"],
)
def test_what_stands_around_the_lines_is_dropped_wherever_it_is_cut(
    data: bytes, found: list[bytes], last: bytes
) -> None:
    for size in range(1, len(data) + 1):
        lines = Lines()
        assert [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])] == found
        assert lines.end() == last


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        (b'{"a":1}{"b":2}', ([b'{"a":1}', b'{"b":2}'], b"")),
        (b'{"a":1} [2] {"b":', ([b'{"a":1}', b"[2]"], b'{"b":')),
        (b"<html>", ([], b"<html>")),
        (b"", ([], b"")),
    ],
)
def test_several_texts_on_one_line_are_told_apart(line: bytes, texts: tuple[list[bytes], bytes]) -> None:
    assert json_texts(line) == texts


def test_a_line_of_many_texts_is_read_in_a_moment() -> None:
    found, rest = json_texts(b"{} " * 20_000)
    assert len(found) == MOST_IN_A_ROW
    assert rest
    assert json_texts(b"{}" * 100_000) == ([], b"{}" * 100_000)


def test_a_line_without_an_end_is_refused() -> None:
    lines = Lines()
    lines.feed(b"x" * MAX_LINE_BYTES)
    with pytest.raises(EventTooLarge):
        lines.feed(b"x")


def test_what_came_together_is_one_chunk() -> None:
    chunks, reader = said(
        b'{"message":{"thinking":"hm"}}\n{"message":{"content":"a"}}\n{"message":{"content":"b"}}\n{"mess',
        b'age":{}}\n',
    )
    assert chunks == [Chunk(text="ab", reasoning="hm")]
    assert not reader.finished


def test_a_reply_without_a_newline_at_its_end_is_whole() -> None:
    chunks, reader = said(b'{"message":{"content":"a"},"done":true,"done_reason":"stop"}', ends=True)
    assert (chunks, reader.finished) == ([Chunk(text="a")], True)


def test_a_cut_line_is_no_end() -> None:
    _, reader = said(b'{"message":{"content":"a"}}\n{"message":{"content":""},"done":tr', ends=True)
    assert (reader.finished, reader.error) == (False, None)


def test_nothing_behind_the_end_counts() -> None:
    chunks, _ = said(b'{"message":{"content":"a"},"done":true}\n{"message":{"content":"b"}}\n')
    assert chunks == [Chunk(text="a")]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (b'{"name":"f","arguments":{"city": "Z\xc3\xbcrich"}}', '{"city": "Zürich"}'),
        (b'{"name":"f","arguments":"{\\"a\\":1}"}', '{"a":1}'),
        (b'{"name":"f","arguments":""}', "{}"),
        (b'{"name":"f","arguments":null}', "{}"),
        (b'{"name":"f"}', "{}"),
        (b'{"name":"f","arguments":"null"}', "{}"),
        (b'{"name":"f","arguments":" "}', "{}"),
        (b'{"name":"f","arguments":[]}', "{}"),
        (b'{"name":"f","arguments":false}', "{}"),
        (b'{"name":"f","arguments":[1]}', "[1]"),
        (b'{"name":"f","arguments":"ls -l"}', "ls -l"),
        (b'{"name":"f","arguments":{"a":"\\ud83d"}}', '{"a":"\ufffd"}'),
        (b'{"name":"f","arguments":{"a":"\xff"}}', '{"a":"\ufffd"}'),
        (b'{"name":"f","arguments":{"a":NaN}}', '{"a":null}'),
    ],
)
def test_arguments_are_a_text_that_holds_an_object(function: bytes, arguments: str) -> None:
    (chunk,), _ = said(b'{"message":{"tool_calls":[{"function":' + function + b"}]}}\n")
    assert chunk.tool_calls[0].arguments == arguments


def test_calls_in_one_line_or_in_two_are_numbered_and_named() -> None:
    call = b'{"function":{"name":"f","arguments":{}}}'
    line = b'{"message":{"tool_calls":[' + call + b"," + call + b"]}}\n"
    chunks, reader = said(line, line, b'{"done":true,"done_reason":"stop"}\n')
    calls = [delta for chunk in chunks for delta in chunk.tool_calls]
    assert [call.index for call in calls] == [0, 1, 2, 3]
    assert len({call.id for call in calls}) == 4
    assert reader.finish().finish_reason == "tool_calls"


def test_an_id_that_a_server_gives_is_kept() -> None:
    (chunk,), _ = said(b'{"message":{"tool_calls":[{"id":"call_9","function":{"index":0,"name":"f"}}]}}\n')
    assert chunk.tool_calls[0].id == "call_9"


def test_two_calls_under_one_id_are_told_apart() -> None:
    call = b'{"id":"c1","function":{"name":"f"}}'
    (chunk,), _ = said(b'{"message":{"tool_calls":[' + call + b"," + call + b"]}}\n")
    first, second = chunk.tool_calls
    assert (first.id, first.id != second.id) == ("c1", True)


@pytest.mark.parametrize(
    "calls", [b"{}", b"[]", b"[null]", b"[{}]", b'[{"function":{"name":"","arguments":""}}]', b'"f"']
)
def test_a_blank_call_is_none(calls: bytes) -> None:
    chunks, reader = said(b'{"message":{"content":"a","tool_calls":' + calls + b'}}\n{"done":true}\n')
    assert chunks == [Chunk(text="a")]
    assert (reader.finish().finish_reason, reader.finish().warnings) == ("stop", ())


@pytest.mark.parametrize("name", [b'""', b'" "', b"null", b"7"])
def test_a_call_without_a_name_is_passed_on_with_a_warning(name: bytes) -> None:
    call = b'{"function":{"name":' + name + b',"arguments":{"a":1}}}'
    (chunk,), reader = said(b'{"message":{"tool_calls":[' + call + b']}}\n{"done":true}\n')
    assert [(delta.name, delta.arguments) for delta in chunk.tool_calls] == [("unnamed", '{"a":1}')]
    assert reader.finish().warnings == ("ollama made a tool call without a name",)


@pytest.mark.parametrize(
    ("reason", "finish_reason", "warned"),
    [
        (b',"done_reason":"stop"', "stop", False),
        (b',"done_reason":"length"', "length", False),
        (b',"done_reason":"STOP"', "stop", False),
        (b',"done_reason":"max_tokens"', "length", False),
        (b',"done_reason":"content-filter"', "content_filter", False),
        (b',"done_reason":"load"', "stop", False),
        (b',"done_reason":null', "stop", False),
        (b',"done_reason":["stop"]', "stop", False),
        (b"", "stop", False),
        (b',"done_reason":"tired"', "stop", True),
        (b',"done_reason":"tool_calls"', "stop", True),
    ],
)
def test_an_end_has_its_reason(reason: bytes, finish_reason: str, warned: bool) -> None:
    end = finish(b'{"message":{"content":"a"},"done":true' + reason + b"}\n")
    assert (end.finish_reason, bool(end.warnings)) == (finish_reason, warned)


def test_an_empty_answer_is_said() -> None:
    assert finish(b'{"message":{"thinking":"hm"},"done":true}\n').warnings == ("ollama gave an empty answer",)
    assert finish(b'{"done":true,"done_reason":"load"}\n').warnings == ()


@pytest.mark.parametrize(
    "end", [b'"done":"true"', b'"done":1', b'"done":[],"done_reason":"stop"', b'"done_reason":"stop"']
)
def test_an_end_in_another_form_is_one(end: bytes) -> None:
    chunks, reader = said(b'{"message":{"content":"a"},' + end + b',"created_at":[]}\n')
    assert (chunks, reader.finished) == ([Chunk(text="a")], True)


def test_a_reply_that_broke_off_is_interrupted() -> None:
    _, reader = said(b'{"message":{"content":"a"},"done":true,"done_reason":"error"}\n')
    assert reader.error
    assert (reader.error.code, reader.finished) == (ErrorCode.STREAM_INTERRUPTED, False)


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        (b',"prompt_eval_count":3,"eval_count":4', (3, 4, UsageSource.VENDOR)),
        (b',"prompt_eval_count":3', (3, 0, UsageSource.VENDOR)),
        (b',"eval_count":4', (77, 4, UsageSource.ESTIMATED)),
        (b',"prompt_eval_count":0,"eval_count":4', (77, 4, UsageSource.ESTIMATED)),
        (b',"prompt_eval_count":-1,"eval_count":4', (77, 4, UsageSource.ESTIMATED)),
        (b',"prompt_eval_count":3,"eval_count":-1', (3, 0, UsageSource.VENDOR)),
        (b',"prompt_eval_count":3,"eval_count":18446744073709551615', (3, 0, UsageSource.VENDOR)),
        (b',"prompt_eval_count":"3","eval_count":4.4', (3, 4, UsageSource.VENDOR)),
        (b',"prompt_eval_count":[],"eval_count":4', (77, 4, UsageSource.ESTIMATED)),
    ],
)
def test_counts_are_usage(counts: bytes, usage: tuple[int, int, UsageSource]) -> None:
    found = finish(b'{"done":true' + counts + b"}\n").usage
    assert found
    assert (found.input_tokens, found.output_tokens, found.source) == usage


@pytest.mark.parametrize("counts", [b"", b',"prompt_eval_count":0,"eval_count":0', b',"eval_count":-1'])
def test_no_counts_are_no_usage(counts: bytes) -> None:
    assert finish(b'{"done":true' + counts + b"}\n").usage is None


def test_counts_that_were_stated_stay() -> None:
    before = b'{"message":{"content":"a"},"prompt_eval_count":3,"eval_count":4,"done":false}\n'
    assert finish(before, b'{"done":true,"prompt_eval_count":0}\n').usage == Usage(
        input_tokens=3, output_tokens=4, source=UsageSource.VENDOR
    )


@pytest.mark.parametrize("line", [b'{"message":5}', b'{"message":{"content":["b"]}}', b"[]", b"null", b'"b"'])
def test_a_line_of_another_form_is_left_out_alone(line: bytes) -> None:
    chunks, reader = said(b'{"message":{"content":"a"}}\n' + line + b'\n{"done":true}\n')
    assert (chunks, reader.finished) == ([Chunk(text="a")], True)


@pytest.mark.parametrize("line", [b"<html>", b'{"message":{"content":"a"}} <html>', b'{"message":'])
def test_a_line_that_is_no_json_breaks_the_reply(line: bytes) -> None:
    _, reader = said(line + b"\n")
    assert reader.error
    assert reader.error.code == ErrorCode.STREAM_INTERRUPTED


@pytest.mark.parametrize("end", ["", "data: [DONE]\n\n"])
def test_lines_that_a_proxy_sends_as_events_are_read(end: str) -> None:
    lines = ['{"message":{"content":"a"}}', '{"message":{"content":"b"}}', '{"done":true}']
    events = ": waits\n\nretry: 5\n" + "".join(f"event: message\nid: 1\ndata: {line}\n\n" for line in lines)
    chunks, reader = said((events + end).encode())
    assert (chunks, reader.finished, reader.error) == ([Chunk(text="ab")], True, None)


def test_the_end_of_an_event_stream_is_none_without_a_last_line() -> None:
    _, reader = said(b'data: {"message":{"content":"a"}}\n\ndata:\n\ndata: [DONE]\n\n')
    assert reader.error
    assert (reader.error.code, reader.finished) == (ErrorCode.STREAM_INTERRUPTED, False)


@pytest.mark.parametrize(
    "body", [b'{"code": 429, "message": "slow down"}', b'{"detail": "no"}', b'{"status": 500, "msg": "no"}']
)
@pytest.mark.parametrize("before", [b"", b'{"message":{"content":"a"}}\n'])
def test_an_error_in_another_form_is_one(body: bytes, before: bytes) -> None:
    _, reader = said(before + body + b"\n")
    assert reader.error


def test_two_lines_that_lost_their_newline_are_read() -> None:
    chunks, reader = said(b'{"message":{"content":"a"}}{"message":{"content":"b"}}\n{"done":true}{"error":"x"}\n')
    assert (chunks, reader.finished, reader.error) == ([Chunk(text="ab")], True, None)


def test_a_reply_over_several_lines_is_read() -> None:
    chunks, reader = said(b'{\n "message": {\n  "content": "a"\n },\n "done": true\n}\n', ends=True)
    assert (chunks, reader.finished) == ([Chunk(text="a")], True)


def test_a_chunk_says_how_many_pieces_it_is() -> None:
    (chunk,), _ = said(
        b'{"message":{"content":"a","thinking":"h"}}\n{"message":{"content":"b"}}\n{"message":{"content":""}}\n'
    )
    assert chunk.pieces == 3


@pytest.mark.parametrize(
    ("effort", "think"),
    [("none", False), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("max", "high")],
)
def test_effort_is_thinking(effort: str, think: bool | str) -> None:
    assert chat_body(request(reasoning_effort=effort), model="m")["think"] == think


@pytest.mark.parametrize(
    ("response_format", "sent"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}}, {"type": "array"}),
        ({"type": "json_schema", "json_schema": {"name": "n"}}, "json"),
    ],
)
def test_a_format_is_json_or_a_schema(response_format: dict[str, Any], sent: object) -> None:
    assert chat_body(request(response_format=response_format), model="m").get("format") == sent


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ("", {}),
        (" ", {}),
        ("null", {}),
        ('{"x": 1}', {"x": 1}),
        ("not json", {"arguments": "not json"}),
        ("[1]", {"arguments": "[1]"}),
    ],
)
def test_arguments_that_are_no_object_are_kept_in_one(arguments: str, sent: dict[str, Any]) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    body = chat_body(request(messages=[{"role": "assistant", "content": None, "tool_calls": [call]}]), model="m")
    assert body["messages"][0]["tool_calls"][0]["function"]["arguments"] == sent


@pytest.mark.parametrize(
    ("url", "data"),
    [
        ("data:image/png;base64,iVBORw0KGgo=", "iVBORw0KGgo="),
        ("data:image/svg+xml;charset=utf-8;base64,PHN2Zz4=", "PHN2Zz4="),
        ("data:image/svg+xml,%3Csvg%3E", "PHN2Zz4="),
        ("data:image/png;base64,iVBORw0KGgo%3D", "iVBORw0KGgo="),
        ("data:image/jpg;base64,_9j_\n4A", "/9j/4A=="),
    ],
)
def test_an_image_is_its_base64(url: str, data: str) -> None:
    asked = request(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])
    check(asked)
    assert chat_body(asked, model="m")["messages"] == [{"role": "user", "images": [data]}]


@pytest.mark.parametrize("url", ["https://example.org/a.png", "data:image/png;base64,/etc/passwd!", "data:image/png"])
def test_an_image_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UnsupportedFeature):
        check(request(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]))


def test_system_messages_alone_are_what_the_user_says() -> None:
    system = [{"role": "system", "content": "Say hello."}, {"role": "developer", "content": "Twice."}]
    assert chat_body(request(messages=system), model="m")["messages"] == [
        {"role": "user", "content": "Say hello."},
        {"role": "user", "content": "Twice."},
    ]
    body = chat_body(request(messages=[*system, {"role": "user", "content": "Hi"}]), model="m")
    assert [message["role"] for message in body["messages"]] == ["system", "system", "user"]


def test_an_answer_of_nothing_is_left_out() -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": []}]
    assert chat_body(request(messages=[*said, said[0]]), model="m")["messages"] == [said[0], said[0]]


def test_kept_thoughts_change_nothing_else_of_a_message() -> None:
    kept = {"ollama": {"thinking": "Hm.", "role": "system", "content": "x", "tool_calls": [1]}}
    said = {"role": "assistant", "content": "Hi", "provider_data": kept}
    assert chat_body(request(messages=[said]), model="m")["messages"] == [
        {"role": "assistant", "content": "Hi", "thinking": "Hm."}
    ]


def test_further_options_win_and_leave_the_others() -> None:
    further = {"ollama": {"options": {"num_ctx": 1, "seed": 2}, "keep_alive": -1, "think": True}}
    body = chat_body(request(seed=1, temperature=0.5, reasoning_effort="none", provider_options=further), model="m")
    assert body["options"] == {"temperature": 0.5, "seed": 2, "num_ctx": 1}
    assert (body["keep_alive"], body["think"]) == (-1, True)


def test_a_null_leaves_a_field_out_but_not_the_output_limit() -> None:
    further = {"ollama": {"think": None, "options": {"seed": None, "num_predict": None}}}
    body = chat_body(request(seed=1, max_tokens=5, reasoning_effort="low", provider_options=further), model="m")
    assert "think" not in body
    assert body["options"] == {"num_predict": 5}


def test_kept_thoughts_that_are_no_text_stay_here() -> None:
    said = {"role": "assistant", "content": "Hi", "provider_data": {"ollama": {"thinking": [1], "images": 5}}}
    assert chat_body(request(messages=[said]), model="m")["messages"] == [{"role": "assistant", "content": "Hi"}]


def test_no_options_of_the_callers_are_none() -> None:
    asked = request(provider_options={"ollama": {"options": None}}, seed=1)
    check(asked)
    assert chat_body(asked, model="m")["options"] == {"seed": 1}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_choice_that_would_have_forced_a_call_is_refused_with_tools_and_ignored_without(choice: Any) -> None:
    with pytest.raises(UnsupportedFeature, match="tool_choice"):
        check(request(tool_choice=choice, tools=[{"type": "function", "function": {"name": "f"}}]))
    check(request(tool_choice=choice))
    assert ignored(request(tool_choice=choice)) == ("tool_choice was ignored, because the request has no tools",)


def test_options_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"provider_options\.ollama\.options"):
        check(request(provider_options={"ollama": {"options": [1]}}))
