"""Ollama's native chat format: the reply that we read, lines of JSON up to the one with `done: true`."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from contracts.usage import Usage, UsageSource
from workers.providers.base import Chunk, Finish
from workers.providers.ollama.request import NAME
from workers.providers.shared.errors.body import is_error
from workers.providers.shared.errors.vendor_errors import Classify
from workers.providers.shared.http.ndjson import Lines, json_texts
from workers.providers.shared.json_text import NO_JSON, FieldwiseDecoder, decode_any
from workers.providers.shared.replies import finish_reasons, reply_arguments
from workers.providers.shared.replies.output import Output
from workers.providers.shared.replies.reader import Reader
from workers.providers.shared.replies.token_counts import plausible

_WITHOUT_A_PROMPT = frozenset({"load", "unload"})
"""Why a request ended that only moved a model into memory, or out of it."""
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
"""How a line of an event stream begins; no JSON does."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: msgspec.Raw = msgspec.Raw()


class _ToolCall(msgspec.Struct, gc=False):
    id: str | None = None
    """Newer servers give calls an id, older ones do not."""
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Line(msgspec.Struct, gc=False):
    model: str | None = None
    message: _Message | None = None
    done: bool | None = None
    """None when it is missing or odd."""
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    error: Any = None


_decode_line = FieldwiseDecoder(_Line)


class OllamaReader(Reader):
    """Reads one reply in Ollama's format, where the end marker and the usage are one line."""

    def __init__(
        self,
        *,
        classify: Classify,
        estimate_input: Callable[[], int],
        warnings: Sequence[str] = (),
    ) -> None:
        """`estimate_input`: the tokens of the prompt, for servers that state those of the output only."""
        super().__init__(provider=NAME, classify=classify, warnings=warnings)
        self._estimate_input = estimate_input
        self._lines = Lines()
        self._model: str | None = None
        self._reason: str | None = None
        self._input_tokens: int | None = None
        self._output_tokens: int | None = None
        self._output = Output()
        self._thought: list[str] = []

    def feed(self, data: bytes) -> Chunk | None:
        for line in self._lines.feed(data):
            self._take(line)
            if self.done or self.error:
                break
        return self._output.take()

    def end(self) -> Chunk | None:
        """A reply that is not streamed has no newline at its end."""
        if (line := self._lines.end()) and not self.done:
            self._take(line, may_be_cut=True)
        return self._output.take()

    def finish(self) -> Finish:
        given, written = self._input_tokens, self._output_tokens
        usage: Usage | None = None
        if given is not None or written is not None:
            # Counts of zero are left out, and some servers leave out a prompt that was in their cache.
            usage = Usage(
                input_tokens=self._estimate_input() if given is None else given,
                output_tokens=written or 0,
                source=UsageSource.ESTIMATED if given is None else UsageSource.VENDOR,
            )
        said = self._reason or "stop"
        known = "stop" if said in _WITHOUT_A_PROMPT else finish_reasons.meaning(said)
        unknown = () if known else (f"{NAME} gave the unknown done_reason {said[:64]!r}",)
        reason = known or "stop"
        # A model that thought before it called tools goes on from there when it sees its thoughts again.
        thinks_on = bool(self._output.calls and self._thought)
        return Finish(
            finish_reason=self._output.finish_reason(reason),
            usage=usage,
            response_model=self._model,
            provider_data={NAME: {"thinking": "".join(self._thought)}} if thinks_on else None,
            warnings=(
                *self._warnings,
                *unknown,
                *self._output.warnings(NAME, reason, explained=said in _WITHOUT_A_PROMPT or not known),
            ),
        )

    def _take(self, line: bytes, *, may_be_cut: bool = False) -> None:
        try:
            said = _decode_line(line)
        except msgspec.ValidationError:
            return  # JSON, but no object: nothing in it is part of a reply
        except NO_JSON:
            self._take_no_json(line.strip(), may_be_cut=may_be_cut)
            return
        if said.error:
            self.error = self._classify({"error": said.error})
            return
        if said.message is None and said.done is None and is_error(body := decode_any(line)):
            self.error = self._classify(body)  # in another form, as gateways before Ollama write errors
            return
        self._model = self._model or said.model
        if said.message:
            self._take_message(said.message)
        if said.eval_count or said.prompt_eval_count:
            self._input_tokens = plausible(said.prompt_eval_count) or self._input_tokens
            self._output_tokens = plausible(said.eval_count) or self._output_tokens
        if said.done is not False and (said.done or said.done_reason):
            if said.done_reason and finish_reasons.broke_off(said.done_reason):
                self._interrupt(f"broke its reply off ({said.done_reason[:64]})")
            else:
                self._reason = said.done_reason
                self.done = True

    def _take_no_json(self, line: bytes, *, may_be_cut: bool) -> None:
        """Takes what proxies make of the lines: comments between them, server-sent events, which may end with `[DONE]`,
        or several lines in one."""
        if line.startswith(_FIELDS):
            data = line.removeprefix(b"data:").strip()
            if data.startswith(b"[DONE]"):
                self._interrupt("ended without a line that says so")
            elif line.startswith(b"data:") and data:
                self._take(data, may_be_cut=may_be_cut)
            return
        texts, rest = json_texts(line)
        several = len(texts) + bool(rest) > 1
        for text in texts if several else ():
            if not (self.done or self.error):
                self._take(text)
        if (rest or not several) and not (self.done or self.error or may_be_cut):
            self._interrupt("sent a line that is no JSON")

    def _take_message(self, message: _Message) -> None:
        if message.content:
            self._output.text.append(message.content)
        if message.thinking:
            self._output.reasoning.append(message.thinking)
            self._thought.append(message.thinking)
        if message.tool_calls:
            for call in message.tool_calls:
                function = call.function or _Function()
                arguments = reply_arguments.of_raw(function.arguments)
                self._output.add_whole_call(id=call.id, name=function.name, arguments=arguments)
