"""Keeps room for everybody's results: who has more of their bytes than its share loses its oldest ones.

`LLM_RESULTS` drops the oldest message when it is full, whosever that is (JetStream, nats-server 2.15, bounds the bytes
of a stream for all its subjects together). So long before, when half of it is full, the guard purges what is beyond a
tenant's share: the share with which all of them together have seven sixteenths of the stream. Who has less loses
nothing, so a tenant alone may have these seven sixteenths, and a flood costs nobody but its tenant.

Each result has a subject of its own, and there may be millions of them, so the server cannot be asked what a tenant
has. In place of that the guard reads the headers of each result once (stored_sizes.py), from a quarter full on, and
adds sizes up: for each tenant in runs, oldest first, of some megabytes or one result.

What is gone before its time, because its tenant wished so, is still counted until what is older is gone. When more is
counted than the stream has, everything is counted anew before anybody loses anything.

Any number of guards may run at the same time: what one has purged the next one finds gone.
"""

import json
import logging
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import nats.errors

from contracts import streams, subjects
from runtime.broker import Broker
from runtime.jetstream.stored_sizes import StoredSize, stored_sizes
from runtime.tasks import every

log = logging.getLogger(__name__)

_INFO, _PURGE = (f"$JS.API.STREAM.{verb}.{streams.RESULTS}" for verb in ("INFO", "PURGE"))
LOOK_EVERY_S = 1.0
COUNTED_FROM, GUARDED_FROM, KEPT = 1 / 4, 1 / 2, 7 / 16
"""Of the stream's bytes: from when on it is counted and guarded, and what is left of it then."""
_RUN = 1 / 1024
"""Of the stream's bytes: results of a tenant that follow each other are counted together up to so many."""
_READ, _READ_BYTES = 5000, 256 * 1024**2
"""What is read at once at most; the server reads the bodies from its disk as well."""
_READ_ON_S = 0.25
_OVERCOUNT = 1.1
"""More than that, for each byte that the stream has, is not believed."""


@dataclass(slots=True)
class _Run:
    """Some results of one tenant that follow each other."""

    last_seq: int
    size: int


class ResultsGuard:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._runs: defaultdict[str, deque[_Run]] = defaultdict(deque)
        """By tenant, oldest first."""
        self._next_seq = 0
        """The next message to count; 0: nothing is counted."""
        self._is_new = True
        """Everything was counted just now."""

    async def run(self) -> NoReturn:
        """Looks every second until it is cancelled."""
        expected = (streams.JetStreamError, nats.errors.Error, TimeoutError)
        await every(LOOK_EVERY_S, self.look, log=log, failure_event="results_not_guarded", expected=expected)

    async def look(self) -> float | None:
        """One round. Returns the seconds until the next one when that is to come soon.

        Raises JetStreamError, nats.errors.Error and TimeoutError.
        """
        info = await self._ask(_INFO)
        capacity, state = info["config"]["max_bytes"], info["state"]
        if capacity <= 0 or state["bytes"] <= COUNTED_FROM * capacity:
            self._forget()
            return None
        if not await self._count(state, capacity):
            return _READ_ON_S
        if state["bytes"] > GUARDED_FROM * capacity:
            totals = {tenant: sum(run.size for run in runs) for tenant, runs in self._runs.items()}
            if sum(totals.values()) > _OVERCOUNT * state["bytes"] and not self._is_new:
                self._forget()
                return _READ_ON_S
            share = fair_share(KEPT * capacity, totals.values())
            for tenant, total in totals.items():
                if total > share:
                    await self._purge(tenant, total - share)
        self._is_new = False
        return None

    async def _count(self, state: Mapping[str, Any], capacity: int) -> bool:
        """Counts some of what is not counted yet. Returns whether that is all."""
        if state["last_seq"] + 1 < self._next_seq:  # the stream was made anew
            self._forget()
        self._next_seq = max(self._next_seq, state["first_seq"])
        for tenant, runs in list(self._runs.items()):
            while runs and runs[0].last_seq < state["first_seq"]:
                runs.popleft()
            if not runs:
                del self._runs[tenant]
        if self._next_seq > state["last_seq"]:
            return True
        count = max(1, min(_READ, _READ_BYTES * state["messages"] // state["bytes"]))
        read = await stored_sizes(self._broker, stream=streams.RESULTS, first_seq=self._next_seq, count=count)
        for each in read:
            self._add(each, most=_RUN * capacity)
        self._next_seq = read[-1].sequence + 1 if read else state["last_seq"] + 1
        return self._next_seq > state["last_seq"]

    def _add(self, stored: StoredSize, *, most: float) -> None:
        runs = self._runs[subjects.tenant_of_result(stored.subject)]
        if runs and runs[-1].size + stored.size <= most:
            runs[-1].last_seq = stored.sequence
            runs[-1].size += stored.size
        else:
            runs.append(_Run(stored.sequence, stored.size))

    async def _purge(self, tenant: str, excess: float) -> None:
        """The oldest of the tenant, of so many bytes together."""
        runs, size, before = self._runs[tenant], 0, 0
        while runs and size < excess:
            run = runs.popleft()
            size, before = size + run.size, run.last_seq + 1
        answer = await self._ask(_PURGE, {"filter": subjects.results_of_tenant(tenant), "seq": before})
        facts = {"tenant": tenant, "results": answer["purged"], "freed_bytes": size}
        log.warning("results_purged", extra=facts)

    def _forget(self) -> None:
        self._runs.clear()
        self._next_seq, self._is_new = 0, True

    async def _ask(self, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        payload = b"" if body is None else json.dumps(body).encode()
        answer: dict[str, Any] = json.loads(await self._broker.request(subject, payload))
        if error := answer.get("error"):
            raise streams.JetStreamError(subject, error)
        return answer


def fair_share(room: float, totals: Iterable[int]) -> float:
    """What each may have at most, so that all together have `room`; infinite when they have no more than that."""
    left, ascending = room, sorted(totals)
    for at, total in enumerate(ascending):
        share = left / (len(ascending) - at)
        if total > share:
            return share
        left -= total
    return float("inf")
