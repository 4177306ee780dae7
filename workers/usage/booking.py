"""What a usage record means to the ledger. Pure: no database here.

One entry an id. Of two records with one id the better one counts: the one whose token counts come from a better source
(vendor, then estimated, then unknown), and of two with the same source the one whose worker lived to tell. Whatever
order they come in, and however often, the ledger ends the same.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import NamedTuple

from contracts.usage import Outcome, UsageRecord, UsageSource

_CENTS = Decimal("1e-10")
_WIDE = Context(prec=80, rounding=ROUND_HALF_EVEN)
_RANK = {source: rank for rank, source in enumerate(UsageSource)}
ERRORS = frozenset({Outcome.FAILED, Outcome.ABANDONED})


class RollupKey(NamedTuple):
    """A row of llm_provider_usage. Ordered, so that all consumers lock rows in one order."""

    provider_id: str
    day: date
    model: str


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
    def total(cls, amounts: Iterable["Amounts"]) -> "Amounts":
        return cls._make(sum(values) for values in zip(*amounts, strict=True))


@dataclass(frozen=True, slots=True)
class Entry:
    """One attempt in the ledger, as far as roll-ups and replacement need it."""

    key: RollupKey
    provider: str
    tenant: str
    source: UsageSource
    outcome: Outcome
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class Rollup:
    """The change to one row."""

    key: RollupKey
    provider: str
    tenant: str
    amounts: Amounts


def day_of(record: UsageRecord) -> date:
    """The UTC day; wire times are in UTC."""
    return record.started_at.date()


def cost_of(record: UsageRecord) -> Decimal | None:
    """As the ledger stores it, so that sums of entries and roll-ups agree to the last digit."""
    return None if record.cost is None else record.cost.quantize(_CENTS, context=_WIDE)


def entry_of(record: UsageRecord, *, day: date | None = None) -> Entry:
    """`day`: where the ledger already has this id, when that is not the record's own day."""
    cost = cost_of(record)
    usage = record.usage
    return Entry(
        key=RollupKey(record.provider_id, day or day_of(record), record.model),
        provider=record.provider,
        tenant=record.tenant,
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


def roll_up(added: Iterable[Entry], removed: Iterable[Entry] = ()) -> list[Rollup]:
    """The changes to rows, sorted by key."""
    of_key: dict[RollupKey, Entry] = {}
    amounts: defaultdict[RollupKey, list[Amounts]] = defaultdict(list)
    for entry in added:
        of_key.setdefault(entry.key, entry)
        amounts[entry.key].append(entry.amounts)
    for entry in removed:
        of_key.setdefault(entry.key, entry)
        amounts[entry.key].append(entry.amounts.negated())
    return [
        Rollup(key, of_key[key].provider, of_key[key].tenant, Amounts.total(amounts[key])) for key in sorted(of_key)
    ]
