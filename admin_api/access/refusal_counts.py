"""Refusals that a flood may consist of, summed up in one audit row a minute however many there were."""

import logging
from collections import Counter
from datetime import datetime
from http import HTTPStatus

from admin_api.database import Database, DatabaseUnavailable
from contracts.wire import utc_now
from migrations import audit
from migrations.audit import Change, Origin
from runtime.tasks import every

log = logging.getLogger(__name__)

RECORD_EVERY_S = 60.0
_NAMES = 20
_OTHERS = "others"
_ORIGIN = Origin(actor="several", source="several")


class RefusalCounter:
    """Counts refusals by status, and by the caller or address that was refused.

    Only the first 20 callers or addresses of a status are told apart, so that no flood fills the memory or the row; the
    rest is counted as `others`.
    """

    def __init__(self, database: Database, *, every_s: float = RECORD_EVERY_S) -> None:
        self._database = database
        self._every_s = every_s
        self._counts: dict[HTTPStatus, Counter[str]] = {}
        self._since: datetime | None = None

    def add(self, status: HTTPStatus, by: str) -> None:
        """Counts one refusal. `by`: the name of a caller that is known, else the address."""
        self._since = self._since or utc_now()
        counts = self._counts.setdefault(status, Counter())
        counts[by if by in counts or len(counts) < _NAMES else _OTHERS] += 1

    async def keep_recorded(self) -> None:
        """Writes what was counted once a minute until it is cancelled, and then what is left."""
        try:
            await every(
                self._every_s,
                self.record,
                log=log,
                failure_event="refusals_not_recorded",
                first_after_s=self._every_s,
            )
        finally:
            await self.record()

    async def record(self) -> None:
        """Writes what was counted since the last time, if there is any. When it cannot be written, the log has it."""
        if self._since is None:
            return
        counts = {str(status.value): dict(by) for status, by in self._counts.items()}
        refusal = {"since": self._since.isoformat(), "counts": counts}
        self._since, self._counts = None, {}
        change = Change("requests.refuse", "requests", "", None, before=None, after=None, refusal=refusal)
        try:
            async with self._database.transaction() as connection:
                await audit.record(connection, change, _ORIGIN)
        except DatabaseUnavailable:
            log.warning("refusals_not_recorded", extra=refusal)
