"""What a usage record means to the ledger. Pure: no database here.

One entry an id. Of two records with one id the better one counts: the one whose token counts come from a better source
(vendor, then estimated, then unknown), and of two with the same source the one whose worker lived to tell. Whatever
order they come in, and however often, the ledger ends the same.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, NamedTuple

from contracts.usage import Outcome, UsageRecord, UsageSource

_CENTS = Decimal("1e-10")
_WIDE = Context(prec=80, rounding=ROUND_HALF_EVEN)
_RANK = {source: rank for rank, source in enumerate(UsageSource)}
ERRORS = frozenset({Outcome.FAILED, Outcome.ABANDONED})


class Place(NamedTuple):
    """What attempts are summed by."""

    provider_id: str
    tenant: str
    agent: str
    provider: str
    model: str
    hour: datetime
    """Its beginning, UTC."""
    day: date
    """The UTC day."""


class Amounts(NamedTuple):
    """What one attempt, or several, add to a row. A tuple: thousands a second are made and summed."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    total_cost: Decimal = Decimal(0)
    unpriced_count: int = 0
    request_count: int = 0
    error_count: int = 0

    def negated(self) -> "Amounts":
        return Amounts._make(-value for value in self)

    @classmethod
    def total(cls, amounts: list["Amounts"]) -> "Amounts":
        if len(amounts) == 1:
            return amounts[0]
        return cls._make(map(sum, zip(*amounts, strict=True)))


Change = tuple[Place, Amounts]


@dataclass(frozen=True, slots=True)
class Entry:
    """One attempt in the ledger, as far as roll-ups and replacement need it."""

    place: Place
    source: UsageSource
    outcome: Outcome
    amounts: Amounts

    def added(self) -> Change:
        return self.place, self.amounts

    def removed(self) -> Change:
        return self.place, self.amounts.negated()


def day_of(record: UsageRecord) -> date:
    """The UTC day; wire times are in UTC."""
    return record.started_at.date()


def hour_of(started_at: datetime) -> datetime:
    return started_at.replace(minute=0, second=0, microsecond=0)


def cost_of(record: UsageRecord) -> Decimal | None:
    """As the ledger stores it, so that sums of entries and roll-ups agree to the last digit."""
    return None if record.cost is None else record.cost.quantize(_CENTS, context=_WIDE)


def entry_of(record: UsageRecord) -> Entry:
    cost = cost_of(record)
    usage = record.usage
    return Entry(
        place=Place(
            record.provider_id,
            record.tenant,
            record.agent,
            record.provider,
            record.model,
            hour_of(record.started_at),
            day_of(record),
        ),
        source=usage.source,
        outcome=record.outcome,
        amounts=Amounts(
            prompt_tokens=usage.input_tokens,
            completion_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            total_cost=cost or Decimal(0),
            unpriced_count=1 if cost is None else 0,
            request_count=1,
            error_count=1 if record.outcome in ERRORS else 0,
        ),
    )


def entry_of_event(event: Mapping[Any, Any]) -> Entry:
    """From a row of llm_usage_events."""
    outcome, cost = Outcome(event["outcome"]), event["cost"]
    return Entry(
        place=Place(
            event["provider_id"],
            event["tenant"],
            event["agent"],
            event["provider"],
            event["model"],
            hour_of(event["started_at"]),
            event["day"],
        ),
        source=UsageSource(event["usage_source"]),
        outcome=outcome,
        amounts=Amounts(
            prompt_tokens=event["input_tokens"],
            completion_tokens=event["output_tokens"],
            cache_read_tokens=event["cache_read_tokens"],
            cache_write_tokens=event["cache_write_tokens"],
            reasoning_tokens=event["reasoning_tokens"],
            total_cost=cost or Decimal(0),
            unpriced_count=1 if cost is None else 0,
            request_count=1,
            error_count=1 if outcome in ERRORS else 0,
        ),
    )


def is_better(source: UsageSource, outcome: Outcome, *, than_source: UsageSource, than_outcome: Outcome) -> bool:
    """Whether a record replaces another one of the same id."""
    return (_RANK[source], outcome is Outcome.ABANDONED) < (_RANK[than_source], than_outcome is Outcome.ABANDONED)


def best_of_each(records: Iterable[UsageRecord]) -> dict[str, UsageRecord]:
    """One record an id, by id; of equals the first."""
    best: dict[str, UsageRecord] = {}
    for record in records:
        held = best.get(record.id)
        if held is None or is_better(
            record.usage.source, record.outcome, than_source=held.usage.source, than_outcome=held.outcome
        ):
            best[record.id] = record
    return best


def sums(changes: Iterable[Change], key: Callable[[Place], Any]) -> Mapping[Any, tuple[Place, Amounts]]:
    """What `changes` come to for each key, with the first place that has it, in the order of the keys."""
    places: dict[Any, Place] = {}
    amounts: defaultdict[Any, list[Amounts]] = defaultdict(list)
    for place, amount in changes:
        found = key(place)
        places.setdefault(found, place)
        amounts[found].append(amount)
    return {found: (places[found], Amounts.total(amounts[found])) for found in sorted(places)}


def total(changes: Iterable[Change]) -> list[Change]:
    """The same, with each place once."""
    return list(sums(changes, key=lambda place: place).values())
