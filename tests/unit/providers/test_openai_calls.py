"""Tool calls put together from what servers of OpenAI's format send."""

import json
from typing import Any

import msgspec
import pytest

from workers.providers.base import Chunk, Gathering
from workers.providers.openai.calls import CallDelta, ToolCalls
from workers.providers.shared.replies import tool_calls

Fields = dict[str, Any]


def call(name: Any = None, arguments: Any = None, **fields: Any) -> Fields:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {**fields, "function": function}


def read(
    *deltas: Fields, are_whole: bool = False, is_cut: bool = False
) -> tuple[list[tuple[str, str, str]], ToolCalls]:
    """Id, name and arguments of the calls; an id of ours is `new`."""
    calls = ToolCalls()
    gathering = Gathering()
    for delta in deltas:
        calls.add(msgspec.convert(delta, CallDelta), is_whole=are_whole)
        gathering.add(Chunk(tool_calls=calls.take()))
    calls.end(is_cut=is_cut)
    gathering.add(Chunk(tool_calls=calls.take()))
    made = gathering.message().tool_calls or ()
    assert len({one.id for one in made}) == len(made)
    ours = len("call_") + 24
    return [
        ("new" if len(one.id) == ours else one.id, one.function.name, one.function.arguments) for one in made
    ], calls


BONN, ROME = '{"city": "Bonn"}', '{"city": "Rome"}'
TWO = [("f", BONN), ("f", ROME)]


@pytest.mark.parametrize(
    "deltas",
    [
        [call("f", BONN, index=0, id=""), call("f", ROME, index=0, id="")],
        [call("f", BONN, index=0), call("f", ROME, index=0)],
        [call("f", BONN, index=0, id=None), call("f", ROME, index=0, id="b")],
        [call("f", BONN, index=0, id="a"), call("f", ROME, index=0, id="a")],
        [call("f", BONN, index=0, id="a"), call("f", ROME, index=1, id="a")],
        [call("f", BONN, id="a"), call("f", ROME, id="a"), call("f", "", id="a")],
        [call("f", BONN), call("f", ROME)],
        [call("f", {"city": "Bonn"}, index=0), call("f", {"city": "Rome"}, index=0)],
        [call("f", "", index=0), call(None, BONN, index=0), call("f", "", index=0), call(None, ROME, index=0)],
        [call("f", "", index=0, id="a"), call("", BONN, index=0), call("", ROME, index=0)],
        [call("f", "", index=0, id="a"), call(None, BONN + ROME, index=0)],
        [call("f", "", index=0, id="a"), call(None, BONN[:-1], index=0), call(None, "}\n" + ROME, index=0)],
        [call("f", "", index=0, id="a"), call("f", "", index=0, id="b"), call(None, BONN, index=0, id="a"),
         call(None, ROME, index=0, id="b")],
        [call("f", "", id="a"), call("f", "", id="b"), call(None, ROME[:5], id="b"), call(None, BONN, id="a"),
         call(None, ROME[5:], id="b")],
        [call("f", BONN, index=0, id=1), call("f", ROME, index=0, id=2)],
    ],
    ids=[
        "index 0 and an empty id",
        "index 0 and no id",
        "index 0 and a late id",
        "one id under one index",
        "one id under two indexes",
        "one id without an index",
        "neither index nor id",
        "arguments as objects",
        "each with a head of its own",
        "the second without a head",
        "both in one fragment",
        "both in one fragment, the first begun before",
        "two ids that alternate under one index",
        "two ids that alternate without an index",
        "numbers as ids",
    ],
)  # fmt: skip
def test_two_calls_are_two_whatever_they_are_numbered(deltas: list[Fields]) -> None:
    made, _ = read(*deltas)
    assert sorted((name, arguments.replace('":"', '": "').strip()) for _, name, arguments in made) == TWO


@pytest.mark.parametrize("ids", [("a", "a"), ("", ""), (None, None), ("a", "b")])
@pytest.mark.parametrize("arguments", ["", "{}", {}, None, BONN])
def test_each_call_of_a_whole_message_is_one(ids: tuple[str | None, str | None], arguments: Any) -> None:
    made, _ = read(*(call("f", arguments, index=0, id=id_) for id_ in ids), are_whole=True)
    assert [(name, told) for _, name, told in made] == [("f", arguments if arguments == BONN else "{}")] * 2


@pytest.mark.parametrize(
    "deltas",
    [
        [call(None, '{"city": ', index=0, id="a"), call("f", '"Bonn"}', index=0)],
        [call(None, "", index=0, id="a"), call("f", "", index=0), call(None, BONN, index=0)],
        [call("", BONN, index=0, id="a"), call("f", "", index=0)],
        [{"index": 0, "id": "a", "function": None}, call("f", BONN, index=0)],
        [call("f", "", index=0), call(None, BONN, index=0, id="a")],
        [
            call("f", "", index=0, id="a"),
            call("f", '{"city": ', index=0, id="a"),
            call("f", '"Bonn"}', index=0, id="a"),
        ],
        [call("f", BONN, index=0, id="a"), call("f", "", index=0, id="a"), call("", "", index=1)],
        [call("f", "", index=0, id="a"), call(None, BONN[:5], index=0, id="b"), call(None, BONN[5:], index=0, id="c")],
        [call("f", "", id="a"), call(None, BONN[:5], id="b"), call(None, BONN[5:], id="c")],
        [call("f", BONN[:5], index=0, id="a"), call(None, BONN[5:], index=1, id="a")],
        [call("f", {}, index=0, id="a"), call(None, BONN, index=0)],
        [call("f", "{}", index=0, id="a"), call(None, BONN[:5], index=0), call(None, BONN[5:], index=0)],
        [call("f", "{}" + BONN, index=0, id="a")],
        [call("f", [], index=0, id="a"), call(None, BONN, index=0)],
        [call(index=0), call("f", BONN, index=0, id="a"), call(index=1, id="")],
        [call("", "", index=0, id="x"), call("f", BONN, index=1, id="a")],
    ],
    ids=[
        "the name late",
        "the name second, the arguments third",
        "the name last",
        "no function at first",
        "the id late",
        "the name and the id again and again",
        "the head again at the end",
        "another id in each fragment",
        "another id in each fragment, no index",
        "another index in each fragment",
        "an object in the head",
        "an empty object as a text in the head",
        "an empty object before the real one",
        "an empty list in the head",
        "blank deltas before and after",
        "an id that nobody calls by",
    ],
)
def test_one_call_is_one_whatever_its_deltas_leave_out(deltas: list[Fields]) -> None:
    made, calls = read(*deltas)
    assert made == [("a", "f", BONN)]
    assert calls.unnamed == 0


@pytest.mark.parametrize("second", ["weather", "get_weather"])
def test_a_name_may_come_in_pieces(second: str) -> None:
    made, _ = read(call("get_", "", index=0, id="a"), call(second, "", index=0), call(None, BONN, index=0))
    assert made == [("a", "get_weather", BONN)]


@pytest.mark.parametrize(
    "blank",
    [{}, call(), call("", ""), call(" ", " "), call("", "", index=1), call("", "", id="x"), call(None, {}, index=0)],
)
def test_a_blank_delta_is_no_call(blank: Fields) -> None:
    made, calls = read(blank, blank)
    assert (made, calls.any, calls.unnamed) == ([], False, 0)


def test_a_call_that_is_never_named_is_counted_and_not_passed_on() -> None:
    made, calls = read(
        call(None, '{"a"', index=0, id="a"), call(None, ": 1}", index=0), call("f", BONN, index=1, id="b")
    )
    assert made == [("b", "f", BONN)]
    assert calls.unnamed == 1


@pytest.mark.parametrize("arguments", ["", None, "{}", "null", {}, []])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any) -> None:
    made, _ = read(call("now", arguments, index=0, id="a"))
    assert made == [("a", "now", "{}")]


@pytest.mark.parametrize(
    ("arguments", "told"), [(5, "5"), ([1, 2], "[1,2]"), (2**70, str(2**70)), ({"x": 1.5}, '{"x":1.5}')]
)
def test_arguments_of_another_type_are_told_as_their_json(arguments: Any, told: str) -> None:
    made, _ = read(call("f", arguments, index=0, id="a"))
    assert made == [("a", "f", told)]


LS = '{"command": "ls"}'


@pytest.mark.parametrize(
    "deltas",
    [
        [{"index": 0, "id": "a", "type": "function", "name": "f", "arguments": LS}],
        [{"index": 0, "id": "a", "name": "f", "arguments": ""}, {"index": 0, "arguments": LS[:5]},
         {"index": 0, "arguments": LS[5:]}],
        [{"id": "a", "type": "tool_use", "name": "f", "input": {"command": "ls"}}],
        [{"index": 0, "id": "a", "function": {}, "name": "f", "arguments": LS}],
        [{"index": 0, "id": "a", "function": {"name": "f", "parameters": {"command": "ls"}}}],
    ],
)  # fmt: skip
def test_a_call_may_have_its_words_elsewhere(deltas: list[Fields]) -> None:
    made, _ = read(*deltas)
    assert [(id, name, json.loads(arguments)) for id, name, arguments in made] == [("a", "f", {"command": "ls"})]  # noqa: A001


def test_a_custom_tool_is_called_with_a_text() -> None:
    made, _ = read(
        {"index": 0, "id": "a", "type": "custom", "custom": {"name": "f", "input": ""}},
        {"index": 0, "custom": {"input": "ls -"}},
        {"index": 0, "custom": {"input": "la"}},
    )
    assert made == [("a", "f", "ls -la")]


@pytest.mark.parametrize("number", [0, 5, 1.5])
def test_fragments_take_the_place_of_a_number(number: float) -> None:
    made, _ = read(call("f", number, index=0, id="a"), call(None, LS[:9], index=0), call(None, LS[9:], index=0))
    assert made == [("a", "f", LS)]


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("are_whole", [True, False])
def test_arguments_in_a_text_inside_the_text_are_the_object(size: int, are_whole: bool) -> None:
    twice = json.dumps(LS)
    fragments = [twice] if are_whole else [twice[at : at + size] for at in range(0, len(twice), size)]
    deltas = [call("f" if not at else None, part, index=0, id="a") for at, part in enumerate(fragments)]
    made, _ = read(*deltas, are_whole=are_whole)
    assert made == [("a", "f", LS)]


@pytest.mark.parametrize("text", ['"ls"', '"{ls"', '"[1]"', '"half'])
def test_a_text_that_holds_no_object_is_told_as_it_is(text: str) -> None:
    made, _ = read(call("f", text, index=0, id="a"))
    assert made == [("a", "f", text)]


@pytest.mark.parametrize(
    "repeated",
    [
        call("f", LS, index=0, id="a"),
        call("f", LS, id="a"),
        call(None, "{}", index=0),
        call(None, "null", index=0),
        call("f", "", index=0, id="a"),
        call("f", "{}", index=0, id="a"),
    ],
)
@pytest.mark.parametrize("size", [3, 1000])
def test_what_repeats_a_call_is_no_other_one(repeated: Fields, size: int) -> None:
    """vLLM and gateways show the whole call once more beside the finish reason, or an empty object behind it."""
    fragments = [LS[at : at + size] for at in range(0, len(LS), size)]
    parts = [call(None, part, index=0) for part in fragments]
    made, _ = read(call("f", "", index=0, id="a"), *parts, repeated)
    assert made == [("a", "f", LS)]


def test_a_signature_counts_in_a_delta_that_says_nothing_else_new() -> None:
    made, calls = read(call("f", LS, index=0, id="a"), call("f", LS, index=0, id="a", thought_signature="s"))
    assert made == [("a", "f", LS)]
    assert calls.wanted_back() == [{"thought_signature": "s"}]


@pytest.mark.parametrize("head", [[], [call("f", "", index=0, id="a")]])
@pytest.mark.parametrize("sums", [['{"comma', '{"command": "l', LS], ["{", '{"command"', LS, LS], ['{"command"', LS]])
def test_each_delta_may_hold_all_arguments_so_far(head: list[Fields], sums: list[str]) -> None:
    made, _ = read(*head, *(call("f", so_far, index=0, id="a") for so_far in sums))
    assert made == [("a", "f", LS)]


@pytest.mark.parametrize("second", ['{"a":1}}', '{"a":{"a":1}}}'])
def test_an_object_inside_an_object_may_begin_like_it(second: str) -> None:
    made, _ = read(call("f", '{"a":', index=0, id="a"), call(None, second, index=0))
    assert made == [("a", "f", '{"a":' + second)]


def test_a_call_that_was_cut_before_its_arguments_has_none() -> None:
    made, _ = read(call("f", "", index=0, id="a"), is_cut=True)
    assert made == [("a", "f", "")]


def test_brackets_in_a_text_part_nothing() -> None:
    code = json.dumps({"code": '} {"a": "\\"} { [', "n": [{}]})
    for size in (1, 2, 3, len(code)):
        fragments = (call(None, code[at : at + size], index=0) for at in range(0, len(code), size))
        made, _ = read(call("f", "", index=0, id="a"), *fragments)
        assert made == [("a", "f", code)]


def test_calls_are_told_in_the_order_in_which_they_began() -> None:
    made, _ = read(call("f", "", index=0, id="a"), call("g", BONN, index=1, id="b"), call("h", "", index=2, id="c"))
    assert made == [("a", "f", "{}"), ("b", "g", BONN), ("c", "h", "{}")]


def test_an_id_is_kept_as_it_came() -> None:
    made, _ = read(call("f", BONN, index=0, id="call_1__thought__" + "Q" * 5000))
    assert made == [("call_1__thought__" + "Q" * 5000, "f", BONN)]


def test_a_server_that_never_ends_its_objects_makes_no_million_calls() -> None:
    made, _ = read(call("f", '{"a":1}' * 20_000, index=0, id="a"))
    assert len(made) == 1000
    assert sum(arguments.count("{") for _, _, arguments in made) == 20_000


def test_what_a_server_wants_back_is_kept_for_each_call() -> None:
    signed = {"google": {"thought_signature": "s1"}}
    _, calls = read(
        call("f", BONN, index=0, id="a", extra_content=signed),
        call("g", BONN, index=1, id="b"),
        call("h", BONN, index=2, id="c"),
        call(index=2, provider_specific_fields={"thought_signature": "s2"}, thought_signature="s3"),
    )
    assert calls.wanted_back() == [
        {"extra_content": signed},
        {},
        {"provider_specific_fields": {"thought_signature": "s2"}, "thought_signature": "s3"},
    ]


def test_nothing_is_kept_where_no_call_wants_anything_back() -> None:
    _, calls = read(call("f", BONN, index=0, id="a", extra_content={}))
    assert calls.wanted_back() == []


def test_a_server_that_names_its_calls_last_makes_no_million_calls() -> None:
    nameless = [call(arguments="{", index=at) for at in range(3000)]
    named = [call(f"f{at}", index=at) for at in reversed(range(3000))]
    made, calls = read(*nameless, *named)
    assert (len(made), calls.too_many) == (1000, True)


def test_a_name_that_never_ends_is_cut() -> None:
    made, _ = read(call("f", id="c1", index=0), *[call("_more", index=0)] * 1000, call(arguments="{}", index=0))
    assert [len(name) for _, name, _ in made] == [tool_calls.MAX_NAME_CHARS]
