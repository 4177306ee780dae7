"""What is counted of a reply while it is put together."""

import pytest

from contracts.events import ToolCallDelta
from workers.providers.base import Chunk, Gathering


@pytest.mark.parametrize(
    ("chunk", "characters"),
    [
        (Chunk(text="four"), 4),
        (Chunk(reasoning="four", refusal="no"), 6),
        (Chunk(tool_calls=(ToolCallDelta(index=0, id="call_1", name="look", arguments="{}"),)), 12),
        (Chunk(tool_calls=(ToolCallDelta(index=0, arguments="{}"),)), 2),
    ],
)
def test_all_that_a_server_can_make_long_counts(chunk: Chunk, characters: int) -> None:
    gathering = Gathering()
    gathering.add(chunk)
    assert gathering.characters == characters
