"""What every vendor adapter offers, and the values that go in and come out.

An adapter knows its vendor's wire format and nothing of NATS, Vault or PostgreSQL: it is given a request, an endpoint
and a key, and yields chunks. It raises `contracts.errors` only, never a library's own exception.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue, SecretStr

from contracts.errors import AuthenticationFailed, ProviderUnavailable
from contracts.events import FinishReason, ToolCallDelta
from contracts.providers import Endpoint, Price, Timeouts
from contracts.requests import AssistantMessage, CompletionRequest, FunctionCall, ToolCall
from contracts.rpc import CostEstimate, CountTokens, EstimateCost, ModelInfo, TokenCount
from contracts.usage import Usage


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call goes and with which key."""

    endpoint: Endpoint
    timeouts: Timeouts
    key: SecretStr | None
    """None for providers that need no key."""
    tenant: str = ""
    """Who has chosen where: replies of one tenant share the event loop with those of others."""


class NotToBeSent(Exception):
    """The call is not to be made; its caller knows why. Adapters let it pass."""


async def _at_once() -> None:
    return


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt: what to ask of which model, where, and how long it may take at most."""

    request: CompletionRequest
    model: str
    """The vendor's own name of the model, without the provider's prefix."""
    target: Target
    time_left_s: float
    """Seconds until the request's deadline."""
    may_send: Callable[[], Awaitable[None]] = _at_once
    """To be awaited when everything is ready, right before the first byte goes to the vendor. Raises NotToBeSent."""


class CredentialReplaced(AuthenticationFailed):
    """The vendor refused the token that an adapter had been given for the key; the next call has a newer one."""


class NotReached(ProviderUnavailable):
    """The call never came to the vendor, whatever model it was for: no address, no connection, no TLS, or no token."""


@dataclass(slots=True)
class Chunk:
    """Output that arrived together: everything that one read from the vendor's connection brought.

    Nobody changes it; to be frozen would cost three times as much for each token.
    """

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    pieces: int = field(default=1, compare=False)
    """How many of the vendor's deltas are merged here. Each is a token at least."""


_STANDARD_SERVICE = frozenset(
    {"", "auto", "default", "global", "not_available", "on_demand", "standard", "standard_only", "unspecified"}
)
_A_TIER = re.compile(r"(?=.{1,30}\Z)[a-z]{0,15}[0-9]{0,3}(?:[_-][a-z]{0,15}[0-9]{0,3})*")
"""Words with a short number behind them at most: a part of a key in base64, whose case is lost here, is none."""


def service_tier(*said: object) -> str | None:
    """What a vendor says it served a call as, in one word (`flex`, `fast+us`); None: its standard.

    What is no name becomes `unknown`, because its price is.
    """
    names = [
        name.lower().removeprefix("service_tier_") if isinstance(name, str) else "unknown"
        for name in said
        if name is not None
    ]
    special = [name if _A_TIER.fullmatch(name) else "unknown" for name in names if name not in _STANDARD_SERVICE]
    return "+".join(special) or None


@dataclass(frozen=True, slots=True)
class Stated:
    """What the vendor has said of its bill before its reply was whole; a later one replaces it.

    When the reply is cut off, this is what is known.
    """

    usage: Usage | None = None
    """The input is exact; the output is as far as the vendor had counted."""
    is_final: bool = False
    """Nothing more will be counted: only the end marker is missing."""
    service_tier: str | None = None
    response_model: str | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """The vendor's end marker was seen: the reply is whole."""

    finish_reason: FinishReason
    usage: Usage | None
    """None when the vendor stated none, so that the caller estimates it."""
    response_model: str | None = None
    response_id: str | None = None
    service_tier: str | None = None
    """What the vendor says it served the call as, when that is not its standard."""
    provider_data: dict[str, JsonValue] | None = None
    """What the vendor wants back on the next turn."""
    warnings: tuple[str, ...] = ()
    """What was asked for and ignored, and what is odd about the reply, a sentence each."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply, put together."""

    message: AssistantMessage
    finish: Finish


StreamItem = Chunk | Stated
"""What a reply says before its Finish."""
Take = Callable[[StreamItem], Awaitable[None] | None]
"""Is given each item as it arrives, in the event loop's callback that read it. What it returns, if anything, is awaited
before more is read."""


class Provider(Protocol):
    """The base interface of a vendor adapter. One instance serves all tenants of a worker.

    All methods raise `contracts.errors.FleetError` subclasses; messages hold no part of a key or a prompt.
    """

    name: str

    def check_supported(self, request: CompletionRequest, *, model: str) -> None:
        """Raises UnsupportedFeature when the vendor cannot do what is asked; makes no call."""
        ...

    async def stream_completion(self, call: Call, take: Take) -> Finish:
        """Gives the chunks to `take` as they arrive, and what is stated between them; returns when the reply is whole.

        A reply that ends without the vendor's end marker raises StreamInterrupted. What `take` raises ends the call and
        is raised. Cancelling it closes the vendor's connection at once.
        """
        ...

    async def complete(self, call: Call) -> Completion:
        """The whole reply; read through the same path as a streamed one."""
        ...

    async def count_tokens(self, question: CountTokens, *, model: str, target: Target) -> TokenCount:
        """The input tokens of a prompt; `exact` is False where they are only estimated."""
        ...

    async def check_health(self, target: Target) -> None:
        """One cheap authenticated call; returns when the endpoint and the key work, raises otherwise."""
        ...

    async def get_supported_models(self, target: Target) -> tuple[ModelInfo, ...]:
        """The models that the endpoint lists for the key."""
        ...

    async def estimate_cost(
        self, question: EstimateCost, *, model: str, target: Target, prices: Mapping[str, Price]
    ) -> CostEstimate:
        """The most that a call can cost. `prices`: the tenant's own, by `provider/model` or model."""
        ...

    async def aclose(self) -> None:
        """Closes every connection."""
        ...


@dataclass(slots=True)
class _ToolCallParts:
    id: str | None = None
    name: str | None = None
    arguments: list[str] = field(default_factory=list)


class Gathering:
    """The reply so far, put together from chunks."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._tool_calls: dict[int, _ToolCallParts] = {}
        self.characters = 0
        """Characters of all output so far."""
        self.pieces = 0
        """The vendor's deltas so far: the least number of tokens that were generated."""

    def add(self, chunk: Chunk) -> None:
        self.pieces += chunk.pieces
        if chunk.text:
            self._text.append(chunk.text)
            self.characters += len(chunk.text)
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
            self.characters += len(chunk.reasoning)
        if chunk.refusal:
            self._refusal.append(chunk.refusal)
            self.characters += len(chunk.refusal)
        for delta in chunk.tool_calls:
            parts = self._tool_calls.setdefault(delta.index, _ToolCallParts())
            parts.id = delta.id or parts.id
            parts.name = delta.name or parts.name
            self.characters += len(delta.id or "") + len(delta.name or "")
            if delta.arguments:
                parts.arguments.append(delta.arguments)
                self.characters += len(delta.arguments)

    @property
    def started(self) -> bool:
        """Whether any output has arrived."""
        return bool(self._text or self._reasoning or self._refusal or self._tool_calls)

    def output_text(self) -> str:
        """All output in one string, for estimates."""
        calls = [f"{parts.name or ''}{''.join(parts.arguments)}" for parts in self._tool_calls.values()]
        return "".join([*self._reasoning, *self._text, *self._refusal, *calls])

    def message(self, provider_data: dict[str, JsonValue] | None = None) -> AssistantMessage:
        """The reply as a message of a conversation. `provider_data`: what the vendor wants back with it."""
        calls = tuple(
            ToolCall(
                id=parts.id or f"call_{index}",
                function=FunctionCall(name=parts.name or "unnamed", arguments="".join(parts.arguments)),
            )
            for index, parts in sorted(self._tool_calls.items())
        )
        return AssistantMessage(
            content="".join(self._text) or None,
            reasoning="".join(self._reasoning) or None,
            refusal="".join(self._refusal) or None,
            tool_calls=calls or None,
            provider_data=provider_data,
        )
