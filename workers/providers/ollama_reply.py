"""Ollama's native chat format: the reply that we read, lines of JSON up to the one with `done: true`."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from pydantic import JsonValue

from contracts.errors import FleetError, ProviderUnavailable, StreamInterrupted
from contracts.events import FinishReason, ToolCallDelta
from contracts.usage import Usage, UsageSource
from workers.providers import tool_calls
from workers.providers.base import Chunk, Finish, Stated
from workers.providers.json_text import NO_JSON
from workers.providers.ndjson import Lines
from workers.providers.ollama_request import NAME
from workers.providers.sse import EventTooLarge

_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "load": "stop", "unload": "stop"}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()


class _ToolCall(msgspec.Struct, gc=False):
    id: str | None = None
    """Newer servers give one."""
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Line(msgspec.Struct, gc=False):
    model: str | None = None
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    error: Any = None


_decode_line = msgspec.json.Decoder(_Line, strict=False).decode
_decode_any = msgspec.json.Decoder().decode


class OllamaReader:
    """Reads one reply. See `workers.providers.reading.Reader`."""

    def __init__(
        self,
        *,
        classify: Callable[[object], FleetError],
        estimate_input: Callable[[], int],
        warnings: Sequence[str] = (),
    ) -> None:
        """`classify`: the error that a line reports. `estimate_input`: for servers that state the output only."""
        self._classify = classify
        self._estimate_input = estimate_input
        self._warnings = tuple(warnings)
        self._lines = Lines()
        self._model: str | None = None
        self._last: _Line | None = None
        self._calls = 0
        self._thought: list[str] = []
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._deltas: list[ToolCallDelta] = []
        self.stated: Stated | None = None
        self.error: FleetError | None = None

    @property
    def finished(self) -> bool:
        return self._last is not None

    @property
    def done(self) -> bool:
        """The end marker and the usage are one line."""
        return self._last is not None

    def feed(self, data: bytes) -> Chunk | None:
        try:
            lines = self._lines.feed(data)
        except EventTooLarge as exc:
            self.error = ProviderUnavailable(f"{NAME} sent {exc}", provider=NAME)
            return None
        for line in lines:
            if not self._take(line):
                break
        return self._merged()

    def end(self) -> Chunk | None:
        """A reply that is not streamed has no newline at its end."""
        if (line := self._lines.end()) and not self.done:
            self._take(line, may_be_cut=True)
        return self._merged()

    def finish(self) -> Finish:
        said = self._last.done_reason if self._last else None
        known = _FINISH_REASONS.get(said or "stop")
        unknown = () if known else (f"{NAME} gave the unknown done_reason {str(said)[:64]!r}",)
        return Finish(
            finish_reason="tool_calls" if self._calls and known != "length" else known or "stop",
            usage=self._usage(),
            response_model=self._model,
            provider_data=self._wanted_back(),
            warnings=(*self._warnings, *unknown),
        )

    def _take(self, line: bytes, *, may_be_cut: bool = False) -> bool:
        """Whether the next line is of interest."""
        try:
            said = _decode_line(line)
        except msgspec.ValidationError as exc:
            self.error = StreamInterrupted(f"{NAME} sent a line of another form: {exc}", provider=NAME)
            return False
        except NO_JSON:
            if not may_be_cut:
                self.error = StreamInterrupted(f"{NAME} sent a line that is no JSON", provider=NAME)
            return False
        if said.error:
            self.error = self._classify(_decode_any(line))
            return False
        self._model = self._model or said.model
        if said.message:
            self._take_message(said.message)
        if said.done:
            self._last = said
        return not said.done

    def _take_message(self, message: _Message) -> None:
        if message.content:
            self._text.append(message.content)
        if message.thinking:
            self._reasoning.append(message.thinking)
            self._thought.append(message.thinking)
        for call in message.tool_calls or ():
            function = call.function or _Function()
            arguments = _as_text(function.arguments)
            self._deltas.append(tool_calls.begun(self._calls, id=call.id, name=function.name, arguments=arguments))
            self._calls += 1

    def _merged(self) -> Chunk | None:
        if not (self._text or self._reasoning or self._deltas):
            return None
        chunk = Chunk(text="".join(self._text), reasoning="".join(self._reasoning), tool_calls=tuple(self._deltas))
        self._text.clear()
        self._reasoning.clear()
        self._deltas.clear()
        return chunk

    def _usage(self) -> Usage | None:
        """Counts of zero are left out, and some servers leave out a prompt that was in their cache."""
        given, out = (self._last.prompt_eval_count, self._last.eval_count) if self._last else (None, None)
        if given is None and out is None:
            return None
        if given is None:
            return Usage(input_tokens=self._estimate_input(), output_tokens=out or 0, source=UsageSource.ESTIMATED)
        return Usage(input_tokens=given, output_tokens=out or 0, source=UsageSource.VENDOR)

    def _wanted_back(self) -> dict[str, JsonValue] | None:
        """A model that thought before it called tools goes on from there when it sees its thoughts again."""
        if not (self._calls and self._thought):
            return None
        return {NAME: {"thinking": "".join(self._thought)}}


def _as_text(arguments: msgspec.Raw) -> str:
    """The object as it was sent. Some models' templates make it a text that holds one."""
    raw = bytes(arguments)
    if raw.startswith(b'"'):
        return msgspec.json.decode(raw, type=str) or "{}"
    return raw.decode() if raw not in (b"", b"null") else "{}"
