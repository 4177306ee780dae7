"""Deltas that hold what is new, and deltas that hold everything so far."""

import pytest

from workers.providers.shared.replies.text_deltas import TextDeltas


def read(deltas: list[str]) -> list[str]:
    """What is passed on after each delta, and at the end."""
    text = TextDeltas()
    passed_on: list[str] = []
    for delta in deltas:
        text.add(delta)
        passed_on.append(text.take())
    text.end()
    return [*passed_on, text.take()]


@pytest.mark.parametrize(
    "deltas",
    [
        ["Hel", "lo", " Hello"],
        ["ha", "haha", "hahaha"],
        ["=", "==", "====", "========", "================"],
        ["very ", "very very ", "very very very very very "],
        ["Yes.", "Yes. I said yes.", " Yes. I said yes. And again."],
        ["The same again", "The same again", "The same again"],
        ["The same again", "The same again and again"],
        [" ", "  ", "    return x"],
        ["I", "I am", "I am."],
    ],
)
def test_an_honest_answer_is_never_taken_for_a_repeated_one(deltas: list[str]) -> None:
    assert "".join(read(deltas)) == "".join(deltas)


@pytest.mark.parametrize(
    "deltas",
    [
        ["It rains", "It rains in the", "It rains in the west."],
        ["I", "It", "It r", "It rai", "It rains", "It rains in", "It rains in the west", "It rains in the west."],
        ["It rains", "It rains in the", "It rains in the w", "It rains in the w", "It rains in the west."],
    ],
)
def test_a_text_that_each_delta_holds_whole_is_told_once(deltas: list[str]) -> None:
    assert "".join(read(deltas)) == "It rains in the west."


def test_nothing_is_held_back_from_an_answer_whose_second_delta_is_new() -> None:
    assert read(["It", " rains", " rains hard"]) == ["It", " rains", " rains hard", ""]


def test_what_is_uncertain_is_held_back_until_it_is_certain() -> None:
    assert read(["ha", "haha", "!"]) == ["ha", "", "haha!", ""]
    assert read(["ha", "haha"]) == ["ha", "", "haha"]


def test_a_delta_of_another_kind_among_whole_texts_is_passed_on() -> None:
    assert "".join(read(["It rains", "It rains in the", "It rains in the west", "!"])) == "It rains in the west!"


def test_a_whole_message_counts_for_as_long_as_no_delta_has_come() -> None:
    text = TextDeltas()
    text.add_whole("Hel")
    text.add_whole("lo")
    assert text.take() == "Hello"
    text.add("!")
    text.add_whole("Hello!")
    assert text.take() == "!"
