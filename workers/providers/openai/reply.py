"""A reply in OpenAI's chat completions format, streamed or whole.

OpenAI, Azure OpenAI and every compatible server speak it, each with its oddities. A chunk is read field by field: what
is odd is left out alone, and what stands beside it counts. Tool calls, usage and finish reasons have a module each;
here are `[DONE]` without a `finish_reason` or before the usage, reasoning under six names, content as parts, a whole
`message` in place of deltas or beside them, chunks in a list, in an envelope or several in one event, and a whole JSON
reply where a stream was asked.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from contracts.events import FinishReason
from workers.providers.base import Chunk, Finish, Stated, service_tier
from workers.providers.openai.calls import CallDelta, Function, ToolCalls
from workers.providers.openai.usage import Bill, StatedUsage
from workers.providers.openai.wanted_back import WantedBack
from workers.providers.shared.errors.body import is_error
from workers.providers.shared.errors.vendor_errors import Classify
from workers.providers.shared.http.reply_body import ReplyBody
from workers.providers.shared.http.sse import KEEP_ALIVES, Event
from workers.providers.shared.json_text import NO_JSON, FieldwiseDecoder, decode_any, in_a_row, no_more_than
from workers.providers.shared.replies import finish_reasons
from workers.providers.shared.replies.kept_size import MOST_KEPT_BYTES
from workers.providers.shared.replies.reader import Reader
from workers.providers.shared.replies.text_deltas import TextDeltas

_TEXT_PARTS = ("text", "output_text")
_THOUGHT_PARTS = ("thinking", "reasoning")
_THOUGHTS = ("text", "content", "thinking", "reasoning", "summary")
"""Where an object may hold the text of a thought."""
_MOST_LEVELS = 8
"""How many levels of objects and lists around a text are looked into."""
_MOST_CHOICES = 8
"""How many choices of one chunk are read; the first is asked for alone, and some servers part it in two or three."""
_MOST_CALLS_AT_ONCE = 300
"""How many calls of one delta are read."""
_MOST_PARTS = 10_000
"""How many parts a content may have, or a list in it."""
_MOST_WRAPPED = 20_000
"""How many chunks one event may have."""
_ENVELOPES = ("data", "result", "response")
"""Where gateways put a whole chunk or reply of the format."""


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_text: Any = None
    """GitHub Copilot's name for reasoning."""
    thinking: Any = None
    refusal: str | None = None
    tool_calls: list[CallDelta] | None = None
    function_call: Function | None = None
    reasoning_details: Any = None
    thinking_blocks: Any = None
    reasoning_opaque: Any = None
    extra_content: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: int | None = 0
    delta: _Delta | None = None
    message: _Delta | None = None
    """In place of `delta` when the server did not stream; Perplexity has it beside every delta, too."""
    text: str | None = None
    """In place of `delta` where the server answers as the older completions API."""
    finish_reason: Any = None
    usage: StatedUsage | None = None
    """Moonshot puts it here."""
    error: Any = None
    """OpenRouter's, beside the finish reason `error`."""


class _Groq(msgspec.Struct, gc=False):
    usage: StatedUsage | None = None


class _Chunk(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    object: str | None = None
    choices: list[_Choice] | None = None
    usage: StatedUsage | None = None
    error: Any = None
    service_tier: Any = None
    x_groq: _Groq | None = None


_decode_chunk = FieldwiseDecoder(_Chunk)


class ChatReader(Reader):
    """Reads one reply in OpenAI's format."""

    def __init__(self, *, provider: str, classify: Classify, warnings: Sequence[str] = ()) -> None:
        super().__init__(provider=provider, classify=classify, warnings=warnings)
        self._body = ReplyBody()
        self._bill = Bill()
        self._service_tier: str | None = None
        self._said_tier: Any = None
        """The service tier as the server writes it."""
        self._model: str | None = None
        self._id: str | None = None
        self._reason: str | None = None
        self._calls = ToolCalls()
        self._wanted_back = WantedBack()
        self._text = TextDeltas()
        self._reasoning = TextDeltas()
        self._refusal = TextDeltas()
        self._pieces = 0
        self._at_end = False
        """`[DONE]` has come; what may still come is the usage."""

    @property
    def finished(self) -> bool:
        return self._reason is not None or (self._any_output and (self.done or self._at_end))

    @property
    def _any_output(self) -> bool:
        return self._text.has_come or self._reasoning.has_come or self._refusal.has_come or self._calls.any

    def feed(self, data: bytes) -> Chunk | None:
        events = self._body.feed(data)
        if len(events) == 1 and not events[0].name and not self._at_end and events[0].data.startswith(b"{"):
            try:
                chunk = _decode_chunk(events[0].data)
            except NO_JSON:
                pass  # read once more, for what is in it
            else:
                if (text := self._text_alone(chunk)) is not None:
                    return Chunk(text)
                self._take_chunk(chunk, events[0], may_be_cut=False)
                return self._merged(is_over=self.done or self._at_end)
        self._take_events(events)
        return self._merged(is_over=self.done or self._at_end)

    def _text_alone(self, chunk: _Chunk) -> str | None:
        """The text of a chunk that says nothing else, as nearly each one of a stream; None for every other one, and for
        as long as it is open what the server's deltas hold."""
        choices = chunk.choices
        if (
            not choices
            or len(choices) != 1
            or not self._text.are_usual
            or self._id is None
            or self._model is None
            or chunk.service_tier != self._said_tier
            or chunk.usage is not None
            or chunk.error
            or chunk.x_groq is not None
            or self._calls.begun
        ):
            return None
        delta = choices[0].delta
        if delta is None or not isinstance(text := delta.content, str) or not text:
            return None
        has_more = delta != _Delta(content=text) or choices[0] != _Choice(index=choices[0].index, delta=delta)
        return None if has_more or choices[0].index else text

    def end(self) -> Chunk | None:
        """What was still incomplete when the connection ended, and what was held back until it was certain."""
        self._take_events(self._body.end(), may_be_cut=True)
        self.done = self.done or self._at_end or self._body.is_json
        return self._merged(is_over=True)

    def finish(self) -> Finish:
        reason, warnings = self._finish_reason()
        wanted_back = self._wanted_back.kept(self._calls.wanted_back())
        return Finish(
            finish_reason=reason,
            usage=self._bill.normalised(),
            response_model=self._model,
            response_id=self._id,
            service_tier=self._service_tier,
            provider_data={self._provider: wanted_back} if wanted_back else None,
            warnings=(*(f"{self._provider} {warning}" for warning in warnings), *self._warnings),
        )

    def _finish_reason(self) -> tuple[FinishReason, list[str]]:
        said = self._reason
        known = finish_reasons.meaning(said) if said else None
        warnings: list[str] = []
        if said is None:
            warnings.append("gave no finish_reason")
        elif known is None:
            warnings.append(f"gave the unknown finish_reason {said[:64]!r}")
        if self._calls.too_many:
            warnings.append("made more tool calls than a reply can have; the last ones are left out")
        if self._calls.unnamed:
            warnings.append("made tool calls without a name, which are left out")
        match known:
            case "length" | "content_filter":
                return known, warnings
            case _ if self._calls.any:
                return "tool_calls", warnings
            case "tool_calls":
                warnings.append("gave the finish_reason for tool calls and made none")
            case "stop" if not self._any_output:
                warnings.append("gave an empty answer")
            case _:
                pass
        return "stop", warnings

    def _take_events(self, events: Sequence[Event], *, may_be_cut: bool = False) -> None:
        for event in events:
            if event.name in KEEP_ALIVES:
                continue
            if self._at_end:
                # Some servers state the usage behind their end marker. Nothing else counts there.
                try:
                    trailer = _decode_chunk(event.data)
                except NO_JSON:
                    continue
                self._state(trailer.usage)
                self.done = self._bill.is_stated
            elif event.data.startswith(b"{"):
                self._take(event, may_be_cut=may_be_cut)
            else:
                word = event.data.strip(b" \t\r\n\"'").decode(errors="replace").lower()
                keeps_alive = word in KEEP_ALIVES or word.startswith(":") or (not word and event.name != "error")
                if word.startswith("[done]"):
                    self._at_end = True
                    self.done = self._bill.is_stated or not self.finished
                elif not keeps_alive:
                    self._take(event, may_be_cut=may_be_cut)
            if self.done or self.error:
                break

    def _take(self, event: Event, *, may_be_cut: bool) -> None:
        try:
            chunk = _decode_chunk(event.data)
        except NO_JSON:
            self._take_unknown(event, may_be_cut=may_be_cut)
            return
        self._take_chunk(chunk, event, may_be_cut=may_be_cut)

    def _take_chunk(self, chunk: _Chunk, event: Event, *, may_be_cut: bool) -> None:
        """`event` is what it was read from."""
        if chunk.error or event.name == "error" or (chunk.choices is None and chunk.usage is None):
            self._take_unknown(event, may_be_cut=may_be_cut)
            return
        self._id = self._id or chunk.id
        self._model = self._model or chunk.model
        if chunk.x_groq is not None:
            self._state(chunk.x_groq.usage)
        if chunk.usage is not None or chunk.service_tier != self._said_tier:
            self._said_tier = chunk.service_tier
            self._state(chunk.usage, service_tier(chunk.service_tier))
        taken = 0
        for choice in chunk.choices or ():
            if not choice.index or self._holds_the_calls(choice):
                self._take_choice(choice)
                taken += 1
                if taken == _MOST_CHOICES:
                    break

    def _state(self, usage: StatedUsage | None, tier: str | None = None) -> None:
        """Takes what a chunk says of the bill: the tier stands in every chunk, the usage mostly in the last one."""
        says_more = usage is not None and self._bill.add(usage)
        if not says_more and (tier is None or tier == self._service_tier):
            return
        self._service_tier = tier or self._service_tier
        self.stated = Stated(
            self._bill.normalised(),
            is_final=says_more and self._reason is not None,
            service_tier=self._service_tier,
            response_model=self._model,
        )

    def _holds_the_calls(self, choice: _Choice) -> bool:
        """Whether a further choice holds the calls that the first one ended for, as GitHub Copilot parts them."""
        said = choice.message or choice.delta
        is_waiting = self._reason is not None and not self._calls.begun
        return (
            is_waiting and bool(said and said.tool_calls) and finish_reasons.meaning(self._reason or "") == "tool_calls"
        )

    def _take_choice(self, choice: _Choice) -> None:
        if choice.usage is not None:
            self._state(choice.usage)
        if choice.delta is not None:
            self._take_delta(choice.delta)
        if choice.message is not None:
            self._take_message(choice.message)
        if choice.text:
            self._text.add(choice.text)
        if choice.error:
            self.error = self._classify({"error": choice.error})
        elif choice.finish_reason and (said := finish_reasons.stated(choice.finish_reason)):
            if finish_reasons.broke_off(said):
                self._interrupt(f"broke its reply off ({said[:64]})")
            else:
                self._reason = said

    def _take_delta(self, delta: _Delta) -> None:
        text, reasoning = delta.content, ""
        if text is not None and not isinstance(text, str):
            text, reasoning = _said_in(text)
        if text:
            self._text.add(text)
        if (
            delta.reasoning_content
            or delta.reasoning
            or delta.reasoning_details
            or delta.reasoning_text
            or delta.thinking
            or delta.thinking_blocks
        ):
            reasoning = self._reasoning_of(delta) or reasoning
        if reasoning:
            self._reasoning.add(reasoning)
        if delta.refusal:
            self._refusal.add(delta.refusal)
        has_calls = bool(delta.tool_calls or delta.function_call) and self._take_calls(delta)
        if delta.reasoning_details or delta.thinking_blocks or delta.reasoning_opaque or delta.extra_content:
            self._keep_wanted_back(delta)
        if text or reasoning or delta.refusal or has_calls:
            self._pieces += 1

    def _take_message(self, message: _Delta) -> None:
        """A whole message counts for what no delta has said."""
        text, reasoning = _said_in(message.content)
        self._text.add_whole(text)
        self._reasoning.add_whole(self._reasoning_of(message) or reasoning)
        self._refusal.add_whole(message.refusal or "")
        if not self._calls.begun:
            self._take_calls(message, are_whole=True)
        if self._wanted_back.is_empty:
            self._keep_wanted_back(message)

    def _reasoning_of(self, delta: _Delta) -> str:
        """The reasoning of a delta. Gateways send it under several names at once."""
        for field, said in (
            ("reasoning_content", delta.reasoning_content),
            ("reasoning", delta.reasoning),
            ("reasoning_text", delta.reasoning_text),
            ("thinking", delta.thinking),
        ):
            if text := said if isinstance(said, str) else _thought_in(said):
                self._wanted_back.reasoning_field = self._wanted_back.reasoning_field or field
                return text
        if self._wanted_back.reasoning_field:
            return ""
        return _thought_in(delta.reasoning_details) or _thought_in(delta.thinking_blocks)

    def _take_calls(self, delta: _Delta, *, are_whole: bool = False) -> bool:
        """Whether there were any calls. Some servers send a call in the old form as well as in the new one."""
        calls = delta.tool_calls or ()
        if len(calls) > _MOST_CALLS_AT_ONCE:
            self._calls.too_many = True
            calls = calls[:_MOST_CALLS_AT_ONCE]
        held = [self._calls.add(call, is_whole=are_whole) for call in calls]
        if delta.function_call and not any(held):
            held = [self._calls.add(CallDelta(index=0, function=delta.function_call), is_whole=are_whole)]
        if self._calls.held_back > MOST_KEPT_BYTES:
            self._refuse("sent more of its tool calls than a message holds")
        for call in calls:
            if (wanted_back := call.wanted_back()) and not self._keep(msgspec.json.encode(wanted_back)):
                self._calls.drop_wanted_back()
        return any(held)

    def _keep_wanted_back(self, delta: _Delta) -> None:
        """Keeps what is wanted back, except the name of the reasoning's field, which `_reasoning_of` keeps."""
        kept = (delta.reasoning_details, delta.thinking_blocks, delta.reasoning_opaque, delta.extra_content)
        if not self._keep(msgspec.json.encode(kept)):
            return
        self._wanted_back.add_items("reasoning_details", delta.reasoning_details)
        self._wanted_back.add_items("thinking_blocks", delta.thinking_blocks)
        self._wanted_back.add_field("reasoning_opaque", delta.reasoning_opaque)
        self._wanted_back.add_field("extra_content", delta.extra_content)

    def _take_unknown(self, event: Event, *, may_be_cut: bool) -> None:
        """Takes an error in one of its forms, chunks in a wrapping, or chunks that stand one behind the other in one
        event. What is none of these (a proxy's own event) is skipped."""
        try:
            body = decode_any(event.data)
        except NO_JSON:
            for data in in_a_row(event.data):
                if self.done or self.error:
                    break
                if len(data) != len(event.data):
                    self._take_events([Event(event.name, data)], may_be_cut=may_be_cut)
                elif not may_be_cut and self._reason is None:
                    self._interrupt("sent an event that is no JSON")
            return
        if event.name == "error" or is_error(body):
            self.error = self._classify(body)
        else:
            self._take_events([Event("", chunk) for chunk in _unwrapped(body)], may_be_cut=may_be_cut)

    def _merged(self, *, is_over: bool) -> Chunk | None:
        """All that is new as one chunk. `is_over`: with what was held back until the reply's end."""
        if is_over:
            self._text.end()
            self._reasoning.end()
            self._refusal.end()
            self._calls.end(is_cut=finish_reasons.meaning(self._reason or "") in ("length", "content_filter"))
        text = self._text.take() if self._text.new else ""
        reasoning = self._reasoning.take() if self._reasoning.new else ""
        refusal = self._refusal.take() if self._refusal.new else ""
        calls = self._calls.take()
        if not (text or reasoning or refusal or calls):
            return None
        chunk = Chunk(text=text, reasoning=reasoning, refusal=refusal, tool_calls=calls, pieces=max(self._pieces, 1))
        self._pieces = 0
        return chunk


def _unwrapped(body: Any) -> list[bytes]:
    """The chunks in a list, in an envelope, or in a text."""
    match body:
        case str() if body.startswith("{"):
            return [body.encode(errors="replace")]
        case [{}, *_]:
            return [msgspec.json.encode(item) for item in no_more_than(_MOST_WRAPPED, body) if isinstance(item, dict)]
        case {}:
            inner = next((body[name] for name in _ENVELOPES if isinstance(body.get(name), dict)), {})
            return [msgspec.json.encode(inner)] if "choices" in inner else []
        case _:
            return []


def _said_in(content: Any) -> tuple[str, str]:
    """Text and reasoning of a content in any form.

    Mistral's reasoning models send parts: text, and thinking that holds text parts. Some servers send a text that
    looks like a number as one.
    """
    if isinstance(content, int | float):
        return ("", "") if isinstance(content, bool) else (str(content), "")
    texts: list[str] = []
    thoughts: list[str] = []
    for part in no_more_than(_MOST_PARTS, content) if isinstance(content, list) else [content]:
        match part:
            case str(text):
                texts.append(text)
            case {"type": kind} if kind in _THOUGHT_PARTS:
                thoughts.append(_thought_in(part))
            case {"text": str(text) | {"value": str(text)}} if part.get("type", "text") in _TEXT_PARTS:
                texts.append(text)
            case _:
                pass
    return "".join(texts), "".join(thoughts)


def _thought_in(value: Any, levels: int = _MOST_LEVELS) -> str:
    """The text of a thought: Mistral's parts, OpenRouter's details, LiteLLM's blocks, an object around the text."""
    match value:
        case str():
            return value
        case list() if levels:
            return "".join([_thought_in(item, levels - 1) for item in no_more_than(_MOST_PARTS, value)])
        case dict() if levels:
            return next((text for name in _THOUGHTS if (text := _thought_in(value.get(name), levels - 1))), "")
        case _:
            return ""
