"""Reading server-sent events in whatever pieces they come."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.providers.shared.http import sse
from workers.providers.shared.http.sse import MAX_STRAY_BYTES, Decoder, Event, EventTooLarge

STREAM = (
    b"\xef\xbb\xbf: welcome\n\n"
    b'data: {"text":"\xc3\xbcn\xc3\xaf \xf0\x9f\x99\x82"}\n\n'
    b"event: error\nid: 7\nretry: 10\ndata:no blank\n\n"
    b"data: one\ndata:  two\n\n"
    b": ping\n\n"
    b"event: nothing\n\n"
    b"data\n\ndata:\n\ndata:  \n\n"
    b"event: named\ndata:\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = [
    Event("", '{"text":"ünï 🙂"}'.encode()),
    Event("error", b"no blank"),
    Event("", b"one\n two"),
    Event("named", b""),
    Event("", b"[DONE]"),
]
LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


def read(pieces: list[bytes]) -> list[Event]:
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.end()


def feed(decoder: Decoder, piece: bytes, *, times: int) -> None:
    for _ in range(times):
        decoder.feed(piece)


@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS.keys())
def test_reads_a_whole_stream_with_any_line_end(line_end: bytes) -> None:
    assert read([STREAM.replace(b"\n", line_end)]) == EVENTS


@pytest.mark.parametrize("line_end", LINE_ENDS.values(), ids=LINE_ENDS.keys())
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_reads_a_stream_in_pieces_of_any_size(line_end: bytes, size: int) -> None:
    stream = STREAM.replace(b"\n", line_end)
    assert read([stream[at : at + size] for at in range(0, len(stream), size)]) == EVENTS


@given(
    texts=st.lists(st.text(), min_size=1, max_size=5),
    line_end=st.sampled_from(list(LINE_ENDS.values())),
    cuts=st.lists(st.integers(min_value=0, max_value=400), max_size=12),
)
def test_no_cut_changes_what_is_read(texts: list[str], line_end: bytes, cuts: list[int]) -> None:
    data = [json.dumps(text, ensure_ascii=False).encode() for text in texts]
    stream = b"".join(b"data: " + item + line_end * 2 for item in data)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert [event.data for event in read(pieces)] == data


_LINES = st.sampled_from(
    [
        'data: {"a": 1}',
        "data: {}",
        "data: { }",
        "data: {",
        "data: {\ra}",
        "data:{}",
        "data: [DONE]",
        "data: }",
        "event: x",
        "id: 1",
        ": ping",
        "",
    ]
)


@given(st.lists(st.lists(_LINES, max_size=3).map(lambda lines: "\n".join([*lines, "", ""]).encode()), max_size=8))
def test_an_event_for_each_read_is_read_like_one_that_comes_byte_by_byte(reads: list[bytes]) -> None:
    assert read(reads) == read([bytes([byte]) for byte in b"".join(reads)])


def test_an_event_is_out_as_soon_as_its_blank_line_is_in() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\r\n\r") == [Event("", b"a")]
    assert decoder.feed(b"\ndata: b\n\n") == [Event("", b"b")]


def test_the_last_event_may_lack_its_blank_line() -> None:
    assert read([b"data: a\n\ndata: [DONE]"]) == [Event("", b"a"), Event("", b"[DONE]")]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b'data: {"a": 1}\ndata: {"b": 2}\ndata: [DONE]\n', [b'{"a": 1}', b'{"b": 2}', b"[DONE]"]),
        (b'data: {"a": 1} \ndata:\ndata:   {"b": 2}\n\n', [b'{"a": 1} ', b'  {"b": 2}']),
        (b'data: {\ndata:  "a": {}\ndata: }\ndata: {\ndata: }\n\n', [b'{\n "a": {}\n}', b"{\n}"]),
        (b'data: [{"a": 1},\ndata: {"b": [2]}\ndata: ]\n\n', [b'[{"a": 1},\n{"b": [2]}\n]']),
        (b"data:\ndata: [DONE]\n", [b"\n[DONE]"]),
    ],
    ids=["one a line", "blanks between", "over several lines", "one list over several lines", "after a blank line"],
)
def test_events_may_be_parted_by_one_line_end(stream: bytes, events: list[bytes]) -> None:
    for pieces in ([stream], [bytes([byte]) for byte in stream]):
        assert [event.data for event in read(pieces)] == events


def test_an_event_is_out_as_soon_as_the_next_one_begins() -> None:
    assert Decoder().feed(b'data: {"a": 1}\ndata: {"b": 2}\n') == [Event("", b'{"a": 1}')]


def test_each_of_the_events_that_one_line_end_parts_has_its_own_name() -> None:
    stream = b'event: a\ndata: {"a": 1}\nevent: b\ndata: {"b": 2}\ndata: {"c": 3}\n'
    assert read([stream]) == [Event("a", b'{"a": 1}'), Event("b", b'{"b": 2}'), Event("", b'{"c": 3}')]


def test_a_name_may_stand_behind_its_data() -> None:
    assert read([b'data: {"a": 1}\nevent: error\n\n']) == [Event("error", b'{"a": 1}')]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_byte_order_mark_counts_for_nothing_in_a_stream_without_line_ends(size: int) -> None:
    stream = b"\xef\xbb\xbfdata: a"
    assert read([stream[at : at + size] for at in range(0, len(stream), size)]) == [Event("", b"a")]


def test_an_event_without_an_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    decoder = Decoder()
    with pytest.raises(EventTooLarge):
        feed(decoder, b"x", times=200)


def test_many_lines_of_one_event_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    decoder = Decoder()
    with pytest.raises(EventTooLarge):
        feed(decoder, b"data: 12345\n", times=200)


@pytest.mark.parametrize("line", [b"data\n", b"data: {\n"])
def test_many_short_lines_of_one_event_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_LINES", 100)
    decoder = Decoder()
    with pytest.raises(EventTooLarge):
        feed(decoder, line, times=200)


def test_an_error_on_bare_lines_is_collected() -> None:
    decoder = Decoder()
    stream = b'data: 1\r\n\r\n{\r\n  "error": {"code": 503}\r\n}\r\n: comment\r\nid: 1\r\n'
    assert [event for byte in stream for event in decoder.feed(bytes([byte]))] == [Event("", b"1")]
    assert decoder.stray == b'{\n  "error": {"code": 503}\n}'


def test_stray_lines_are_bounded() -> None:
    decoder = Decoder()
    for _ in range(10):
        decoder.feed(b"{" * MAX_STRAY_BYTES + b"\n")
    assert len(decoder.stray) <= MAX_STRAY_BYTES
