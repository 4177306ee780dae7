"""A provider without a network: it answers as the request's own script says. For demos, load tests and users' tests.

The script is `provider_options: {"mock": {…}}`, see `MockScript`; without one the last user message is echoed. Any
model's name goes (`mock/echo`). What a script leaves out is derived from the request, so that the same request has the
same answer and the same bill:

    {"text": "Hello there"}                                                  an answer
    {"tool_calls": [{"name": "f", "arguments": {"x": 1}}]}                   a tool call
    {"text": "…", "first_token_s": 0.3, "between_s": 0.02, "chunk_size": 4}  paced like a vendor
    {"fail": {"code": "overloaded", "times": 2}}                             two failures, then an answer
    {"fail": {"code": "rate_limited", "retry_after_s": 1.5, "times": 1}}
    {"text": "one two three", "cut_after_chunks": 2}                         the stream breaks without an end marker
"""

import asyncio
import json
import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from contracts.error_rules import RULES
from contracts.errors import BY_CODE, ErrorCode, FleetError, InvalidRequest, StreamInterrupted
from contracts.events import FinishReason, ToolCallDelta
from contracts.requests import CompletionRequest, ToolName
from contracts.rpc import CountTokens, ModelInfo, TokenCount
from contracts.usage import Tokens, Usage, UsageSource
from contracts.wire import StrictWireModel, errors_in_one_line, optional
from runtime.egress import Egress
from workers.providers.base import Call, Chunk, Finish, Gathering, Take, Target
from workers.providers.mock.models import MODELS
from workers.providers.shared import token_estimates
from workers.providers.shared.adapter import Adapter
from workers.providers.shared.http.time_limits import TimeLimits

_REMEMBERED_REQUESTS = 10_000
_CHUNKS_AT_ONCE = 64
"""So many chunks without a pause between them are said before others get the event loop."""


def _possible_at_a_vendor(code: ErrorCode) -> ErrorCode:
    if not RULES[code].can_come_from_vendor:
        possible = sorted(other for other, rule in RULES.items() if rule.can_come_from_vendor)
        raise ValueError(f"no vendor fails with {code}; one of {', '.join(possible)} is needed")
    return code


Seconds = Annotated[float, Field(ge=0, le=86_400)]


class MockFailure(StrictWireModel):
    """How a call fails."""

    code: Annotated[ErrorCode, AfterValidator(_possible_at_a_vendor)]
    message: str = "scripted failure"
    after_chunks: Annotated[int, Field(ge=0)] = 0
    """How many chunks of the answer come before it."""
    times: Annotated[int, Field(ge=1)] | None = None
    """How many calls of one request id fail before they succeed (counted in each worker); None: all of them."""
    retry_after_s: Seconds | None = None
    status: Annotated[int, Field(ge=100, le=599)] | None = None

    def to_error(self) -> FleetError:
        error = BY_CODE[self.code]
        return error(self.message, retry_after_s=self.retry_after_s, status=self.status, provider="mock")


class MockToolCall(StrictWireModel):
    """A tool call of the answer; without an id it gets one made of the request's."""

    name: ToolName
    arguments: dict[str, JsonValue] | str = Field(default_factory=dict)
    id: str | None = optional(min_length=1, max_length=256)


class MockUsage(StrictWireModel):
    """What the mock states as its usage; what is left out is counted."""

    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    reasoning_tokens: Tokens = 0


class MockScript(StrictWireModel):
    """How the mock answers one request."""

    text: str | None = None
    """None stands for an echo of the last user message, or for nothing beside tool calls or a refusal."""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[MockToolCall, ...] = ()
    chunk_size: Annotated[int, Field(ge=1)] | None = None
    """Characters in each chunk; None stands for a word."""
    chunks: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Into how many chunks each part of the answer is cut; goes before `chunk_size`."""
    first_token_s: Seconds = 0
    between_s: Seconds = 0
    finish_reason: FinishReason | None = None
    """None stands for `tool_calls` with tool calls, else `stop`."""
    usage: MockUsage | None = MockUsage()
    """With None the mock states none, as some servers do."""
    warnings: tuple[str, ...] = ()
    fail: MockFailure | None = None
    cut_after_chunks: Annotated[int, Field(ge=0)] | None = None
    """After so many chunks the stream ends without its end marker."""

    @classmethod
    def of(cls, request: CompletionRequest) -> "MockScript":
        """Raises InvalidRequest."""
        try:
            return cls.model_validate(request.provider_options.get("mock", {}))
        except ValidationError as exc:
            reasons = errors_in_one_line(exc)
            raise InvalidRequest(f"provider_options.mock is no script: {reasons}", provider="mock") from exc

    def answer(self, request: CompletionRequest) -> Iterator[Chunk]:
        text = self.text
        if text is None:
            text = "" if self.tool_calls or self.refusal else _echo(request)
        yield from (Chunk(reasoning=piece) for piece in self._cut(self.reasoning))
        yield from (Chunk(text=piece) for piece in self._cut(text))
        yield from (Chunk(refusal=piece) for piece in self._cut(self.refusal))
        for index, call in enumerate(self.tool_calls):
            call_id = call.id or f"call_{request.id}_{index}"[:256]
            yield Chunk(tool_calls=(ToolCallDelta(index=index, id=call_id, name=call.name),))
            arguments = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)
            for piece in self._cut(arguments):
                yield Chunk(tool_calls=(ToolCallDelta(index=index, arguments=piece),))

    def bill(self, request: CompletionRequest, output: str) -> Usage | None:
        """The usage of an answer that said `output`; None when the script lets the mock state none."""
        stated = self.usage
        if stated is None:
            return None
        given, said = stated.input_tokens, stated.output_tokens
        return Usage(
            input_tokens=token_estimates.estimate_input(request) if given is None else given,
            output_tokens=token_estimates.estimate_output(output) if said is None else said,
            cache_read_tokens=stated.cache_read_tokens,
            cache_write_tokens=stated.cache_write_tokens,
            reasoning_tokens=stated.reasoning_tokens,
            source=UsageSource.VENDOR,
        )

    def _cut(self, text: str) -> list[str]:
        if self.chunks:
            size = -(-len(text) // self.chunks)
        elif self.chunk_size:
            size = self.chunk_size
        else:
            return re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)
        return [text[at : at + size] for at in range(0, len(text), max(size, 1))]


def _echo(request: CompletionRequest) -> str:
    said = [message for message in request.messages if message.role == "user"]
    return f"You said: {' '.join(token_estimates.texts_of(said[-1]))}" if said else "Hello."


class Mock(Adapter):
    """The adapter of the provider `mock`."""

    name = "mock"
    models = MODELS

    def __init__(self, egress: Egress | None = None) -> None:
        self._failures: OrderedDict[str, int] = OrderedDict()
        """How often a request has failed, by its id; the newest last."""

    def check_supported(self, request: CompletionRequest, *, model: str) -> None:
        """The mock takes everything."""

    async def stream_completion(self, call: Call, take: Take) -> Finish:
        script = MockScript.of(call.request)
        limits = TimeLimits(call.target.timeouts, time_left_s=call.time_left_s, provider=self.name)
        await call.may_send()
        limits.start()
        failure = script.fail if self._fails_now(call.request.id, script.fail) else None
        pause_s = script.first_token_s
        said = Gathering()
        for number, chunk in enumerate(script.answer(call.request)):
            if failure and failure.after_chunks == number:
                raise failure.to_error()
            if script.cut_after_chunks == number:
                raise StreamInterrupted("mock cut its stream, as scripted", provider=self.name)
            if pause_s or number % _CHUNKS_AT_ONCE == 0:
                await limits.wait(asyncio.sleep(pause_s))
            limits.sign_of_life()
            pause_s = script.between_s
            said.add(chunk)
            if (until_taken := take(chunk)) is not None:
                await until_taken
        if failure:
            raise failure.to_error()
        if script.cut_after_chunks is not None:
            raise StreamInterrupted("mock ended its stream without an end marker, as scripted", provider=self.name)
        return Finish(
            finish_reason=script.finish_reason or ("tool_calls" if script.tool_calls else "stop"),
            usage=script.bill(call.request, said.output_text()),
            response_model=call.model,
            response_id=f"mock-{call.request.id}",
            warnings=script.warnings,
        )

    async def count_tokens(self, question: CountTokens, *, model: str, target: Target) -> TokenCount:
        return TokenCount(input_tokens=token_estimates.estimate_input(question), exact=True)

    async def check_health(self, target: Target) -> None:
        """The mock is always well."""

    async def get_supported_models(self, target: Target) -> tuple[ModelInfo, ...]:
        return (ModelInfo(id="echo"),)

    async def aclose(self) -> None:
        """The mock holds no connections."""

    def _fails_now(self, request_id: str, failure: MockFailure | None) -> bool:
        if failure is None:
            return False
        failed = self._failures.pop(request_id, 0)
        self._failures[request_id] = failed + 1
        if len(self._failures) > _REMEMBERED_REQUESTS:
            self._failures.popitem(last=False)
        return failure.times is None or failed < failure.times


ADAPTER = Mock
