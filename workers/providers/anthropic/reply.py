"""A reply in the format of Anthropic's Messages API, streamed or whole.

Text, thinking and tool calls go out as they come. All blocks are also put together as they were, because some must come
back unchanged with the next turn: thinking with its signature, and what tools on the vendor's side did. Blocks and
deltas of kinds that are not known here are kept like that too.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic import JsonValue

from contracts.usage import Usage, UsageSource
from workers.providers.anthropic.blocks import Block, blocks_in, can_come_back, id_in, is_special, kind_of, text_in
from workers.providers.anthropic.request import PROVIDER
from workers.providers.anthropic.usage import StatedUsage
from workers.providers.base import Chunk, Finish, Stated
from workers.providers.shared.errors.body import is_error
from workers.providers.shared.errors.vendor_errors import Classify
from workers.providers.shared.http.reply_body import ReplyBody
from workers.providers.shared.http.sse import KEEP_ALIVES, Event
from workers.providers.shared.json_text import NO_JSON, FieldwiseDecoder, decode_any
from workers.providers.shared.replies import finish_reasons, reply_arguments
from workers.providers.shared.replies.output import Output
from workers.providers.shared.replies.reader import Reader
from workers.providers.shared.replies.token_counts import plausible

_TO_BE_CONTINUED = frozenset({"pause_turn", "compaction"})
_MOST_BLOCKS = 20_000
"""More than any reply has: some gateways send a block for each token."""
_SAID = frozenset({"type", "id", "name", "text", "thinking", "input"})
"""The fields of a block of which something is passed on."""
_BLOCK_OF_DELTA = {
    "text_delta": "text",
    "citations_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "thinking",
    "input_json_delta": "tool_use",
}


class _Delta(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: Any = None
    """A text by the format; some gateways send the object itself."""
    signature: str | None = None
    citation: Any = None
    stop_reason: str | None = None
    stop_details: Any = None


class _Message(msgspec.Struct, gc=False):
    id: str | None = None
    type: str | None = None
    model: str | None = None
    content: Any = None
    stop_reason: str | None = None
    stop_details: Any = None
    usage: StatedUsage | None = None


class _Event(msgspec.Struct, gc=False):
    type: str | None = None
    index: int | None = None
    delta: _Delta | None = None
    content_block: dict[str, Any] | None = None
    message: _Message | None = None
    usage: StatedUsage | None = None
    error: Any = None


_decode_event = FieldwiseDecoder(_Event)
_decode_message = FieldwiseDecoder(_Message)


class MessageReader(Reader):
    """Reads one reply in the format of the Messages API."""

    def __init__(self, *, classify: Classify, warnings: Sequence[str] = ()) -> None:
        super().__init__(provider=PROVIDER, classify=classify, warnings=warnings)
        self._body = ReplyBody()
        self._id: str | None = None
        self._model: str | None = None
        self._reason: str | None = None
        self._usage = StatedUsage()
        self._usage_is_final = False
        self._is_restated = False
        """Whether usage has come since `stated` was made, which is once for what is read at once."""
        self._blocks: list[Block] = []
        self._whole_content: Any = None
        """The content of a reply in one piece. Gateways that make up a stream of one send it in `message_start`, where
        the format has none."""
        self._by_index: dict[int | None, Block] = {}
        """The newest block of each index. None stands for the newest of all, for servers that give no index."""
        self._output = Output()

    def feed(self, data: bytes) -> Chunk | None:
        return self._absorb(self._body.feed(data))

    def end(self) -> Chunk | None:
        return self._absorb(self._body.end(), may_be_cut=True)

    def finish(self) -> Finish:
        said = self._reason
        is_continued = said in _TO_BE_CONTINUED
        known = "stop" if is_continued else finish_reasons.meaning(said or "")
        reason = known or "stop"
        warnings = list(self._warnings)
        if known is None:
            what = f"the unknown stop_reason {said[:64]!r}" if said else "no stop_reason"
            warnings.append(f"{PROVIDER} gave {what}")
        if is_continued:
            warnings.append(f"{PROVIDER} broke off ({said}); send the message back as it is, and it goes on")
        warnings += self._output.warnings(PROVIDER, reason, explained=is_continued)
        provider_data: dict[str, JsonValue] | None = None
        blocks = [block.whole() for block in self._blocks]
        if any(map(is_special, blocks)):
            provider_data = {PROVIDER: {"content": [block for block in blocks if can_come_back(block)]}}
        return Finish(
            finish_reason=self._output.finish_reason(reason),
            usage=self._billed(only_final=True),
            response_model=self._model,
            response_id=self._id,
            service_tier=self._usage.served_as,
            provider_data=provider_data,
            warnings=tuple(warnings),
        )

    def _absorb(self, events: Sequence[Event], *, may_be_cut: bool = False) -> Chunk | None:
        for event in events:
            try:
                if self._body.is_json:
                    self._take_message(event)
                else:
                    self._take_event(event)
            except msgspec.ValidationError:
                self._take_unknown(event)
            except NO_JSON:
                self._take_no_json(event, may_be_cut=may_be_cut)
            if self.error or self.done:
                break
        if self._is_restated:
            self._is_restated = False
            self.stated = Stated(
                self._billed(),
                is_final=self._usage_is_final,
                service_tier=self._usage.served_as,
                response_model=self._model,
            )
        return self._output.take()

    def _take_event(self, event: Event) -> None:
        """Raises one of NO_JSON; msgspec.ValidationError when it is no object."""
        said = _decode_event(event.data)
        match said.type or event.name:
            case "content_block_delta":
                if said.delta:
                    self._continue(said.index, said.delta, event)
            case _ if said.error:
                self._take_unknown(event)
            case "content_block_start":
                if said.content_block is not None:
                    fields = said.content_block
                    if not self._keep(event.data):
                        fields = {name: fields[name] for name in _SAID & fields.keys()}
                    self._begin(said.index, fields)
            case "content_block_stop":
                if block := self._by_index.get(said.index):
                    self._close(block)
            case "message_start":
                if said.message:
                    self._take_head(said.message)
            case "message_delta":
                self._state(said.usage, final=True)
                if said.delta:
                    self._stop(said.delta.stop_reason, said.delta.stop_details)
            case "message_stop":
                self._state(said.usage, final=True)
                self._end()
            case "error" | "":
                self._take_unknown(event)
            case _:
                pass

    def _take_message(self, event: Event) -> None:
        """Takes a whole reply. Raises one of NO_JSON; msgspec.ValidationError when it is no object."""
        message = _decode_message(event.data)
        if message.type == "error" or (message.content is None and message.stop_reason is None):
            self._take_unknown(event)
            return
        self._take_head(message, final=True)
        self._stop(message.stop_reason, message.stop_details)
        self._end()

    def _take_head(self, message: _Message, *, final: bool = False) -> None:
        self._id = message.id or self._id
        self._model = message.model or self._model
        self._whole_content = message.content or self._whole_content
        self._state(message.usage, final=final)

    def _take_unknown(self, event: Event) -> None:
        """Takes an error in any of its forms; anything else is a proxy's own event and is skipped."""
        body = decode_any(event.data)
        if event.name == "error" or is_error(body):
            self.error = self._classify(body)

    def _take_no_json(self, event: Event, *, may_be_cut: bool) -> None:
        """Gateways to other vendors end a reply with `[DONE]`, some in place of `message_stop`."""
        if event.data.strip().startswith(b"[DONE]"):
            if self._reason:
                self._end()
            else:
                self._interrupt("ended without a stop_reason")
        elif event.name == "error":
            self.error = self._classify(None)
        elif event.data.strip() and event.name not in KEEP_ALIVES and not may_be_cut:
            self._interrupt("sent an event that is no JSON")

    def _begin(self, index: int | None, fields: dict[str, Any]) -> None:
        before = self._by_index.get(index)
        if before and not before.closed:
            if before.call is not None and id_in(fields.get("id")) == before.get("id"):
                return  # announced twice
            self._close(before)
        kind = kind_of(fields)
        block = self._add(Block(index, kind, {**fields, "type": kind}))
        match kind:
            case "text" if text := text_in(fields.get("text")):
                self._output.text.append(text)
            case "thinking" if thinking := text_in(fields.get("thinking")):
                self._output.reasoning.append(thinking)
            case "tool_use" if id_in(fields.get("id")) or text_in(fields.get("name")):
                self._announce_call(block)
            case _:
                pass

    def _add(self, block: Block) -> Block:
        if len(self._blocks) >= _MOST_BLOCKS:
            self._refuse("sent more blocks than any reply has")
            return block
        self._blocks.append(block)
        self._by_index[block.index] = self._by_index[None] = block
        return block

    def _announce_call(self, block: Block) -> int:
        """The index of a block's call, which is passed on now if it has not been yet.

        The block gets the call's id and name, so that they agree when it comes back with the call's result.
        """
        if block.call is None:
            call = self._output.begin_call(id=id_in(block.get("id")), name=text_in(block.get("name")))
            block.fields |= {"id": call.id, "name": call.name}
            block.call = call.index
        return block.call

    def _continue(self, index: int | None, delta: _Delta, event: Event) -> None:
        kind = delta.type or _kind_of_delta(delta)
        block = self._by_index.get(index) or self._unannounced(index, kind)
        match kind:
            case "text_delta" | "text":
                if delta.text:
                    block.texts.append(delta.text)
                    self._output.text.append(delta.text)
            case "thinking_delta" | "thinking":
                if delta.thinking:
                    block.thoughts.append(delta.thinking)
                    self._output.reasoning.append(delta.thinking)
            case "input_json_delta":
                self._continue_input(index, block, delta.partial_json)
                if (block.held_back or block.kind != "tool_use") and not self._keep(event.data):
                    block.input.clear()
            case _ if not self._keep(event.data):
                pass
            case "signature_delta":
                block.signature.append(delta.signature or "")
            case "citations_delta":
                block.citations.append(delta.citation)
            case _:
                block.grow(decode_any(event.data)["delta"])

    def _unannounced(self, index: int | None, kind: str) -> Block:
        """The block of a delta whose index no block began with: the newest, if it is open and has no index yet, else a
        new one of the kind that the delta belongs to."""
        newest = self._by_index.get(None)
        if newest and newest.index is None and not newest.closed:
            newest.index = index
            self._by_index[index] = newest
            return newest
        block_kind = _BLOCK_OF_DELTA.get(kind) or kind.removesuffix("_delta")
        return self._add(Block(index, block_kind, {"type": block_kind}))

    def _continue_input(self, index: int | None, block: Block, given: Any) -> None:
        """Takes a fragment of a call's input, which is held back while the input may still be none.

        Some servers send `null` or `{}` first, and then the input.
        """
        fragment = reply_arguments.of_value(given) if isinstance(given, dict) else text_in(given)
        if not given or not fragment:
            return
        if block.kind in ("text", "thinking"):
            block = self._add(Block(index, "tool_use", {"type": "tool_use"}))
        block.add_input(fragment)
        if block.kind != "tool_use":
            return
        if block.held_back or len(block.input) == 1:
            block.held_back += 1
            if block.says is not None:
                return
            fragment = "".join(block.input)
        self._output.add_arguments(self._announce_call(block), fragment, pieces=block.held_back or 1)
        block.held_back = 0

    def _close(self, block: Block) -> None:
        """A call whose arguments did not come in fragments has them in its beginning."""
        block.closed = True
        if block.kind != "tool_use" or (block.input and not block.held_back):
            return
        arguments = reply_arguments.of_value(block.get("input") if block.says_none else "".join(block.input))
        block.fields["input"] = arguments
        block.input = [arguments]
        block.says = arguments if arguments == reply_arguments.NONE else None
        if block.call is not None or arguments != reply_arguments.NONE:
            self._output.add_arguments(self._announce_call(block), arguments, pieces=block.held_back)
            block.held_back = 0

    def _end(self) -> None:
        if not self._blocks:
            for index, fields in enumerate(blocks_in(self._whole_content)[: _MOST_BLOCKS + 1]):
                self._begin(index, fields)
        for block in self._blocks:
            self._close(block)
        self.done = True

    def _state(self, usage: StatedUsage | None, *, final: bool = False) -> None:
        """Usage is stated at the start and again, cumulative, at the end."""
        if usage is None:
            return
        counted = plausible(usage.output_tokens)
        if final and counted is not None and (counted or not self._usage.output_tokens):
            self._usage_is_final = True
        self._usage.add(usage)
        self._is_restated = True

    def _stop(self, reason: str | None, details: Any) -> None:
        if reason and finish_reasons.broke_off(reason):
            self._interrupt(f"broke its reply off ({reason[:64]})")
            return
        self._reason = reason or self._reason
        match details:
            case {"type": "refusal", "explanation": str(explanation)} if explanation:
                self._output.refusal.append(explanation)
            case _:
                pass

    def _billed(self, *, only_final: bool = False) -> Usage | None:
        """The usage stated so far; with `only_final` None while it has not been stated at the reply's end.

        A request that is refused before any output is not billed ("Handling stop reasons").
        """
        if self._reason == "refusal" and not self._blocks:
            return Usage(source=UsageSource.VENDOR)
        return None if only_final and not self._usage_is_final else self._usage.normalised()


def _kind_of_delta(delta: _Delta) -> str:
    """The type of a delta that names none, or an odd one: what its fields say."""
    if delta.partial_json:
        return "input_json_delta"
    return "thinking_delta" if delta.thinking else "signature_delta" if delta.signature else "text_delta"
