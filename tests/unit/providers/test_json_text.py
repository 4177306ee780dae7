"""A foreign JSON text is read field by field."""

import importlib
import json
import pkgutil
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from workers import providers
from workers.providers.shared.json_text import MOST_IN_A_ROW, NO_JSON, EndFinder, FieldwiseDecoder, decode_any, in_a_row


class _Inner(msgspec.Struct):
    text: str | None = None
    count: int | None = None


class _Outer(msgspec.Struct, rename="camel"):
    id: str | None = None
    finish_reason: str | None = None
    is_done: bool = False
    index: int = 0
    items: list[_Inner] | None = None
    inner: _Inner | None = None
    blocks: list[dict[str, Any]] | None = None
    args: msgspec.Raw = msgspec.Raw(b"{}")
    anything: Any = None


decode = FieldwiseDecoder(_Outer)


@pytest.mark.parametrize(
    "odd",
    [
        b'"id": 7',
        b'"id": false',
        b'"id": ["a"]',
        b'"items": {}',
        b'"items": ""',
        b'"inner": []',
        b'"inner": "none"',
        b'"isDone": "perhaps"',
        b'"index": ""',
        b'"index": [0]',
        b'"blocks": {}',
        b'"inner": {"count": NaN}',
        b'"anything": "\xff"',
        b'"anything": "\\ud83d"',
        b'"anything": -Infinity',
    ],
)
def test_a_field_that_does_not_fit_is_left_out_alone(odd: bytes) -> None:
    assert decode(b'{"finishReason": "stop", ' + odd + b"}").finish_reason == "stop"
    assert decode(b"{" + odd + b', "finishReason": "stop"}').finish_reason == "stop"


def test_what_stands_beside_an_odd_field_deep_inside_counts() -> None:
    said = decode(b'{"id": {}, "inner": {"text": "lo", "count": []}, "items": [{"text": "a", "count": {}}]}')
    assert said.inner == _Inner(text="lo")
    assert said.items == [_Inner(text="a")]


def test_an_object_in_place_of_a_list_is_its_only_item() -> None:
    assert decode(b'{"items": {"text": "a"}}').items == [_Inner(text="a")]
    assert decode(b'{"items": {}}').items is None
    assert decode(b'{"items": {"text": "a"}, "index": 1}') == _Outer(items=[_Inner("a")], index=1)


def test_an_odd_item_of_a_list_keeps_its_place() -> None:
    assert decode(b'{"items": [null, {"text": "b"}, 5]}').items == [_Inner(), _Inner(text="b"), _Inner()]
    assert decode(b'{"blocks": [null, {"type": "text"}]}').blocks == [{"type": "text"}]


@pytest.mark.parametrize(
    ("said", "count"),
    [
        (b"5", 5),
        (b"5.0", 5),
        (b"5.6", 6),
        (b'"5"', 5),
        (b"true", None),
        (b'"five"', None),
        (b"-1", -1),
        pytest.param(b"9" * 400, 10**400 - 1, id="more than a float holds"),
        (b"1e999", None),
    ],
)
def test_counts_come_as_numbers_fractions_and_texts(said: bytes, count: int | None) -> None:
    assert decode(b'{"id": 0, "inner": {"count": ' + said + b"}}").inner == _Inner(count=count)


@pytest.mark.parametrize(
    ("said", "is_done"),
    [(b"true", True), (b'"true"', True), (b'"True"', True), (b"1", True), (b'"false"', False), (b"0", False)],
)
def test_truth_is_the_same_beside_an_odd_field(said: bytes, is_done: bool) -> None:
    assert decode(b'{"isDone": ' + said + b"}").is_done is is_done
    assert decode(b'{"isDone": ' + said + b', "id": 0}').is_done is is_done


def test_a_raw_field_is_kept_beside_an_odd_one() -> None:
    assert bytes(decode(b'{"id": 0, "args": {"a": [1]}}').args) == b'{"a":[1]}'


KINDS: list[Any] = [None, True, 5, 5.5, "odd", [], ["odd"], {}, {"odd": 5}]
"""Values so different that a field takes all of them only when it takes everything."""


def decoders_of_replies() -> list[FieldwiseDecoder[Any]]:
    modules = [found.name for found in pkgutil.walk_packages(providers.__path__, f"{providers.__name__}.")]
    members = [member for name in modules for member in vars(importlib.import_module(name)).values()]
    return [member for member in members if isinstance(member, FieldwiseDecoder)]


def values_everywhere(form: inspect.Type) -> Iterator[Any]:
    """Values of every kind, in each place of a form in turn."""
    yield from KINDS
    match form:
        case inspect.UnionType():
            for one in form.types:
                yield from values_everywhere(one)
        case inspect.StructType():
            for field in form.fields:
                yield from ({field.encode_name: value} for value in values_everywhere(field.type))
        case inspect.ListType():
            yield from ([value] for value in values_everywhere(form.item_type))
        case _:
            pass


def try_all(decoding: FieldwiseDecoder[Any]) -> None:
    for value in values_everywhere(inspect.type_info(decoding.kind)):
        if isinstance(value, dict):
            decoding(msgspec.json.encode(value))


def test_every_field_of_a_reply_has_a_form_that_can_be_fitted() -> None:
    """A form that cannot would be found out only when that very field comes in an odd reply."""
    found = decoders_of_replies()
    assert len(found) >= 5
    for decoding in found:
        try_all(decoding)


def test_a_form_that_cannot_be_fitted_is_found_out() -> None:
    class Deep(msgspec.Struct):
        shares: list[tuple[int, ...]] | None = None

    class Reply(msgspec.Struct):
        deep: list[Deep] | None = None

    with pytest.raises(TypeError, match="VarTupleType"):
        try_all(FieldwiseDecoder(Reply))


@pytest.mark.parametrize("data", [b"[]", b"null", b'"text"', b"5"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(data)


@pytest.mark.parametrize("data", [b"", b"{", b'{"a": 1}{"b": 2}', b'{"a": }', b"[" * 100_000, b"[" + b"9" * 5000])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    for decoding in (decode, decode_any):
        with pytest.raises(NO_JSON) as refused:
            decoding(data)
        assert not isinstance(refused.value, msgspec.ValidationError), "that is what JSON of another form raises"


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'"\xf0\x9f\x98"', "\ufffd"),
        (b'"a\\ud83d"', "a\ufffd"),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'{"\\ude00": ["\\ud83d"]}', {"\ufffd": ["\ufffd"]}),
        (b'"line\nbreak"', "line\nbreak"),
        (b'{"logprob": NaN}', {"logprob": None}),
        (b'{"logprob": [-1e999, 0.5]}', {"logprob": [None, 0.5]}),
        (b"[" + b"9" * 5000 + b", 12, -12]", [None, 12, -12]),
    ],
)
def test_what_only_a_strict_reader_refuses_is_read(data: bytes, value: Any) -> None:
    assert decode_any(data) == value


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'{"a": 1}{"b": "}{"}', [b'{"a": 1}', b'{"b": "}{"}']),
        (b' {"a": 1}\n{"b": 2} \n', [b'{"a": 1}', b'{"b": 2}']),
        (b'{"a": 1}data: {"b": 2} [DONE]', [b'{"a": 1}', b'{"b": 2}', b"[DONE]"]),
        (b'{"a": 1}{"b": ', [b'{"a": 1}', b'{"b": ']),
        (b'{"a": "\xff"}{}', [b'{"a": "\xef\xbf\xbd"}', b"{}"]),
        (b"no", [b"no"]),
        (b"{" * 100_000, [b"{" * 100_000]),
        (b" ", []),
    ],
)
def test_objects_in_a_row_are_told_apart(data: bytes, found: list[bytes]) -> None:
    assert list(in_a_row(data)) == found


@pytest.mark.parametrize("unit", [b"data:", b"{}", b"{} ", b"data: {}"])
def test_a_row_without_an_end_is_read_in_a_moment(unit: bytes) -> None:
    began = time.process_time()
    assert sum(1 for _ in in_a_row(unit * 1_000_000)) <= MOST_IN_A_ROW
    assert time.process_time() - began < 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='{}[]"\\a,: \n\U0001f600'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='{"\\]', max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(
    value=st.lists(VALUES, max_size=3) | st.dictionaries(st.text(max_size=2), VALUES),
    size=st.integers(1, 20),
    ascii_only=st.booleans(),
)
def test_the_end_of_a_value_is_found_in_fragments_of_any_size(value: Any, size: int, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    behind = ' {"b": 2}'
    finder = EndFinder()
    end = 0
    for at in range(0, len(text + behind), size):
        end = at + finder.feed((text + behind)[at : at + size])
        if finder.ended:
            break
    assert end == len(text)


def test_a_value_that_has_ended_takes_no_more() -> None:
    finder = EndFinder()
    assert (finder.feed("[]"), finder.feed("}"), finder.ended) == (2, 0, True)


@pytest.mark.parametrize("fragments", [["text {"], ['"a', "}"], ["5"], ["}", "{"]])
def test_what_does_not_end_is_taken_whole(fragments: list[str]) -> None:
    finder = EndFinder()
    assert [finder.feed(fragment) for fragment in fragments] == [len(fragment) for fragment in fragments]
    assert not finder.ended
