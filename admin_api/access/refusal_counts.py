"""Refusals that a flood may consist of, told in one audit row a minute however many there were."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus

from admin_api.database import Database, DatabaseUnavailable
from contracts.wire import utc_now
from migrations import audit
from migrations.audit import Change, Origin

log = logging.getLogger(__name__)

_EVERY_S = 60
_NAMES = 20
_OTHERS = "others"
_ORIGIN = Origin(actor="several", source="several")


class RefusalCounter:
    """Counts refusals by status, and by who or where; only so many of these are named."""

    def __init__(self) -> None:
        self._counts: dict[HTTPStatus, Counter[str]] = {}
        self._since: datetime | None = None

    def add(self, status: HTTPStatus, by: str) -> None:
        self._since = self._since or utc_now()
        counts = self._counts.setdefault(status, Counter())
        counts[by if by in counts or len(counts) < _NAMES else _OTHERS] += 1

    async def keep_recorded(self, database: Database) -> None:
        """Writes what was counted, for ever, a minute apart; and what is left when it is cancelled."""
        try:
            while True:
                await asyncio.sleep(_EVERY_S)
                await self.record(database)
        finally:
            await self.record(database)

    async def record(self, database: Database) -> None:
        """Writes what was counted since the last time, if there is any."""
        if self._since is None:
            return
        since, counts = self._since, self._counts
        self._since, self._counts = None, {}
        refusal = {"since": since.isoformat(), "counts": _as_json(counts)}
        change = Change("requests.refuse", "requests", "", None, before=None, after=None, refusal=refusal)
        try:
            async with database.transaction() as connection:
                await audit.record(connection, change, _ORIGIN)
        except DatabaseUnavailable:
            log.warning("refusals_not_recorded", extra=refusal)


def _as_json(counts: Mapping[HTTPStatus, Counter[str]]) -> dict[str, dict[str, int]]:
    return {str(status.value): dict(by) for status, by in counts.items()}
