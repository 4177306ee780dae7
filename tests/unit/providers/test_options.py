"""How a caller's further options change a request's body."""

from typing import Any

import pytest

from workers.providers.shared.requests.options import merged, overlaid


@pytest.mark.parametrize("put", [overlaid, merged])
@pytest.mark.parametrize(
    ("further", "found"),
    [
        ({}, {"a": 1, "max_tokens": 9}),
        ({"a": 2, "b": {"c": None}}, {"a": 2, "b": {"c": None}, "max_tokens": 9}),
        ({"a": None, "b": None}, {"max_tokens": 9}),
        ({"max_tokens": 5}, {"a": 1, "max_tokens": 5}),
        ({"max_tokens": None, "max_completion_tokens": None}, {"a": 1, "max_tokens": 9}),
    ],
)
def test_options_win_and_null_leaves_a_field_out_but_never_an_output_limit(
    put: Any, further: dict[str, Any], found: dict[str, Any]
) -> None:
    before = {"a": 1, "max_tokens": 9}
    assert put(before, further) == found
    assert before == {"a": 1, "max_tokens": 9}


def test_objects_are_merged_where_that_is_wanted() -> None:
    before = {"a": {"b": 1, "c": [1], "d": 2}, "d": 1}
    further = {"a": {"c": [2], "d": None, "e": 3}, "d": {"f": 4}}
    assert merged(before, further) == {"a": {"b": 1, "c": [2], "e": 3}, "d": {"f": 4}}
    assert before == {"a": {"b": 1, "c": [1], "d": 2}, "d": 1}
    assert overlaid(before, further)["a"] == further["a"]
