"""The output of one reply, before it is passed on."""

from workers.providers.shared.replies.output import Output


def test_fragments_of_arguments_that_came_together_are_one_delta() -> None:
    output = Output()
    output.begin_call(id="a", name="f", arguments='{"x"')
    for fragment in (": ", "1", "}"):
        output.add_arguments(0, fragment)

    chunk = output.take()

    assert chunk
    assert [(call.name, call.arguments) for call in chunk.tool_calls] == [("f", '{"x": 1}')]
    assert chunk.pieces == 4
    assert output.take() is None


def test_arguments_go_on_in_the_next_delta() -> None:
    output = Output()
    output.begin_call(id="a", name="f")
    output.take()
    output.add_arguments(0, "{")
    output.add_arguments(0, "}")

    chunk = output.take()

    assert chunk
    assert [(call.index, call.name, call.arguments) for call in chunk.tool_calls] == [(0, None, "{}")]


def test_a_megabyte_in_tiny_fragments_is_copied_once() -> None:
    """Copied with every fragment, it would be a hundred gigabytes, and this test would not end."""
    output = Output()
    output.begin_call(id="a", name="f")
    for _ in range(200_000):
        output.add_arguments(0, "12345")

    chunk = output.take()

    assert chunk
    assert len(chunk.tool_calls[0].arguments or "") == 1_000_000
