"""A reply in the format of Anthropic's Messages API, streamed or whole.

Text, thinking and tool calls go out as they come. All blocks are also put together as they were, because some must come
back unchanged with the next turn: thinking with its signature, and what tools on the vendor's side did. Blocks and
deltas of kinds that are not known here are kept like that too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from pydantic import JsonValue

from contracts.errors import FleetError, ProviderUnavailable, StreamInterrupted
from contracts.events import FinishReason, ToolCallDelta
from contracts.usage import Usage, UsagePart, UsageSource
from workers.providers import tool_calls
from workers.providers.anthropic_request import PROVIDER, arguments_object
from workers.providers.base import Chunk, Finish, Stated, service_tier
from workers.providers.json_text import NO_JSON
from workers.providers.reply_body import ReplyBody
from workers.providers.sse import Event, EventTooLarge
from workers.providers.vendor_errors import Classify

_FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "compaction": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_TO_BE_CONTINUED = frozenset({"pause_turn", "compaction"})

_OUTSIDE = frozenset({"compaction", "advisor_message"})
"""Iterations that are billed beside the usage of the reply."""
_OTHER_MODELS = frozenset({"fallback_message"})
"""Iterations within it that another model did."""


class _Delta(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    signature: str | None = None
    citation: Any = None
    stop_reason: str | None = None
    stop_details: Any = None


class _OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: int | None = None


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: int | None = None


class _Counts(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None


class _Iteration(_Counts, gc=False):
    type: str | None = None
    model: str | None = None


class _Usage(_Counts, gc=False):
    output_tokens_details: _OutputDetails | None = None
    iterations: list[_Iteration] | None = None
    service_tier: Any = None
    speed: Any = None
    inference_geo: Any = None

    @property
    def served_as(self) -> str | None:
        return service_tier(self.service_tier, self.speed, self.inference_geo)


class _Message(msgspec.Struct, gc=False):
    id: str | None = None
    type: str | None = None
    model: str | None = None
    content: list[dict[str, Any]] | None = None
    stop_reason: str | None = None
    stop_details: Any = None
    usage: _Usage | None = None


class _Event(msgspec.Struct, gc=False):
    type: str | None = None
    index: int = 0
    delta: _Delta | None = None
    content_block: dict[str, Any] | None = None
    message: _Message | None = None
    usage: _Usage | None = None


_decode_event = msgspec.json.Decoder(_Event, strict=False).decode
_decode_message = msgspec.json.Decoder(_Message, strict=False).decode
_decode_any = msgspec.json.Decoder().decode


@dataclass(slots=True)
class _Block:
    """A content block as it grows."""

    fields: dict[str, Any]
    """As it began, and what came whole since."""
    call: int | None = None
    """Which tool call it is."""
    texts: list[str] = field(default_factory=list[str])
    thoughts: list[str] = field(default_factory=list[str])
    signature: list[str] = field(default_factory=list[str])
    input: list[str] = field(default_factory=list[str])

    @property
    def kind(self) -> str:
        return str(self.fields.get("type"))

    def whole(self) -> dict[str, Any]:
        block = dict(self.fields)
        for name, parts in (("text", self.texts), ("thinking", self.thoughts), ("signature", self.signature)):
            if parts:
                block[name] = (block.get(name) or "") + "".join(parts)
        if self.input:
            block["input"] = arguments_object("".join(self.input))
        return block


class MessageReader:
    """Reads one reply. See `workers.providers.reading.Reader`."""

    def __init__(self, *, classify: Classify, warnings: Sequence[str] = ()) -> None:
        self._classify = classify
        self._warnings = list(warnings)
        self._body = ReplyBody()
        self._id: str | None = None
        self._model: str | None = None
        self._reason: str | None = None
        self._usage = _Usage()
        self._usage_is_final = False
        self._blocks: dict[int, _Block] = {}
        self._calls = 0
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._new_calls: dict[int, ToolCallDelta] = {}
        """What of the calls has not been passed on yet."""
        self.stated: Stated | None = None
        self.done = False
        self.error: FleetError | None = None

    @property
    def finished(self) -> bool:
        return self.done

    def feed(self, data: bytes) -> Chunk | None:
        try:
            return self._absorb(self._body.feed(data))
        except EventTooLarge as exc:
            self.error = ProviderUnavailable(f"{PROVIDER} sent {exc}", provider=PROVIDER)
            return None

    def end(self) -> Chunk | None:
        return self._absorb(self._body.end(), may_be_cut=True)

    def finish(self) -> Finish:
        return Finish(
            finish_reason=self._finish_reason(),
            usage=self._billed() if self._usage_is_final else None,
            response_model=self._model,
            response_id=self._id,
            service_tier=self._usage.served_as,
            provider_data=self._provider_data(),
            warnings=tuple(self._warnings),
        )

    def _absorb(self, events: Sequence[Event], *, may_be_cut: bool = False) -> Chunk | None:
        for event in events:
            try:
                self._take(event)
            except NO_JSON:
                if not may_be_cut:
                    self.error = StreamInterrupted(f"{PROVIDER} sent an event that is no JSON", provider=PROVIDER)
            if self.error or self.done:
                break
        return self._merged()

    def _take(self, event: Event) -> None:
        """Raises msgspec.DecodeError when it is no JSON."""
        try:
            if self._body.is_json:
                self._take_message(event)
            else:
                self._take_event(event)
        except msgspec.ValidationError:
            self._take_unknown(event)

    def _take_event(self, event: Event) -> None:
        said = _decode_event(event.data)
        match said.type:
            case "content_block_delta" if said.delta:
                self._continue(said.index, said.delta, event)
            case "content_block_start" if said.content_block is not None:
                self._begin(said.index, said.content_block)
            case "content_block_stop":
                self._close(said.index)
            case "message_start" if said.message:
                self._id, self._model = said.message.id, said.message.model
                self._state(said.message.usage)
            case "message_delta":
                self._state(said.usage, final=True)
                if said.delta:
                    self._stop(said.delta.stop_reason, said.delta.stop_details)
            case "message_stop":
                for index in self._blocks:
                    self._close(index)
                self.done = True
            case "error" | None:
                self._take_unknown(event)
            case _:
                pass

    def _take_message(self, event: Event) -> None:
        message = _decode_message(event.data)
        if message.type != "message":
            self._take_unknown(event)
            return
        self._id, self._model = message.id, message.model
        for index, block in enumerate(message.content or ()):
            self._begin(index, block)
            self._close(index)
        self._state(message.usage, final=True)
        self._stop(message.stop_reason, message.stop_details)
        self.done = True

    def _take_unknown(self, event: Event) -> None:
        """An error in one of its forms; what is neither that nor an event of the API (a proxy's own) is skipped."""
        body = _decode_any(event.data)
        if event.name == "error" or (isinstance(body, dict) and body.get("error")):
            self.error = self._classify(body)

    def _begin(self, index: int, fields: dict[str, Any]) -> None:
        block = self._blocks[index] = _Block(fields)
        match fields:
            case {"type": "text", "text": str(text)}:
                self._text.append(text)
            case {"type": "thinking", "thinking": str(thinking)}:
                self._reasoning.append(thinking)
            case {"type": "tool_use"}:
                block.call = self._calls
                self._calls += 1
                self._new_calls[block.call] = tool_calls.begun(
                    block.call, id=str(fields.get("id") or ""), name=str(fields.get("name") or ""), arguments=None
                )
            case _:
                pass

    def _continue(self, index: int, delta: _Delta, event: Event) -> None:
        block = self._blocks.get(index)
        if block is None:
            block = self._blocks[index] = _Block({"type": (delta.type or "").removesuffix("_delta")})
        match delta.type:
            case "text_delta":
                if delta.text:
                    block.texts.append(delta.text)
                    self._text.append(delta.text)
            case "thinking_delta":
                if delta.thinking:
                    block.thoughts.append(delta.thinking)
                    self._reasoning.append(delta.thinking)
            case "input_json_delta":
                if delta.partial_json:
                    block.input.append(delta.partial_json)
                    self._add_arguments(block, delta.partial_json)
            case "signature_delta":
                block.signature.append(delta.signature or "")
            case "citations_delta":
                block.fields["citations"] = [*(block.fields.get("citations") or ()), delta.citation]
            case _:
                _grow(block.fields, _decode_any(event.data)["delta"])

    def _close(self, index: int) -> None:
        """A call whose arguments did not come in fragments has them in its beginning."""
        block = self._blocks.get(index)
        if block is None or block.call is None or block.input:
            return
        block.input.append(msgspec.json.encode(block.fields.get("input") or {}).decode())
        self._add_arguments(block, block.input[0])

    def _add_arguments(self, block: _Block, fragment: str) -> None:
        if block.call is None:
            return
        new = self._new_calls.get(block.call) or ToolCallDelta(index=block.call)
        self._new_calls[block.call] = new.model_copy(update={"arguments": (new.arguments or "") + fragment})

    def _state(self, usage: _Usage | None, *, final: bool = False) -> None:
        """Usage is stated at the start and again, cumulative, at the end."""
        if usage is None:
            return
        self._usage_is_final = self._usage_is_final or final
        for name in _Usage.__struct_fields__:
            if (value := getattr(usage, name)) is not None:
                setattr(self._usage, name, value)
        self.stated = Stated(
            self._billed(),
            is_final=self._usage_is_final,
            service_tier=self._usage.served_as,
            response_model=self._model,
        )

    def _stop(self, reason: str | None, details: Any) -> None:
        self._reason = reason or self._reason
        match details:
            case {"type": "refusal", "explanation": str(explanation)}:
                self._refusal.append(explanation)
            case _:
                pass

    def _merged(self) -> Chunk | None:
        if not (self._text or self._reasoning or self._refusal or self._new_calls):
            return None
        chunk = Chunk(
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            refusal="".join(self._refusal),
            tool_calls=tuple(self._new_calls.values()),
        )
        self._text.clear()
        self._reasoning.clear()
        self._refusal.clear()
        self._new_calls.clear()
        return chunk if chunk != _NOTHING else None

    def _billed(self) -> Usage:
        """A request that is refused before any output is not billed ("Handling stop reasons")."""
        refused = self._reason == "refusal" and not self._blocks
        return Usage(source=UsageSource.VENDOR) if refused else _normalised(self._usage)

    def _finish_reason(self) -> FinishReason:
        said = self._reason
        known = _FINISH_REASONS.get(said) if said else None
        if known is None:
            what = f"the unknown stop_reason {said[:64]!r}" if said else "no stop_reason"
            self._warnings.append(f"{PROVIDER} gave {what}")
        if said in _TO_BE_CONTINUED:
            self._warnings.append(f"{PROVIDER} broke off ({said}); send the message back as it is, and it goes on")
        if self._calls and known in (None, "stop"):
            return "tool_calls"
        return known or "stop"

    def _provider_data(self) -> dict[str, JsonValue] | None:
        blocks = [block.whole() for _, block in sorted(self._blocks.items())]
        if not any(map(_is_special, blocks)):
            return None
        return {PROVIDER: {"content": [block for block in blocks if _can_come_back(block)]}}


_NOTHING = Chunk()


def _grow(fields: dict[str, Any], delta: dict[str, Any]) -> None:
    """A delta of a kind that is not known here: texts are appended, everything else is replaced."""
    for name, value in delta.items():
        before = fields.get(name)
        if name != "type":
            fields[name] = before + value if isinstance(before, str) and isinstance(value, str) else value


def _is_special(block: dict[str, Any]) -> bool:
    """Whether a block says more than a message of ours can."""
    match block:
        case {"type": "text"}:
            return bool(block.get("citations"))
        case {"type": "tool_use"}:
            caller = block.get("caller") or {"type": "direct"}
            return bool(block.get("toolset_name")) or caller.get("type") != "direct"
        case _:
            return True


def _can_come_back(block: dict[str, Any]) -> bool:
    """The API refuses texts of nothing, and thoughts without a signature."""
    match block:
        case {"type": "text"}:
            return bool(block.get("text"))
        case {"type": "thinking"}:
            return bool(block.get("signature"))
        case _:
            return True


def _normalised(usage: _Usage) -> Usage:
    """All that is billed. The reply's own counts leave out compactions and advisors ("Compaction", "Advisor tool")."""
    own = _counts(usage)
    own["reasoning_tokens"] = (usage.output_tokens_details and usage.output_tokens_details.thinking_tokens) or 0
    beside = [_part(iteration) for iteration in usage.iterations or () if iteration.type in _OUTSIDE]
    within = [_part(iteration) for iteration in usage.iterations or () if iteration.type in _OTHER_MODELS]
    return Usage(
        **{name: count + sum(getattr(part, name) for part in beside) for name, count in own.items()},
        source=UsageSource.VENDOR,
        parts=(*beside, *within),
    )


def _part(iteration: _Iteration) -> UsagePart:
    return UsagePart(**_counts(iteration), model=(iteration.model or "")[:256] or None)


def _counts(counts: _Counts) -> dict[str, int]:
    """The input as a total: the vendor leaves what it read from its cache, and wrote to it, out of `input_tokens`."""
    read, written = counts.cache_read_input_tokens or 0, counts.cache_creation_input_tokens or 0
    an_hour = counts.cache_creation.ephemeral_1h_input_tokens if counts.cache_creation else None
    return {
        "input_tokens": (counts.input_tokens or 0) + read + written,
        "output_tokens": counts.output_tokens or 0,
        "cache_read_tokens": read,
        "cache_write_tokens": written,
        "cache_write_1h_tokens": an_hour or 0,
    }
