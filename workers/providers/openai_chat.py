"""A reply in OpenAI's chat completions format, streamed or whole.

OpenAI, Azure OpenAI and every compatible server speak it, each with its oddities; the reader takes them all:
tool calls without index or id, a call sent whole, two calls under one index, `stop` after tool calls, `[DONE]` without
a `finish_reason`, reasoning under three names, usage in four places, and a whole JSON reply where a stream was asked.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from contracts.errors import FleetError, ProviderUnavailable, StreamInterrupted
from contracts.events import FinishReason, ToolCallDelta
from contracts.usage import Usage, UsageSource
from workers.providers import tool_calls
from workers.providers.base import Chunk, Finish, Stated, service_tier
from workers.providers.error_body import is_error
from workers.providers.json_text import NO_JSON
from workers.providers.reply_body import ReplyBody
from workers.providers.sse import Event, EventTooLarge
from workers.providers.vendor_errors import Classify

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_BROKE_OFF = frozenset({"error", "abort", "insufficient_system_resource"})
"""Finish reasons with which compatible servers say that the reply is not whole."""
_KEEP_ALIVE_EVENTS = frozenset({"ping", "keepalive", "keep-alive", "heartbeat"})


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's cached tokens."""


class _Choice(msgspec.Struct, gc=False):
    index: int | None = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    """In place of `delta` when the server did not stream."""
    finish_reason: str | None = None
    usage: _Usage | None = None
    """Moonshot puts it here."""


class _Groq(msgspec.Struct, gc=False):
    usage: _Usage | None = None


class _Chunk(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    object: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    service_tier: Any = None
    x_groq: _Groq | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk, strict=False).decode
_decode_any = msgspec.json.Decoder().decode


class ChatReader:
    """Reads one reply. See `workers.providers.reading.Reader`."""

    def __init__(self, *, provider: str, classify: Classify) -> None:
        self._provider = provider
        self._classify = classify
        self._body = ReplyBody()
        self._usage: _Usage | None = None
        self._service_tier: str | None = None
        self._model: str | None = None
        self._id: str | None = None
        self._reason: str | None = None
        self._any_output = False
        self._calls = _ToolCalls()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self.stated: Stated | None = None
        self.done = False
        self.error: FleetError | None = None

    @property
    def finished(self) -> bool:
        return self._reason is not None or (self.done and self._any_output)

    def feed(self, data: bytes) -> Chunk | None:
        try:
            return self._absorb(self._body.feed(data))
        except EventTooLarge as exc:
            self.error = ProviderUnavailable(f"{self._provider} sent {exc}", provider=self._provider)
            return None

    def end(self) -> Chunk | None:
        chunk = self._absorb(self._body.end(), may_be_cut=True)
        self.done = self.done or self._body.is_json
        return chunk

    def finish(self) -> Finish:
        reason, warning = self._finish_reason()
        return Finish(
            finish_reason=reason,
            usage=_normalised(self._usage) if self._usage else None,
            response_model=self._model,
            response_id=self._id,
            service_tier=self._service_tier,
            warnings=(warning,) if warning else (),
        )

    def _finish_reason(self) -> tuple[FinishReason, str | None]:
        said = self._reason
        known = _FINISH_REASONS.get(said) if said else None
        warning = None
        if said is None:
            warning = f"{self._provider} gave no finish_reason"
        elif known is None:
            warning = f"{self._provider} gave the unknown finish_reason {said[:64]!r}"
        if self._calls.any and known in (None, "stop"):
            return "tool_calls", warning
        return known or "stop", warning

    def _absorb(self, events: Sequence[Event], *, may_be_cut: bool = False) -> Chunk | None:
        for event in events:
            if event.data.startswith(b"[DONE]"):
                self.done = True
                break
            if event.name in _KEEP_ALIVE_EVENTS:
                continue
            self._take(event, may_be_cut=may_be_cut)
            if self.error:
                break
        return self._merged()

    def _take(self, event: Event, *, may_be_cut: bool) -> None:
        try:
            chunk = _decode_chunk(event.data)
        except NO_JSON:
            self._take_unknown(event, may_be_cut=may_be_cut)
            return
        if chunk.error or event.name == "error" or (chunk.choices is None and chunk.usage is None):
            self._take_unknown(event, may_be_cut=may_be_cut)
            return
        self._id = self._id or chunk.id
        self._model = self._model or chunk.model
        self._state(chunk.usage or (chunk.x_groq and chunk.x_groq.usage), service_tier(chunk.service_tier))
        for choice in chunk.choices or ():
            if not choice.index:
                self._take_choice(choice)

    def _state(self, usage: _Usage | None, tier: str | None) -> None:
        """The tier stands in every chunk, the usage mostly in the last one."""
        if usage is None and (tier is None or tier == self._service_tier):
            return
        self._usage = usage or self._usage
        self._service_tier = tier or self._service_tier
        self.stated = Stated(
            _normalised(self._usage) if self._usage else None,
            is_final=usage is not None and self._reason is not None,
            service_tier=self._service_tier,
            response_model=self._model,
        )

    def _take_choice(self, choice: _Choice) -> None:
        self._state(choice.usage, None)
        if delta := choice.delta or choice.message:
            self._take_delta(delta)
        if choice.finish_reason in _BROKE_OFF:
            self.error = StreamInterrupted(
                f"{self._provider} broke its reply off ({choice.finish_reason})", provider=self._provider
            )
        elif choice.finish_reason:
            self._reason = choice.finish_reason

    def _take_delta(self, delta: _Delta) -> None:
        content = delta.content
        if content:
            if isinstance(content, str):
                self._text.append(content)
            else:
                self._take_parts(content)
        reasoning = delta.reasoning_content or delta.reasoning
        if reasoning and isinstance(reasoning, str):
            self._reasoning.append(reasoning)
        if delta.refusal:
            self._refusal.append(delta.refusal)
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._calls.add(call)
        if delta.function_call:
            self._calls.add(_ToolCall(index=0, function=delta.function_call))

    def _take_parts(self, content: Any) -> None:
        """Mistral's reasoning models send content as parts: text, and thinking that holds text parts."""
        for part in content if isinstance(content, list) else ():
            match part:
                case {"type": "text", "text": str(text)}:
                    self._text.append(text)
                case {"type": "thinking", "thinking": list(thoughts)}:
                    self._reasoning.extend(
                        text
                        for thought in thoughts
                        if isinstance(thought, dict) and isinstance(text := thought.get("text"), str)
                    )
                case _:
                    pass

    def _take_unknown(self, event: Event, *, may_be_cut: bool) -> None:
        """An error in one of its forms; what is neither that nor a chunk (a proxy's own event) is skipped."""
        try:
            body = _decode_any(event.data)
        except NO_JSON:
            if not may_be_cut:
                self.error = StreamInterrupted(
                    f"{self._provider} sent an event that is no JSON", provider=self._provider
                )
            return
        if event.name == "error" or is_error(body):
            self.error = self._classify(body)

    def _merged(self) -> Chunk | None:
        calls = self._calls.take()
        if not (self._text or self._reasoning or self._refusal or calls):
            return None
        self._any_output = True
        chunk = Chunk(
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            refusal="".join(self._refusal),
            tool_calls=calls,
        )
        self._text.clear()
        self._reasoning.clear()
        self._refusal.clear()
        return chunk


class _ToolCalls:
    """Gives each call one index and one id, whatever the server numbers them as."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        """As the server gave them, by our index; empty where it gave none."""
        self._ours: dict[int, int] = {}
        """Our index, by the server's."""
        self._deltas: list[ToolCallDelta] = []

    @property
    def any(self) -> bool:
        return bool(self._ids)

    def add(self, call: _ToolCall) -> None:
        function = call.function or _Function()
        arguments = _as_text(function.arguments)
        index = self._known(call, named=bool(function.name))
        if index is None:
            self._begin(call, function, arguments)
        elif arguments:
            self._continue(index, arguments)

    def take(self) -> tuple[ToolCallDelta, ...]:
        deltas = tuple(self._deltas)
        self._deltas.clear()
        return deltas

    def _known(self, call: _ToolCall, *, named: bool) -> int | None:
        """Which call this continues; None: it begins one."""
        if call.index is None:
            if call.id and call.id in self._ids:
                return self._ids.index(call.id)
            return len(self._ids) - 1 if self._ids and not call.id and not named else None
        index = self._ours.get(call.index)
        is_another = index is not None and named and call.id and self._ids[index] and call.id != self._ids[index]
        return None if is_another else index

    def _begin(self, call: _ToolCall, function: _Function, arguments: str) -> None:
        index = len(self._ids)
        self._ids.append(call.id or "")
        if call.index is not None:
            self._ours[call.index] = index
        self._deltas.append(tool_calls.begun(index, id=call.id, name=function.name, arguments=arguments))

    def _continue(self, index: int, arguments: str) -> None:
        if self._deltas and self._deltas[-1].index == index:
            last = self._deltas[-1]
            self._deltas[-1] = last.model_copy(update={"arguments": (last.arguments or "") + arguments})
        else:
            self._deltas.append(ToolCallDelta(index=index, arguments=arguments))


def _as_text(arguments: Any) -> str:
    """Some servers send the arguments as the object that the text should hold."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return msgspec.json.encode(arguments).decode()


def _normalised(usage: _Usage) -> Usage:
    """Input and output as totals. xAI leaves reasoning out of `completion_tokens`, which its total shows."""
    given = usage.prompt_tokens or 0
    output = usage.completion_tokens or 0
    total = usage.total_tokens or 0
    read = usage.prompt_tokens_details or _InputDetails()
    reasoning = (usage.completion_tokens_details and usage.completion_tokens_details.reasoning_tokens) or 0
    if reasoning and total == given + output + reasoning:
        output += reasoning
    return Usage(
        input_tokens=given,
        output_tokens=output,
        cache_read_tokens=read.cached_tokens or usage.prompt_cache_hit_tokens or 0,
        cache_write_tokens=read.cache_write_tokens or 0,
        reasoning_tokens=reasoning,
        source=UsageSource.VENDOR,
    )
