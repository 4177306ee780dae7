"""Gemini's generateContent format: the reply that we read, streamed (server-sent events without `[DONE]`) or whole.

The end marker is the candidate's `finishReason`; a prompt that was blocked has none, but a `promptFeedback`.

What the model wants back on the next turn goes to `provider_data` as its parts, in their order: signed parts, function
calls, and what its own tools did (code and its results). The text between them goes along, because a signature belongs
to its place; summaries of thoughts do not, unless they are signed. Media that a model makes is not passed on.
"""

import re
from collections.abc import Sequence, Set
from typing import Any

import msgspec
from pydantic import JsonValue

from contracts.events import ToolCallDelta
from contracts.usage import Usage, UsageSource
from workers.providers.base import Chunk, Finish, Stated, service_tier
from workers.providers.shared.errors.body import is_error
from workers.providers.shared.errors.vendor_errors import Classify
from workers.providers.shared.http.reply_body import ReplyBody
from workers.providers.shared.http.sse import Event
from workers.providers.shared.json_text import NO_JSON, FieldwiseDecoder, decode_any
from workers.providers.shared.replies import finish_reasons, reply_arguments
from workers.providers.shared.replies.output import Output
from workers.providers.shared.replies.reader import Reader
from workers.providers.shared.replies.token_counts import plausible

_USUAL = frozenset({"STOP", "MAX_TOKENS", "SAFETY"})
"""Reasons that are said in full by what they become; of the others a warning says which it was."""
_NUMBERED = {1: "STOP", 2: "MAX_TOKENS", 3: "SAFETY", 4: "RECITATION"}
"""Reasons by the numbers that protobuf can write in their place. Gemini's API and Vertex agree on no more of them."""
_MEDIA = frozenset({"inlineData", "fileData"})
_MOST_NAMED, _MOST_NAME_CHARS = 10, 64
"""How many names of a server's own one warning holds, and how long they may be."""
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
    index: int = 0
    content: _Content | None = None
    finish_reason: Any = None


class _PromptFeedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: Any = None


class _Usage(msgspec.Struct, gc=False, rename="camel"):
    prompt_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    traffic_type: Any = None
    service_tier: Any = None


_STATED = _Usage.__struct_fields__
_COUNTS = frozenset(name for name in _STATED if name.endswith("_count"))


class _Response(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _PromptFeedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Any = None


_decode_response = FieldwiseDecoder(_Response)


class ReplyReader(Reader):
    """Reads one reply in Gemini's format."""

    def __init__(
        self, *, provider: str, classify: Classify, warnings: Sequence[str] = (), served_as: str | None = None
    ) -> None:
        """`served_as`: the service tier that the reply's headers name."""
        super().__init__(provider=provider, classify=classify, warnings=warnings)
        self._body = ReplyBody()
        self._usage = _Usage()
        self._served_as = served_as
        self._model: str | None = None
        self._id: str | None = None
        self._reason: str | None = None
        self._parts = _Parts()
        self._output = Output()

    @property
    def finished(self) -> bool:
        return self._reason is not None

    def feed(self, data: bytes) -> Chunk | None:
        return self._absorb(self._body.feed(data))

    def end(self) -> Chunk | None:
        chunk = self._absorb(self._body.end(), may_be_cut=True)
        self.done = True
        return chunk

    def finish(self) -> Finish:
        said = self._reason or ""
        reason = finish_reasons.meaning(said) or "stop"
        is_usual = said.upper() in _USUAL
        warnings = self._parts.warnings(self._provider)
        return Finish(
            finish_reason=self._output.finish_reason(reason),
            usage=_normalised(self._usage),
            response_model=self._model,
            response_id=self._id,
            service_tier=self._service_tier(),
            provider_data=self._parts.kept(),
            warnings=(
                *self._warnings,
                *warnings,
                *(() if is_usual else (f"{self._provider} ended with the finish reason {said[:64]}",)),
                *self._output.warnings(self._provider, reason, explained=bool(warnings) or not is_usual),
            ),
        )

    def _absorb(self, events: Sequence[Event], *, may_be_cut: bool = False) -> Chunk | None:
        for event in events:
            if self.error or self.done:
                break
            try:
                self._take(event.data)
            except NO_JSON:
                self._take_no_json(event.data.strip(), may_be_cut=may_be_cut)
        return self._output.take()

    def _take_no_json(self, data: bytes, *, may_be_cut: bool) -> None:
        """Gateways end Gemini's streams like those of OpenAI, and keep them alive with blank events."""
        self.done = data.startswith(b"[DONE]")
        if data and not (self.done or may_be_cut):
            self._interrupt("sent an event that is no JSON")

    def _take(self, data: bytes | msgspec.Raw) -> None:
        """Raises one of NO_JSON."""
        try:
            response = _decode_response(data)
        except msgspec.ValidationError:
            self._take_list(data)
            return
        self._id = self._id or response.response_id
        self._model = self._model or response.model_version
        if response.usage_metadata:
            self._state(response.usage_metadata)
        feedback = response.prompt_feedback
        if response.error or (feedback and feedback.block_reason and not response.candidates):
            self.error = self._classify(decode_any(data))
            return
        if response.candidates is None and response.usage_metadata is None:
            self._take_unknown(data)
        raw = _RawParts(data)
        for position, candidate in enumerate(response.candidates or ()):
            if not candidate.index:
                self._take_candidate(candidate, raw, position)

    def _state(self, usage: _Usage) -> None:
        """Running totals; some servers state one count at the beginning only, and zeros for the others at the end."""
        known, has_changed = self._usage, False
        for name in _STATED:
            value = getattr(usage, name)
            if value and value != getattr(known, name) and (name not in _COUNTS or plausible(value)):
                setattr(known, name, value)
                has_changed = True
        if has_changed and (counted := _normalised(known)):
            self.stated = Stated(counted, service_tier=self._service_tier(), response_model=self._model)

    def _service_tier(self) -> str | None:
        """Gemini's own API names the tier in a header, Vertex the kind of traffic in the usage."""
        return _traffic(self._usage.traffic_type) or service_tier(self._usage.service_tier or self._served_as)

    def _take_list(self, data: bytes | msgspec.Raw) -> None:
        """Takes a list of replies, as it comes without `alt=sse`."""
        body = decode_any(data)
        for item in body if isinstance(body, list) else ():
            if isinstance(item, dict) and not self.error:
                self._take(msgspec.json.encode(item))

    def _take_unknown(self, data: bytes | msgspec.Raw) -> None:
        """Takes an error in one of its forms; anything else is skipped."""
        body = decode_any(data)
        if is_error(body) or (isinstance(body, dict) and body.get("message")):
            self.error = self._classify(body)

    def _take_candidate(self, candidate: _Candidate, raw: "_RawParts", position: int) -> None:
        parts = (candidate.content.parts if candidate.content else None) or ()
        raw_parts: list[Any] | None = None
        for index, part in enumerate(parts):
            if part.text and part.thought_signature is None and part.function_call is None:
                if part.thought:
                    self._output.reasoning.append(part.text)
                else:
                    self._output.text.append(part.text)
                    self._parts.add_text(part.text)
                continue
            if raw_parts is None:
                raw_parts = raw.of_candidate(position)
            if isinstance(raw_parts[index], dict):
                self._take_special(part, raw_parts[index])
        if candidate.finish_reason:
            self._end(_name_of(candidate.finish_reason))

    def _end(self, reason: str) -> None:
        if finish_reasons.broke_off(reason):
            self._interrupt(f"broke its reply off ({reason[:64]})")
        elif reason.upper() != "FINISH_REASON_UNSPECIFIED":
            self._reason = reason

    def _take_special(self, part: _Part, raw: dict[str, JsonValue]) -> None:
        """Takes a part that is more than text."""
        if part.text:
            (self._output.reasoning if part.thought else self._output.text).append(part.text)
        if called := part.function_call:
            arguments = reply_arguments.of_raw(called.args)
            call = self._output.add_whole_call(id=called.id, name=called.name, arguments=arguments)
            raw = _answerable(raw, call)
        self._parts.add(raw)


class _Parts:
    """The parts of a reply as the next turn needs them."""

    def __init__(self) -> None:
        self._parts: list[dict[str, JsonValue]] = []
        self._text: list[str] = []
        """The text since the last part, in fragments."""
        self._needed = False
        self._of_its_tools: set[str] = set()
        self._media: set[str] = set()

    def add_text(self, text: str) -> None:
        if text:
            self._text.append(text)

    def add(self, part: dict[str, JsonValue]) -> None:
        kinds = part.keys() - _BESIDE_CONTENT
        if kinds & _MEDIA:
            _name({_kind_of_media(part)}, to=self._media)
            return
        others = kinds - {"text", "functionCall"}
        is_signed = bool(part.get("thoughtSignature"))
        if not (others or is_signed or "functionCall" in kinds):
            return
        self._end_text()
        self._parts.append(part)
        _name(others, to=self._of_its_tools)
        self._needed = self._needed or bool(others) or is_signed

    def kept(self) -> dict[str, JsonValue] | None:
        """What the model wants back; None when the message says it all."""
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


def _name(names: Set[str], *, to: set[str]) -> None:
    """Names go into a warning, and are the server's own: no more are kept than one can hold."""
    for name in sorted(names):
        if len(to) < _MOST_NAMED:
            to.add(name[:_MOST_NAME_CHARS])


def _kind_of_media(part: dict[str, JsonValue]) -> str:
    for kind in _MEDIA:
        match part.get(kind):
            case {"mimeType": str(media_type)}:
                return re.split(r"[;\s]", media_type[:_MOST_NAME_CHARS], maxsplit=1)[0]
            case _:
                pass
    return "media"


def _answerable(part: dict[str, Any], call: ToolCallDelta | None) -> dict[str, Any]:
    """A part as the next turn can send it back: without a call that agents did not get (None), and with a call's name
    and arguments in the form that the API takes."""
    made = part["functionCall"]
    rest = {name: value for name, value in part.items() if name != "functionCall"}
    if call is None:
        return {"text": "", **rest}
    if not (made.get("name") and isinstance(made["name"], str)):
        made = {**made, "name": call.name}
    if not isinstance(made.get("args", {}), dict):
        made = {**made, "args": _object(call.arguments or "")}
    return {**rest, "functionCall": made}


def _object(arguments: str) -> dict[str, Any]:
    try:
        value = decode_any(arguments.encode())
    except NO_JSON:
        return {}
    return value if isinstance(value, dict) else {}


def _normalised(usage: _Usage) -> Usage | None:
    """Input and output as totals; Gemini counts tool results and thoughts apart. None: nothing was counted."""
    given = (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0)
    thoughts = usage.thoughts_token_count or 0
    output = (usage.candidates_token_count or 0) + thoughts
    cached = usage.cached_content_token_count or 0
    if not (given or output or cached):
        return None
    return Usage(
        input_tokens=given,
        output_tokens=output,
        cache_read_tokens=cached,
        reasoning_tokens=thoughts,
        source=UsageSource.VENDOR,
    )


def _name_of(reason: Any) -> str:
    """The name of a finish reason in any form: whatever it is, the reply has ended."""
    if isinstance(reason, str):
        return reason
    is_number = isinstance(reason, int) and not isinstance(reason, bool)
    return _NUMBERED.get(reason, str(reason)) if is_number else "that is no name"


def _traffic(kind: Any) -> str | None:
    """The service tier that Vertex names as a kind of traffic (`ON_DEMAND_FLEX`, `PROVISIONED_THROUGHPUT`); None for
    the one that everybody gets."""
    if not isinstance(kind, str) or kind == "TRAFFIC_TYPE_UNSPECIFIED":
        return None
    return service_tier(kind.removeprefix("ON_DEMAND").removeprefix("_"))


class _RawParts:
    """The parts of an event's candidates with all their fields. The event is decoded once, when they are wanted."""

    def __init__(self, data: bytes | msgspec.Raw) -> None:
        self._data = data
        self._candidates: list[Any] | None = None

    def of_candidate(self, position: int) -> list[Any]:
        if self._candidates is None:
            self._candidates = _each(decode_any(self._data)["candidates"])
        return _each(self._candidates[position]["content"]["parts"])


def _each(value: Any) -> list[Any]:
    """The items of a list; an object in its place is its only item, as FieldwiseDecoder takes it."""
    return [value] if isinstance(value, dict) else value
