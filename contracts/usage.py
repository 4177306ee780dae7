"""Tokens, money, and the record that books one attempt.

Input and output tokens are totals that include their cached and reasoning parts (OpenTelemetry GenAI's rule).
"""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue, PlainSerializer, StringConstraints

from contracts.errors import ErrorCode
from contracts.wire import Token, UtcTime, WireModel, optional

Tokens = Annotated[int, Field(ge=0, lt=2**63)]


def plain_decimal(amount: Decimal) -> str:
    """Decimal digits without an exponent or trailing zeros, so that every reader parses the same number."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


MAX_AMOUNT = 10**10
"""USD; no amount reaches it, because the ledger's NUMERIC(20, 10) has no room for it."""

Money = Annotated[Decimal, Field(ge=0, lt=MAX_AMOUNT, max_digits=60), PlainSerializer(plain_decimal, return_type=str)]
"""USD; bounded digits, so that no exponent can blow up a text."""


class UsageSource(StrEnum):
    """Where token counts come from, the better one first."""

    VENDOR = "vendor"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """How an attempt ended. `abandoned`: its worker died."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"


class PriceSource(StrEnum):
    CATALOGUE = "catalogue"
    TENANT = "tenant"
    NONE = "none"


class TokenCounts(WireModel):
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    cache_read_tokens: Tokens = 0
    cache_write_tokens: Tokens = 0
    cache_write_1h_tokens: Tokens = Field(default=0, exclude_if=lambda count: count == 0)
    """The part of `cache_write_tokens` that the vendor keeps for an hour, at a higher price."""
    reasoning_tokens: Tokens = 0


class UsagePart(TokenCounts):
    """What a vendor did for a call as a call of its own, with a prompt of its own: a compaction, a second model."""

    model: str | None = optional()
    """Left out, it is the model that was asked."""


class Usage(TokenCounts):
    source: UsageSource = UsageSource.UNKNOWN
    parts: tuple[UsagePart, ...] = Field(default=(), exclude_if=lambda parts: not parts)
    """What of these tokens has a price of its own; sums over attempts have none."""

    def __add__(self, other: "Usage") -> "Usage":
        """The sum, as trustworthy as its weaker part."""
        rank = list(UsageSource)
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            source=max(self.source, other.source, key=rank.index),
        )


class Cost(WireModel):
    amount: Money
    currency: Literal["USD"] = "USD"


class UsedPrice(WireModel):
    """The rates that a cost was computed with, USD per million tokens; None: no such tokens were used."""

    input_mtok: Money | None = None
    output_mtok: Money | None = None
    cache_read_mtok: Money | None = None
    cache_write_mtok: Money | None = None
    cache_write_1h_mtok: Money | None = optional()
    reasoning_mtok: Money | None = optional()
    catalogue: str | None = None
    """The version of the price catalogue; None for a tenant's own price."""
    parts: tuple["UsedPrice", ...] = Field(default=(), exclude_if=lambda parts: not parts)
    """The rates of the usage's parts, in their order."""


RecordId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_:-]{1,80}$")]
"""Opaque: the fleet makes one for each vendor call, whatever ids an agent chose. (Until 0.2 it was
`<request_id>:<attempt>`, so records from then are still read.)"""


class UsageRecord(WireModel):
    """One attempt that reached a vendor; `id` is the message's `Nats-Msg-Id` as well."""

    id: RecordId
    request_id: Token
    attempt: Annotated[int, Field(ge=1)]
    tenant: Token
    agent: Token
    provider: Token
    provider_id: str
    endpoint: str
    model: str
    response_model: str | None = None
    outcome: Outcome
    error_code: ErrorCode | None = None
    started_at: UtcTime
    finished_at: UtcTime
    time_to_first_token_s: float | None = None
    duration_s: Annotated[float, Field(ge=0)]
    queued_s: Annotated[float, Field(ge=0)]
    usage: Usage
    cost: Money | None = None
    """USD; None when no price is known, which is not the same as free."""
    price_source: PriceSource = PriceSource.NONE
    price: UsedPrice | None = None
    """Null when the attempt is unpriced, or was booked before prices were kept."""
    service_tier: str | None = None
    """What the vendor says it served the call as (`flex`, `priority`, `batch`); None: its standard."""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
