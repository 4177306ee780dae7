"""What the simulator does with one request: what it says, how fast, and how it fails."""

import itertools
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from contracts.wire import StrictWireModel, optional

Seconds = Annotated[float, Field(ge=0, le=86_400)]
Count = Annotated[int, Field(ge=0)]

_WORDS = ("the", "model", "answers", "with", "one", "word", "after", "another", "until", "it", "has", "said", "enough")


class ScriptedToolCall(StrictWireModel):
    name: str
    arguments: dict[str, JsonValue] | str = Field(default_factory=dict)
    id: str | None = optional()


class ScriptedUsage(StrictWireModel):
    """What is left out is counted from what was sent and said."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_tokens: Count = 0
    reasoning_tokens: Count = 0


class Script(StrictWireModel):
    """One answer. Every vendor's format understands it; chunks are counted over all output, tool calls included."""

    text: str | None = None
    """None: derived from the last user message, unless there are tool calls, a refusal, or `chunks`."""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ScriptedToolCall, ...] = ()
    chunks: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Into how many chunks the text is cut; without a text, so many words are said."""
    chunk_size: Annotated[int, Field(ge=1)] | None = None
    """Characters in a chunk; without it and `chunks`, a word."""
    usage: ScriptedUsage | None = ScriptedUsage()
    """None: none is stated."""
    service_tier: str | None = None
    """As what it says that it served the call; None: its standard. Ollama has none."""
    finish_reason: str | None = None
    """In the vendor's own words; None: what fits."""

    headers_s: Seconds = 0
    """Before the status line."""
    first_token_s: Seconds = 0
    between_s: Seconds = 0
    ping_s: Annotated[float, Field(gt=0)] | None = None
    """While it waits, a sign of life comes so often."""
    together: Annotated[int, Field(ge=1)] = 1
    """How many chunks leave in one write."""
    split_bytes: Annotated[int, Field(ge=1)] | None = None
    """Every write is cut into pieces of so many bytes."""
    gzip: bool = False

    status: Annotated[int, Field(ge=200, le=599)] | None = None
    error: str | dict[str, JsonValue] | None = None
    """A name from the vendor's list of errors, or the body itself. With `error_after_chunks` it comes in the stream."""
    error_after_chunks: Count | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    body: str | None = None
    """Sent as it is, in place of everything above."""
    content_type: str = "text/event-stream; charset=utf-8"
    """Of `body`."""

    cut_after_chunks: Count | None = None
    cut_after_bytes: Count | None = None
    cut: Literal["close", "reset", "eof"] = "close"
    """How it cuts: it closes in the middle of the body, resets the connection, or ends the body in good order."""
    stall_after_chunks: Count | None = None
    """Then nothing comes until the caller hangs up."""
    end_marker: bool = True
    """False: the stream ends in good order, but without the vendor's marker."""

    def output(self, *, last_user_text: str) -> str:
        if self.text is not None:
            return self.text
        if self.chunks:
            return " ".join(itertools.islice(itertools.cycle(_WORDS), self.chunks))
        return "" if self.tool_calls or self.refusal else f"You said: {last_user_text}"

    def pieces(self, text: str) -> Iterator[str]:
        """`text` as the chunks in which it is said."""
        if self.chunks and self.text is not None:
            size = max(-(-len(text) // self.chunks), 1)
        elif self.chunk_size:
            size = self.chunk_size
        else:
            yield from re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)
            return
        yield from (text[at : at + size] for at in range(0, len(text), size))


class Scripts:
    """The scripts of each model, used up in order; the last one stays."""

    def __init__(self) -> None:
        self._by_model: dict[str, list[Script]] = {}

    def put(self, model: str, *scripts: Script) -> None:
        self._by_model[model] = list(scripts)

    def clear(self) -> None:
        self._by_model.clear()

    def next(self, model: str) -> Script:
        waiting = self._by_model.get(model) or [Script()]
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]
