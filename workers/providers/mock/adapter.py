"""A provider without a network: it answers as the request's own script says. For demos, load tests and users' tests.

The script is `provider_options: {"mock": {…}}`, see `Script`; without one the last user message is echoed. Any model
name goes (`mock/echo`). What a script leaves out is derived from the request, so that the same request has the same
answer and the same bill:

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
from collections.abc import AsyncGenerator, Iterator
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
from workers.providers.base import Call, Chunk, Finish, Target
from workers.providers.mock.models import MODELS
from workers.providers.shared import token_estimates
from workers.providers.shared.adapter import Adapter
from workers.providers.shared.http.time_limits import TimeLimits

_REMEMBERED_REQUESTS = 10_000


def _of_a_vendor(code: ErrorCode) -> ErrorCode:
    if not RULES[code].can_come_from_vendor:
        possible = sorted(other for other, rule in RULES.items() if rule.can_come_from_vendor)
        raise ValueError(f"no vendor fails with {code}; one of {', '.join(possible)} is needed")
    return code


Seconds = Annotated[float, Field(ge=0, le=86_400)]


class ScriptedFailure(StrictWireModel):
    code: Annotated[ErrorCode, AfterValidator(_of_a_vendor)]
    message: str = "scripted failure"
    after_chunks: Annotated[int, Field(ge=0)] = 0
    """How much of the answer comes before it."""
    times: Annotated[int, Field(ge=1)] | None = None
    """How many calls of one request id fail before they succeed (counted in each worker); None: all of them."""
    retry_after_s: Seconds | None = None
    status: Annotated[int, Field(ge=100, le=599)] | None = None


class ScriptedToolCall(StrictWireModel):
    name: ToolName
    arguments: dict[str, JsonValue] | str = Field(default_factory=dict)
    id: str | None = optional(min_length=1, max_length=256)


class ScriptedUsage(StrictWireModel):
    """What the mock states as its usage; what is left out is counted."""

    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    reasoning_tokens: Tokens = 0


class Script(StrictWireModel):
    """How the mock answers one request."""

    text: str | None = None
    """None: an echo of the last user message, unless there are tool calls or a refusal."""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ScriptedToolCall, ...] = ()
    chunk_size: Annotated[int, Field(ge=1)] | None = None
    """Characters in each chunk; None: a word."""
    chunks: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Into how many chunks each part of the answer is cut; goes before `chunk_size`."""
    first_token_s: Seconds = 0
    between_s: Seconds = 0
    finish_reason: FinishReason | None = None
    """None: `tool_calls` with tool calls, else `stop`."""
    usage: ScriptedUsage | None = ScriptedUsage()
    """None: the mock states none, as some servers do."""
    warnings: tuple[str, ...] = ()
    fail: ScriptedFailure | None = None
    cut_after_chunks: Annotated[int, Field(ge=0)] | None = None
    """After so many chunks the stream ends without its end marker."""


class Mock(Adapter):
    """The adapter of the provider `mock`."""

    name = "mock"
    models = MODELS

    def __init__(self, egress: Egress | None = None) -> None:
        """Calls nobody."""
        self._failures: OrderedDict[str, int] = OrderedDict()

    def check_supported(self, request: CompletionRequest, *, model: str) -> None:
        """The mock takes everything."""

    async def stream_completion(self, call: Call) -> AsyncGenerator[Chunk | Finish]:
        script = _script(call.request)
        failure = script.fail if self._fails_now(call.request.id, script.fail) else None
        limits = TimeLimits(call.target.timeouts, time_left_s=call.time_left_s, provider=self.name)
        pause_s = script.first_token_s
        sent: list[str] = []
        for number, chunk in enumerate(_chunks(call.request, script)):
            _stop_here(script, failure, after=number)
            if pause_s:
                await limits.wait(asyncio.sleep(pause_s))
            limits.sign_of_life()
            pause_s = script.between_s
            sent.append(_output_of(chunk))
            yield chunk
        if failure:
            raise _error(failure)
        if script.cut_after_chunks is not None:
            raise StreamInterrupted("mock ended its stream without an end marker, as scripted", provider=self.name)
        yield Finish(
            finish_reason=script.finish_reason or ("tool_calls" if script.tool_calls else "stop"),
            usage=_usage(call.request, script, "".join(sent)),
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
        """There is nothing to close."""

    def _fails_now(self, request_id: str, failure: ScriptedFailure | None) -> bool:
        if failure is None:
            return False
        failed = self._failures.pop(request_id, 0)
        self._failures[request_id] = failed + 1
        if len(self._failures) > _REMEMBERED_REQUESTS:
            self._failures.popitem(last=False)
        return failure.times is None or failed < failure.times


ADAPTER = Mock


def _script(request: CompletionRequest) -> Script:
    try:
        return Script.model_validate(request.provider_options.get("mock", {}))
    except ValidationError as exc:
        raise InvalidRequest(f"provider_options.mock is no script: {errors_in_one_line(exc)}", provider="mock") from exc


def _stop_here(script: Script, failure: ScriptedFailure | None, *, after: int) -> None:
    if failure and failure.after_chunks == after:
        raise _error(failure)
    if script.cut_after_chunks == after:
        raise StreamInterrupted("mock cut its stream, as scripted", provider="mock")


def _error(failure: ScriptedFailure) -> FleetError:
    return BY_CODE[failure.code](
        failure.message, retry_after_s=failure.retry_after_s, status=failure.status, provider="mock"
    )


def _chunks(request: CompletionRequest, script: Script) -> Iterator[Chunk]:
    text = script.text
    if text is None:
        text = "" if script.tool_calls or script.refusal else _echo(request)
    yield from (Chunk(reasoning=piece) for piece in _pieces(script.reasoning, script))
    yield from (Chunk(text=piece) for piece in _pieces(text, script))
    yield from (Chunk(refusal=piece) for piece in _pieces(script.refusal, script))
    for index, call in enumerate(script.tool_calls):
        call_id = call.id or f"call_{request.id}_{index}"[:256]
        yield Chunk(tool_calls=(ToolCallDelta(index=index, id=call_id, name=call.name),))
        arguments = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)
        for piece in _pieces(arguments, script):
            yield Chunk(tool_calls=(ToolCallDelta(index=index, arguments=piece),))


def _echo(request: CompletionRequest) -> str:
    said = [message for message in request.messages if message.role == "user"]
    return f"You said: {' '.join(token_estimates.texts_of(said[-1]))}" if said else "Hello."


def _pieces(text: str, script: Script) -> list[str]:
    if script.chunks:
        size = -(-len(text) // script.chunks)
    elif script.chunk_size:
        size = script.chunk_size
    else:
        return re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)
    return [text[at : at + size] for at in range(0, len(text), max(size, 1))]


def _output_of(chunk: Chunk) -> str:
    calls = [f"{delta.name or ''}{delta.arguments or ''}" for delta in chunk.tool_calls]
    return "".join([chunk.reasoning, chunk.text, chunk.refusal, *calls])


def _usage(request: CompletionRequest, script: Script, output: str) -> Usage | None:
    stated = script.usage
    if stated is None:
        return None
    return Usage(
        input_tokens=token_estimates.estimate_input(request) if stated.input_tokens is None else stated.input_tokens,
        output_tokens=token_estimates.estimate_output(output) if stated.output_tokens is None else stated.output_tokens,
        cache_read_tokens=stated.cache_read_tokens,
        cache_write_tokens=stated.cache_write_tokens,
        reasoning_tokens=stated.reasoning_tokens,
        source=UsageSource.VENDOR,
    )
