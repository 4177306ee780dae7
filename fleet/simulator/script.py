"""What the simulator does with one request: what it says, how fast, and how it fails."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from contracts.wire import StrictWireModel, optional

Seconds = Annotated[float, Field(ge=0, le=86_400)]
Count = Annotated[int, Field(ge=0)]

_WORDS = ("the", "model", "answers", "with", "one", "word", "after", "another", "until", "it", "has", "said", "enough")


class ScriptedToolCall(StrictWireModel):
    """A call of a tool. `arguments` as a text is sent as it stands; without an `id` the call gets a made-up one."""

    name: str
    arguments: dict[str, JsonValue] | str = Field(default_factory=dict)
    id: str | None = optional()

    @property
    def arguments_text(self) -> str:
        """The arguments for a vendor that sends them as a text."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)

    @property
    def arguments_value(self) -> JsonValue:
        """The arguments for a vendor that sends them as JSON. Raises ValueError when a text is no JSON."""
        return json.loads(self.arguments) if isinstance(self.arguments, str) else self.arguments


class ScriptedUsage(StrictWireModel):
    """The usage that is stated. A count of None is made from what was sent and said."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cache_read_tokens: Count = 0
    reasoning_tokens: Count = 0


class Script(StrictWireModel):
    """One answer. Every vendor's format understands it; chunks are counted over all output, tool calls included."""

    text: str | None = None
    """None: the last user message is repeated, unless there are tool calls, a refusal, or `chunks`."""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ScriptedToolCall, ...] = ()
    chunks: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How many chunks the text is cut into; without a text, how many words are said. None: see `chunk_size`."""
    chunk_size: Annotated[int, Field(ge=1)] | None = None
    """How many characters a chunk has; None: a chunk is a word."""
    usage: ScriptedUsage | None = ScriptedUsage()
    """None: the answer states no usage."""
    service_tier: str | None = None
    """The tier in which the vendor says that it served the call; None: its standard one. Ollama states none."""
    finish_reason: str | None = None
    """Why the answer ended, in the vendor's own words; None: the reason that fits the answer."""

    headers_s: Seconds = 0
    """How long the status line takes to come."""
    first_token_s: Seconds = 0
    """How long the first chunk takes to come after the headers."""
    between_s: Seconds = 0
    """How long each further chunk takes to come."""
    ping_s: Annotated[float, Field(gt=0)] | None = None
    """How often a sign of life comes while chunks do not; None: never."""
    together: Annotated[int, Field(ge=1)] = 1
    """How many chunks leave in one write."""
    split_bytes: Annotated[int, Field(ge=1)] | None = None
    """How many bytes each write to the socket has at most; None: writes are not split."""
    gzip: bool = False

    status: Annotated[int, Field(ge=200, le=599)] | None = None
    """The HTTP status; None: 200, or that of the error."""
    error: str | dict[str, JsonValue] | None = None
    """A name from the vendor's list of errors, or the body itself. With `error_after_chunks` it comes in the stream."""
    error_after_chunks: Count | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    """Further headers of the answer, also of an error."""
    body: str | None = None
    """The whole body of the answer, in place of everything that is said above."""
    content_type: str = "text/event-stream; charset=utf-8"
    """The type of `body`."""

    cut_after_chunks: Count | None = None
    cut_after_bytes: Count | None = None
    """Counted before compression."""
    cut: Literal["close", "reset", "eof"] = "close"
    """How it cuts: it closes in the middle of the body, resets the connection, or ends the body in good order."""
    stall_after_chunks: Count | None = None
    """After so many chunks nothing comes until the caller hangs up."""
    end_marker: bool = True
    """False: the stream ends in good order, but without the vendor's marker."""

    @property
    def reason(self) -> str:
        """Why the answer ended: what `finish_reason` says, otherwise `tool_calls` or `stop`."""
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")

    def output(self, *, last_user_text: str) -> str:
        """The text that is said."""
        if self.text is not None:
            return self.text
        if self.chunks:
            return " ".join(itertools.islice(itertools.cycle(_WORDS), self.chunks))
        return "" if self.tool_calls or self.refusal else f"You said: {last_user_text}"

    def pieces(self, text: str) -> Iterator[str]:
        """Cuts `text` into the chunks in which it is said."""
        if self.chunks and self.text is not None:
            size = max(-(-len(text) // self.chunks), 1)
        elif self.chunk_size:
            size = self.chunk_size
        else:
            yield from re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)
            return
        yield from (text[at : at + size] for at in range(0, len(text), size))


class Scripts:
    """The scripts of each model. They are used up in order, and the last one stays."""

    def __init__(self) -> None:
        self._by_model: dict[str, list[Script]] = {}

    def put(self, model: str, *scripts: Script) -> None:
        self._by_model[model] = list(scripts)

    def clear(self) -> None:
        self._by_model.clear()

    def next(self, model: str) -> Script:
        """The script of the model's next answer; without any, one that repeats what the user said."""
        waiting = self._by_model.get(model) or [Script()]
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]
