"""A tenant's limits as pure decisions: which are in force, in which window they count, and whom they refuse.

Windows are those of the clock, in UTC: a minute begins at second 0, a day at midnight. They stand in the counter's
subject, so that nothing has to be reset.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import assert_never

from contracts.errors import TenantRateLimited
from contracts.providers import Limits


class Unit(StrEnum):
    """What is counted."""

    REQUESTS = "requests"
    TOKENS = "tokens"


class Span(StrEnum):
    MINUTE = "minute"
    DAY = "day"


_LIMITS = tuple((f"{unit}_per_{span}", unit, span) for unit in Unit for span in Span)
"""Each with its name in `Limits`."""


@dataclass(frozen=True, slots=True)
class Limit:
    unit: Unit
    span: Span
    most: int
    """At least 1."""

    @property
    def name(self) -> str:
        return f"{self.unit}_per_{self.span}"

    @property
    def takes_back(self) -> bool:
        """Whether its counter gives back what was refused. For a minute it need not: whatever refuses, refuses for at
        least as long."""
        return self.unit is Unit.REQUESTS and self.span is Span.DAY


@dataclass(frozen=True, slots=True)
class Count:
    """What a counter says when the request at hand asks."""

    limit: Limit
    window: str
    """Its token in the subject."""
    total: int

    @property
    def exceeded(self) -> bool:
        """Whether the limit refuses the request at hand.

        A total of requests includes this one. A total of tokens does not: they are known only afterwards.
        """
        match self.limit.unit:
            case Unit.REQUESTS:
                return self.total > self.limit.most
            case Unit.TOKENS:
                return self.total >= self.limit.most
            case _:
                assert_never(self.limit.unit)

    @property
    def exceeded_for_good(self) -> bool:
        """Whether it stays exceeded until its window ends, because the counter cannot fall."""
        return self.exceeded and not self.limit.takes_back


def in_force(own: Limits, defaults: Limits) -> tuple[Limit, ...]:
    """The tenant's own setting wins; 0, or none anywhere, is no limit."""
    found: list[Limit] = []
    for name, unit, span in _LIMITS:
        most: int | None = getattr(own, name)
        if most is None:
            most = getattr(defaults, name)
        if most:
            found.append(Limit(unit, span, most))
    return tuple(found)


def window(span: Span, at: datetime) -> str:
    """The window's token in a subject, the same for all workers."""
    match span:
        case Span.MINUTE:
            return f"{at.astimezone(UTC):%Y%m%dT%H%M}"
        case Span.DAY:
            return f"{at.astimezone(UTC):%Y%m%d}"
        case _:
            assert_never(span)


def left_s(span: Span, at: datetime) -> float:
    """Seconds until the window ends, to the millisecond and more than 0."""
    at = at.astimezone(UTC)
    match span:
        case Span.MINUTE:
            end = at.replace(second=0, microsecond=0) + timedelta(minutes=1)
        case Span.DAY:
            end = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        case _:
            assert_never(span)
    return math.ceil((end - at).total_seconds() * 1000) / 1000


def longest_exceeded(counts: Sequence[Count], at: datetime) -> Count | None:
    """The exceeded limit that stays so longest; None when no limit is exceeded, and the request may start."""
    return max((count for count in counts if count.exceeded), key=lambda c: left_s(c.limit.span, at), default=None)


def refusal(tenant: str, limit: Limit, at: datetime) -> TenantRateLimited:
    """The error for a request that `limit` refuses; it may come again when the window ends."""
    wait_s = left_s(limit.span, at)
    return TenantRateLimited(
        f"tenant {tenant} has used its {limit.most} {limit.unit} of this {limit.span}; "
        f"the next {limit.span} begins in {math.ceil(wait_s)} s",
        retry_after_s=wait_s,
    )
