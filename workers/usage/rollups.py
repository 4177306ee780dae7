"""The roll-ups: which there are, how they follow from the events, and how a batch changes them.

Each is written with one statement a batch, its rows in the order of their key, the tables always in the same order:
consumers that meet on the same rows wait for each other, and never in a circle.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrations.schema import Money, llm_agent_usage, llm_hourly_usage, llm_provider_usage, llm_usage_events
from workers.usage.arrays import given, parameters
from workers.usage.entries import ERRORS, Amounts, Change, Dimensions, sums, total

_events = llm_usage_events.c
_SUMS: Mapping[str, ColumnElement[Any]] = {
    "prompt_tokens": func.sum(_events.input_tokens),
    "completion_tokens": func.sum(_events.output_tokens),
    "cache_read_tokens": func.sum(_events.cache_read_tokens),
    "cache_write_tokens": func.sum(_events.cache_write_tokens),
    "reasoning_tokens": func.sum(_events.reasoning_tokens),
    "total_cost": func.coalesce(func.sum(_events.cost), literal(0, Money)),
    "unpriced_count": func.count() - func.count(_events.cost),
    "request_count": func.count(),
    "error_count": func.count().filter(_events.outcome.in_(sorted(ERRORS))),
}
_HOUR = func.date_trunc("hour", _events.started_at, "UTC")
_LAST_HOUR = timedelta(hours=23)
_NOTHING = Amounts()


@dataclass(frozen=True)
class RollUp:
    """A table of sums with a row for each value of `keys`; `facts` are columns that follow from the key.

    It has no slots, because its statements are built once and kept (`cached_property`).
    """

    table: Table
    keys: tuple[str, ...]
    facts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The table's name."""
        return self.table.name

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """All columns of a row, in the order in which statements here take and give them."""
        return (*self.keys, *self.facts, *Amounts._fields)

    def on(self, day: date) -> ColumnElement[bool]:
        """The rows of that UTC day."""
        columns = self.table.c
        if "date" in columns:
            return columns.date == day
        begin = datetime.combine(day, time(), UTC)
        return columns.hour.between(begin, begin + _LAST_HOUR)

    def from_events(self, day: date) -> Select[Any]:
        """What the rows of that day should be: `columns`, as the events say."""
        keys = [_of_events(name).label(name) for name in self.keys]
        facts = [func.min(_of_events(name)).label(name) for name in self.facts]
        amounts = [_SUMS[name].label(name) for name in Amounts._fields]
        return select(*keys, *facts, *amounts).where(_events.day == day).group_by(*keys)

    async def apply(self, connection: AsyncConnection, changes: Iterable[Change]) -> None:
        """Adds the changes to the rows, and removes those in which nothing is left."""
        changed = [(dimensions, by) for dimensions, by in sums(changes, key=self._key).values() if by != _NOTHING]
        if changed:
            rows = [(*self._row(dimensions), *by) for dimensions, by in changed]
            await connection.execute(self._add, parameters(self.columns, rows))
        if emptied := [self._key(dimensions) for dimensions, by in changed if by.request_count < 0]:
            await connection.execute(self._tidy, parameters(self.keys, emptied))

    @cached_property
    def _key(self) -> Callable[[Dimensions], tuple[Any, ...]]:
        return attrgetter(*map(_dimension, self.keys))

    @cached_property
    def _row(self) -> Callable[[Dimensions], tuple[Any, ...]]:
        return attrgetter(*map(_dimension, (*self.keys, *self.facts)))

    @cached_property
    def _add(self) -> Any:
        added = insert(self.table).from_select(self.columns, select(given(self.table.c[name] for name in self.columns)))
        return added.on_conflict_do_update(
            index_elements=self.keys,
            set_={name: self.table.c[name] + added.excluded[name] for name in Amounts._fields},
        )

    @cached_property
    def _tidy(self) -> Any:
        emptied = given(self.table.c[name] for name in self.keys)
        same = and_(*(self.table.c[name] == emptied.c[name] for name in self.keys))
        return delete(self.table).where(same, self.table.c.request_count == 0)


def _dimension(column: str) -> str:
    """The field of `Dimensions`, and the column of the events, that a roll-up's column holds."""
    return "day" if column == "date" else column


def _of_events(column: str) -> ColumnElement[Any]:
    """A roll-up's column as it follows from the events, which have no column for the hour."""
    return _HOUR if column == "hour" else _events[_dimension(column)]


ROLL_UPS = (
    RollUp(llm_provider_usage, keys=("provider_id", "date", "model"), facts=("provider", "tenant")),
    RollUp(llm_hourly_usage, keys=("hour", "tenant", "provider", "model")),
    RollUp(llm_agent_usage, keys=("date", "tenant", "agent", "provider", "model")),
)


async def apply(connection: AsyncConnection, changes: Iterable[Change]) -> None:
    """Adds what a batch changes to every roll-up."""
    # Once by all dimensions, which many attempts of a batch share, then each roll-up from those few.
    changes = total(changes)
    for roll_up in ROLL_UPS:
        await roll_up.apply(connection, changes)
