"""Gemini's generateContent format: the reply that we read, streamed (server-sent events without `[DONE]`) or whole.

The end marker is the candidate's `finishReason`; a prompt that was blocked has none, but a `promptFeedback`.

What the model wants back on the next turn goes to `provider_data` as its parts, in their order: signed parts, function
calls, and what its own tools did (code and its results). The text between them goes along, because a signature belongs
to its place; summaries of thoughts do not, unless they are signed. Media that a model makes is not passed on.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic import JsonValue

from contracts.errors import FleetError, ProviderUnavailable, StreamInterrupted
from contracts.events import FinishReason, ToolCallDelta
from contracts.usage import Usage, UsageSource
from workers.providers import tool_calls
from workers.providers.base import Chunk, Finish, Stated, service_tier
from workers.providers.json_text import NO_JSON
from workers.providers.reply_body import ReplyBody
from workers.providers.sse import Event, EventTooLarge
from workers.providers.vendor_errors import Classify

_FINISH_REASONS: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "ESCALATION": "content_filter",
    "PUP_LIMITED_DISABLED": "content_filter",
}
_USUAL = frozenset({"STOP", "MAX_TOKENS", "SAFETY"})
"""Said in full by what they become; of the others a warning says which it was."""
_MEDIA = frozenset({"inlineData", "fileData"})
_BESIDE_CONTENT = frozenset({"thought", "thoughtSignature", "partMetadata", "videoMetadata", "mediaResolution"})


class _FunctionCall(msgspec.Struct, gc=False):
    id: str | None = None
    name: str | None = None
    args: msgspec.Raw = msgspec.Raw(b"{}")


class _Part(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    index: int | None = 0
    content: _Content | None = None
    finish_reason: str | None = None


class _PromptFeedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _Usage(msgspec.Struct, gc=False, rename="camel"):
    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    traffic_type: Any = None
    service_tier: Any = None

    @property
    def stated(self) -> bool:
        """A blocked prompt's usage, and that of Vertex before the end, holds other facts but no counts."""
        return self.prompt_token_count is not None or self.candidates_token_count is not None


class _Response(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _PromptFeedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None


_decode_response = msgspec.json.Decoder(_Response, strict=False).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_any = msgspec.json.Decoder().decode


class ReplyReader:
    """Reads one reply. See `workers.providers.reading.Reader`."""

    def __init__(
        self, *, provider: str, classify: Classify, warnings: Sequence[str] = (), served_as: str | None = None
    ) -> None:
        """`served_as`: the service tier that the reply's headers name."""
        self._provider = provider
        self._classify = classify
        self._warnings = warnings
        """What is known from the request."""
        self._body = ReplyBody()
        self._usage: _Usage | None = None
        self._served_as = served_as
        self._model: str | None = None
        self._id: str | None = None
        self._reason: str | None = None
        self._parts = _Parts()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._calls_made = 0
        self.stated: Stated | None = None
        self.done = False
        self.error: FleetError | None = None

    @property
    def finished(self) -> bool:
        return self._reason is not None

    def feed(self, data: bytes) -> Chunk | None:
        try:
            return self._absorb(self._body.feed(data))
        except EventTooLarge as exc:
            self.error = ProviderUnavailable(f"{self._provider} sent {exc}", provider=self._provider)
            return None

    def end(self) -> Chunk | None:
        self.done = True
        return self._absorb(self._body.end(), may_be_cut=True)

    def finish(self) -> Finish:
        said = self._reason or ""
        reason = _FINISH_REASONS.get(said, "stop")
        return Finish(
            finish_reason="tool_calls" if self._calls_made and reason == "stop" else reason,
            usage=_normalised(self._usage) if self._usage else None,
            response_model=self._model,
            response_id=self._id,
            service_tier=self._service_tier(),
            provider_data=self._parts.kept(),
            warnings=(
                *self._warnings,
                *self._parts.warnings(self._provider),
                *(() if said in _USUAL else (f"{self._provider} ended with the finish reason {said[:64]}",)),
            ),
        )

    def _absorb(self, events: Sequence[Event], *, may_be_cut: bool = False) -> Chunk | None:
        for event in events:
            if self.error:
                break
            self._take(event.data, may_be_cut=may_be_cut)
        return self._merged()

    def _take(self, data: bytes | msgspec.Raw, *, may_be_cut: bool) -> None:
        try:
            response = _decode_response(data)
        except NO_JSON:
            self._take_unknown(data, may_be_cut=may_be_cut)
            return
        self._id = self._id or response.response_id
        self._model = self._model or response.model_version
        if (usage := response.usage_metadata) and usage.stated and usage != self._usage:
            self._usage = usage
            self.stated = Stated(_normalised(usage), service_tier=self._service_tier(), response_model=self._model)
        feedback = response.prompt_feedback
        if response.error or (feedback and feedback.block_reason and not response.candidates):
            self.error = self._classify(_decode_any(data))
            return
        if response.candidates is None and response.usage_metadata is None:
            self._take_unknown(data, may_be_cut=may_be_cut)
        for position, candidate in enumerate(response.candidates or ()):
            if not candidate.index:
                self._take_candidate(candidate, data, position)

    def _service_tier(self) -> str | None:
        """Gemini's own API names the tier in a header, Vertex the kind of traffic in the usage."""
        usage = self._usage or _Usage()
        return _traffic(usage.traffic_type) or service_tier(usage.service_tier or self._served_as)

    def _take_unknown(self, data: bytes | msgspec.Raw, *, may_be_cut: bool) -> None:
        """A list of replies, as it comes without `alt=sse`, or an error in one of its forms; the rest is skipped."""
        try:
            body = _decode_any(data)
        except NO_JSON:
            if not may_be_cut:
                self.error = StreamInterrupted(
                    f"{self._provider} sent an event that is no JSON", provider=self._provider
                )
            return
        if isinstance(body, list):
            for item in _decode_list(data):
                if not self.error:
                    self._take(item, may_be_cut=may_be_cut)
        elif isinstance(body, dict) and ("error" in body or "message" in body):
            self.error = self._classify(body)
        elif isinstance(body, dict) and "candidates" in body:
            self.error = StreamInterrupted(f"{self._provider} sent a reply in another form", provider=self._provider)

    def _take_candidate(self, candidate: _Candidate, data: bytes | msgspec.Raw, position: int) -> None:
        parts = (candidate.content.parts if candidate.content else None) or ()
        raw: list[Any] | None = None
        for index, part in enumerate(parts):
            if part.text is not None and part.thought_signature is None:
                if part.thought:
                    self._reasoning.append(part.text)
                else:
                    self._text.append(part.text)
                    self._parts.add_text(part.text)
                continue
            if raw is None:
                raw = _raw_parts(data, position)
            self._take_special(part, raw[index])
        if candidate.finish_reason and candidate.finish_reason != "FINISH_REASON_UNSPECIFIED":
            self._reason = candidate.finish_reason

    def _take_special(self, part: _Part, raw: dict[str, JsonValue]) -> None:
        """What is more than text."""
        if part.text:
            (self._reasoning if part.thought else self._text).append(part.text)
        if part.function_call:
            self._call(part.function_call)
        self._parts.add(raw)

    def _call(self, call: _FunctionCall) -> None:
        args = bytes(call.args).decode()
        self._calls.append(
            tool_calls.begun(self._calls_made, id=call.id, name=call.name, arguments="{}" if args == "null" else args)
        )
        self._calls_made += 1

    def _merged(self) -> Chunk | None:
        if not (self._text or self._reasoning or self._calls):
            return None
        chunk = Chunk(text="".join(self._text), reasoning="".join(self._reasoning), tool_calls=tuple(self._calls))
        self._text.clear()
        self._reasoning.clear()
        self._calls.clear()
        return chunk if chunk != Chunk() else None


class _Parts:
    """The parts of a reply as the next turn needs them."""

    def __init__(self) -> None:
        self._parts: list[dict[str, JsonValue]] = []
        self._text: list[str] = []
        """Since the last part."""
        self._needed = False
        self._of_its_tools: set[str] = set()
        self._media: set[str] = set()

    def add_text(self, text: str) -> None:
        if text:
            self._text.append(text)

    def add(self, part: dict[str, JsonValue]) -> None:
        kinds = part.keys() - _BESIDE_CONTENT
        if kinds & _MEDIA:
            self._media |= {_kind_of_media(part)}
            return
        others = kinds - {"text", "functionCall"}
        if not kinds and "thoughtSignature" not in part:
            return
        self._end_text()
        self._parts.append(part)
        self._of_its_tools |= others
        self._needed = self._needed or bool(others) or "thoughtSignature" in part

    def kept(self) -> dict[str, JsonValue] | None:
        """None when the message says it all."""
        self._end_text()
        return {"google": {"parts": [*self._parts]}} if self._needed else None

    def warnings(self, provider: str) -> tuple[str, ...]:
        made = f"{provider} made {', '.join(sorted(self._media))}, which is not passed on"
        used = f"{provider} used tools of its own ({', '.join(sorted(self._of_its_tools))}); see provider_data"
        return (*((made,) if self._media else ()), *((used,) if self._of_its_tools else ()))

    def _end_text(self) -> None:
        if self._text:
            self._parts.append({"text": "".join(self._text)})
            self._text.clear()


def _kind_of_media(part: dict[str, JsonValue]) -> str:
    for kind in _MEDIA:
        match part.get(kind):
            case {"mimeType": str(media_type)}:
                return re.split(r"[;\s]", media_type[:64], maxsplit=1)[0]
            case _:
                pass
    return "media"


def _normalised(usage: _Usage) -> Usage:
    """Input and output as totals; Gemini counts tool results and thoughts apart."""
    thoughts = usage.thoughts_token_count or 0
    return Usage(
        input_tokens=(usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0),
        output_tokens=(usage.candidates_token_count or 0) + thoughts,
        cache_read_tokens=usage.cached_content_token_count or 0,
        reasoning_tokens=thoughts,
        source=UsageSource.VENDOR,
    )


def _traffic(kind: Any) -> str | None:
    """`ON_DEMAND_FLEX`, `ON_DEMAND_PRIORITY`, `PROVISIONED_THROUGHPUT`; None: what everybody gets."""
    if not isinstance(kind, str) or kind == "TRAFFIC_TYPE_UNSPECIFIED":
        return None
    return service_tier(kind.removeprefix("ON_DEMAND").removeprefix("_"))


def _raw_parts(data: bytes | msgspec.Raw, position: int) -> list[Any]:
    """The parts of the candidate at `position` with all their fields."""
    return _decode_any(data)["candidates"][position]["content"]["parts"]
