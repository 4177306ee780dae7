"""Gemini's generateContent format: the reply that we read, streamed (server-sent events without `[DONE]`) or whole.

The end marker is the candidate's `finishReason`; a prompt that was blocked has none, but a `promptFeedback`.

What the model wants back on the next turn goes to `provider_data` as its parts, in their order: signed parts, function
calls, and what its own tools did (code and its results). The text between them goes along, because a signature belongs
to its place; summaries of thoughts do not, unless they are signed. Media that a model makes is not passed on.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from pydantic import JsonValue

from workers.providers.base import Chunk, Finish, Stated
from workers.providers.google.parts import KeptParts, RawParts, answerable
from workers.providers.google.usage import StatedUsage
from workers.providers.shared.errors.body import is_error
from workers.providers.shared.errors.vendor_errors import Classify
from workers.providers.shared.http.reply_body import ReplyBody
from workers.providers.shared.http.sse import Event
from workers.providers.shared.json_text import NO_JSON, FieldwiseDecoder, decode_any, no_more_than
from workers.providers.shared.replies import finish_reasons, reply_arguments
from workers.providers.shared.replies.output import Output
from workers.providers.shared.replies.reader import Reader

_USUAL = frozenset({"STOP", "MAX_TOKENS", "SAFETY"})
"""Reasons that are said in full by what they become; of the others a warning says which it was."""
_MOST_RESPONSES = 20_000
"""How many responses a list may have."""
_MOST_CANDIDATES = 100
_MOST_PARTS = 10_000
"""How many candidates a response may have, and how many parts they may have."""
_NUMBERED = {1: "STOP", 2: "MAX_TOKENS", 3: "SAFETY", 4: "RECITATION"}
"""Reasons by the numbers that protobuf can write in their place. Gemini's API and Vertex agree on no more of them."""


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


class _Response(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _PromptFeedback | None = None
    usage_metadata: StatedUsage | None = None
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
        self._usage = StatedUsage()
        self._header_tier = served_as
        self._model: str | None = None
        self._id: str | None = None
        self._reason: str | None = None
        self._parts = KeptParts()
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
            usage=self._usage.normalised(),
            response_model=self._model,
            response_id=self._id,
            service_tier=self._usage.served_as(self._header_tier),
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
                # Gateways end Gemini's streams like those of OpenAI, and keep them alive with blank events.
                data = event.data.strip()
                self.done = data.startswith(b"[DONE]")
                if data and not (self.done or may_be_cut):
                    self._interrupt("sent an event that is no JSON")
        return self._output.take()

    def _take(self, data: bytes | msgspec.Raw) -> None:
        """Raises one of NO_JSON."""
        try:
            response = _decode_response(data)
        except msgspec.ValidationError:
            # Without `alt=sse` the replies come in a list.
            body = decode_any(data)
            for item in no_more_than(_MOST_RESPONSES, body) if isinstance(body, list) else ():
                if isinstance(item, dict) and not self.error:
                    self._take(msgspec.json.encode(item))
            return
        self._id = self._id or response.response_id
        self._model = self._model or response.model_version
        stated = response.usage_metadata
        if stated and self._usage.add(stated) and (usage := self._usage.normalised()):
            tier = self._usage.served_as(self._header_tier)
            self.stated = Stated(usage, service_tier=tier, response_model=self._model)
        feedback = response.prompt_feedback
        if response.error or (feedback and feedback.block_reason and not response.candidates):
            self.error = self._classify(decode_any(data))
            return
        if response.candidates is None and stated is None:
            # An error in another form, or nothing that counts.
            body = decode_any(data)
            if is_error(body) or (isinstance(body, dict) and body.get("message")):
                self.error = self._classify(body)
        raw = RawParts(data)
        parts_left = _MOST_PARTS
        for position, candidate in enumerate(no_more_than(_MOST_CANDIDATES, response.candidates or ())):
            if not candidate.index:
                parts = no_more_than(parts_left, (candidate.content.parts if candidate.content else None) or ())
                parts_left -= len(parts)
                self._take_candidate(candidate, parts, raw, position)

    def _take_candidate(self, candidate: _Candidate, parts: Sequence[_Part], raw: RawParts, position: int) -> None:
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
            reason = _name_of(candidate.finish_reason)
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
            raw = answerable(raw, call)
        if self._parts.add(raw) and not self._keep(msgspec.json.encode(raw)):
            self._parts.drop()


def _name_of(reason: Any) -> str:
    """The name of a finish reason in any form: whatever it is, the reply has ended."""
    if isinstance(reason, str):
        return reason
    is_number = isinstance(reason, int) and not isinstance(reason, bool)
    return _NUMBERED.get(reason, str(reason)) if is_number else "that is no name"
