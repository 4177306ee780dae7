"""A reply's body: a stream of events, or one JSON text."""

import pytest

from workers.providers.shared.http.reply_body import ReplyBody
from workers.providers.shared.http.sse import MAX_EVENT_BYTES, Event, EventTooLarge


def test_a_stream_is_its_events() -> None:
    body = ReplyBody()
    assert body.feed(b"\n\ndata: 1\n\ndata: 2") == [Event("", b"1")]
    assert body.end() == [Event("", b"2")]
    assert not body.is_json


@pytest.mark.parametrize("text", [b'{"a": 1}', b'[{"a": 1},\n{"b": 2}]'])
def test_one_json_text_is_one_event_at_the_end(text: bytes) -> None:
    body = ReplyBody()
    for byte in b" \n" + text:
        assert body.feed(bytes([byte])) == []
    assert body.is_json
    assert body.end() == [Event("", text)]


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\n\xef\xbb\xbf \n"])
def test_a_byte_order_mark_stands_before_a_json_text(before: bytes, size: int) -> None:
    body = ReplyBody()
    data = before + b'{"a": 1}'
    for at in range(0, len(data), size):
        assert body.feed(data[at : at + size]) == []
    assert body.end() == [Event("", b'{"a": 1}')]


def test_an_error_on_bare_lines_is_the_last_event() -> None:
    body = ReplyBody()
    assert body.feed(b'data: 1\n\n{\n"error": {}\n}\n') == [Event("", b"1")]
    assert body.end() == [Event("", b'{\n"error": {}\n}')]


def test_a_json_text_without_an_end_is_refused() -> None:
    body = ReplyBody()
    body.feed(b"{")
    with pytest.raises(EventTooLarge):
        body.feed(b" " * MAX_EVENT_BYTES)
