"""The entries of the ledger: what a usage record comes to, and which of two records counts. Pure, without a database.

There is one entry for each id. Of two records with one id the better one counts: the one whose token counts come from a
better source (vendor, then estimated, then unknown), and of two with the same source the one whose worker lived to
tell. Whatever order they come in, and however often, the ledger ends the same.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, NamedTuple

from contracts.usage import Outcome, UsageRecord, UsageSource

_CENTS = Decimal("1e-10")
_FREE = Decimal(0)
_WIDE = Context(prec=80, rounding=ROUND_HALF_EVEN)
_RANK = {source: rank for rank, source in enumerate(UsageSource)}
ERRORS = frozenset({Outcome.FAILED, Outcome.ABANDONED})


class Dimensions(NamedTuple):
    """What attempts are summed by."""

    provider_id: str
    tenant: str
    agent: str
    provider: str
    model: str
    hour: datetime
    """When the hour began in which the attempt began, in UTC."""
    day: date
    """The UTC day on which the attempt began."""


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
        """What takes these amounts away when it is added."""
        return Amounts._make(-value for value in self)


Change = tuple[Dimensions, Amounts]
"""What is added to the rows of these dimensions."""


class LedgerEntry(NamedTuple):
    """One attempt, as far as roll-ups and the choice between two records need it."""

    dimensions: Dimensions
    source: UsageSource
    outcome: Outcome
    amounts: Amounts

    def added(self) -> Change:
        """What roll-ups change by when this entry comes."""
        return self.dimensions, self.amounts

    def removed(self) -> Change:
        """What roll-ups change by when this entry goes."""
        return self.dimensions, self.amounts.negated()


def day_of(record: UsageRecord) -> date:
    """The UTC day on which the attempt began; times of the wire are in UTC."""
    return record.started_at.date()


def cost_of(record: UsageRecord) -> Decimal | None:
    """The cost as the ledger stores it, so that sums of entries and roll-ups agree to the last digit."""
    return None if record.cost is None else record.cost.quantize(_CENTS, context=_WIDE)


def hour_of(started_at: datetime) -> datetime:
    """When the hour began in which an attempt began."""
    return started_at.replace(minute=0, second=0, microsecond=0)


def entry_of(record: UsageRecord) -> LedgerEntry:
    """What the ledger makes of a record."""
    cost = cost_of(record)
    usage, at, outcome = record.usage, record.started_at, record.outcome
    tenant, agent, provider, model = record.tenant, record.agent, record.provider, record.model
    return LedgerEntry(
        Dimensions(record.provider_id, tenant, agent, provider, model, hour_of(at), at.date()),
        usage.source,
        outcome,
        Amounts(
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
            cost or _FREE,
            1 if cost is None else 0,
            1,
            1 if outcome in ERRORS else 0,
        ),
    )


def entry_of_event(event: Mapping[Any, Any]) -> LedgerEntry:
    """What a row of llm_usage_events was booked as."""
    outcome, cost, at = Outcome(event["outcome"]), event["cost"], event["started_at"]
    tenant, agent, provider, model = event["tenant"], event["agent"], event["provider"], event["model"]
    return LedgerEntry(
        Dimensions(event["provider_id"], tenant, agent, provider, model, hour_of(at), event["day"]),
        UsageSource(event["usage_source"]),
        outcome,
        Amounts(
            event["input_tokens"],
            event["output_tokens"],
            event["cache_read_tokens"],
            event["cache_write_tokens"],
            event["reasoning_tokens"],
            cost or _FREE,
            1 if cost is None else 0,
            1,
            1 if outcome in ERRORS else 0,
        ),
    )


def is_better(source: UsageSource, outcome: Outcome, *, than_source: UsageSource, than_outcome: Outcome) -> bool:
    """Whether a record replaces another one of the same id."""
    return (_RANK[source], outcome is Outcome.ABANDONED) < (_RANK[than_source], than_outcome is Outcome.ABANDONED)


def best_of_each(records: Iterable[UsageRecord]) -> dict[str, UsageRecord]:
    """The best record of each id, by id; of records that are equally good the first."""
    best: dict[str, UsageRecord] = {}
    for record in records:
        held = best.get(record.id)
        if held is None or is_better(
            record.usage.source, record.outcome, than_source=held.usage.source, than_outcome=held.outcome
        ):
            best[record.id] = record
    return best


def sums(changes: Iterable[Change], key: Callable[[Dimensions], Any]) -> Mapping[Any, Change]:
    """What `changes` come to for each key, in the order of the keys, with the first dimensions that have that key."""
    groups: defaultdict[Any, list[Change]] = defaultdict(list)
    for change in changes:
        groups[key(change[0])].append(change)
    summed: dict[Any, Change] = {}
    for found in sorted(groups):
        dimensions, amounts = groups[found][0]
        if len(groups[found]) > 1:
            amounts = Amounts._make(map(sum, zip(*(amounts for _, amounts in groups[found]), strict=True)))
        summed[found] = dimensions, amounts
    return summed


def total(changes: Iterable[Change]) -> list[Change]:
    """The same changes, with those of the same dimensions summed."""
    return list(sums(changes, key=lambda dimensions: dimensions).values())
