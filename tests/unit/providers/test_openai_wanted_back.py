"""What servers of OpenAI's format want to see again of a message."""

from typing import Any

import pytest

from workers.providers.openai.wanted_back import WantedBack


def kept_of(*deltas: list[Any], field: str = "reasoning_details") -> Any:
    wanted_back = WantedBack()
    for delta in deltas:
        wanted_back.add_items(field, delta)
    kept = wanted_back.kept([])
    return kept["message"][field] if kept else None  # type: ignore[index,call-overload]


def test_fragments_of_an_object_are_joined_by_its_index() -> None:
    assert kept_of(
        [{"type": "reasoning.text", "text": "We", "index": 0, "id": "r1", "format": "x"}],
        [{"type": "reasoning.text", "text": " go", "index": 0, "id": None}],
        [
            {"type": "reasoning.encrypted", "data": "d", "index": 1},
            {"type": "reasoning.text", "index": 0, "signature": "s"},
        ],
    ) == [
        {"type": "reasoning.text", "text": "We go", "index": 0, "id": "r1", "format": "x", "signature": "s"},
        {"type": "reasoning.encrypted", "data": "d", "index": 1},
    ]


def test_two_types_under_one_index_are_two_objects() -> None:
    summary, hidden = (
        {"type": "reasoning.summary", "summary": "a", "index": 0},
        {"type": "reasoning.encrypted", "data": "d", "index": 0},
    )
    assert kept_of([summary], [hidden], [{**summary, "summary": "b"}]) == [{**summary, "summary": "ab"}, hidden]


def test_without_an_index_an_object_goes_on_until_it_is_signed() -> None:
    thinking = {"type": "thinking", "thinking": "We"}
    assert kept_of(
        [thinking],
        [{"type": "thinking", "thinking": " go"}],
        [{"type": "thinking", "thinking": "", "signature": "s"}],
        [{"type": "thinking", "thinking": "On"}],
        field="thinking_blocks",
    ) == [{"type": "thinking", "thinking": "We go", "signature": "s"}, {"type": "thinking", "thinking": "On"}]


def test_what_came_in_one_list_stays_as_it_is() -> None:
    details = [{"type": "reasoning.summary", "summary": "a"}, {"type": "reasoning.summary", "summary": "b"}]
    assert kept_of(details) == details


@pytest.mark.parametrize("odd", ["", {}, 5, None, "text", [None, 5, "x"]])
def test_what_is_no_list_of_objects_is_not_kept(odd: Any) -> None:
    assert kept_of(odd) is None


def test_fields_are_joined_where_they_are_objects() -> None:
    wanted_back = WantedBack()
    wanted_back.add_field("extra_content", {"google": {"thought": True}})
    wanted_back.add_field("extra_content", None)
    wanted_back.add_field("extra_content", {"other": 1})
    wanted_back.add_field("reasoning_opaque", "first")
    wanted_back.add_field("reasoning_opaque", "last")
    assert wanted_back.kept([]) == {
        "message": {"extra_content": {"google": {"thought": True}, "other": 1}, "reasoning_opaque": "last"}
    }


def test_nothing_is_kept_of_nothing() -> None:
    assert WantedBack().kept([]) is None
