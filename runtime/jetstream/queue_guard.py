"""Keeps the queue of requests open: who has more of its bytes than its share loses the oldest of its requests.

JetStream bounds a stream's bytes for all its subjects together, and one subject's messages by their number only (seen
on nats-server 2.15). So 1,200 requests of 7 MB fill the queue, and then everybody's are refused. Long before, when a
quarter is full, the guard estimates what each tenant has, and purges what is beyond its share. That is an eighth of
what is free when everybody has at most its share, so the more tenants have a lot, the less each of them may have, and
something stays free for those who have little.

The server tells how many messages a subject has, not how large they are. So some are read: at places all over the
stream, with how many of the subject lie between them. Who has few messages cannot have many bytes, and is not asked.

Any number of guards may run at the same time: what one has purged the next one finds gone.
"""

import json
import logging
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NoReturn

import nats.errors

from contracts import streams, subjects
from contracts.requests import MAX_REQUEST_BYTES
from runtime.broker import Broker
from runtime.jetstream.direct_get import Sample, samples
from runtime.tasks import every

log = logging.getLogger(__name__)

_INFO, _PURGE = (f"$JS.API.STREAM.{verb}.{streams.REQUESTS}" for verb in ("INFO", "PURGE"))
LOOK_EVERY_S = 1.0
GUARDED_FROM = 1 / 4
"""The queue is guarded when more of it is full."""
SHARE = 1 / 8
"""Of the bytes that are free, for each tenant."""
_FEW_BYTES = 1 / 64
"""Of all bytes: who cannot have more is not asked how much it has."""
_PLACES, _AT_EACH = 8, 4
"""Where messages are read, and how many at each place."""


class QueueGuard:
    def __init__(self, broker: Broker, *, rng: random.Random) -> None:
        self._broker = broker
        self._rng = rng

    async def run(self) -> NoReturn:
        """Looks every second until it is cancelled."""
        expected = (streams.JetStreamError, nats.errors.Error, TimeoutError)
        await every(LOOK_EVERY_S, self.look, log=log, failure_event="queue_not_guarded", expected=expected)

    async def look(self) -> None:
        """One round. Raises JetStreamError, nats.errors.Error and TimeoutError."""
        info = await self._ask(_INFO)
        capacity, state = info["config"]["max_bytes"], info["state"]
        if capacity <= 0 or state["bytes"] <= GUARDED_FROM * capacity:
            return
        counts = await self._counts()
        sizes: dict[str, dict[str, int]] = {}
        for tenant, queues in counts.items():
            if sum(queues.values()) * MAX_REQUEST_BYTES > _FEW_BYTES * capacity:
                sizes[tenant] = {subject: await self._estimate(subject, state) for subject in queues}
        totals = {tenant: sum(queues.values()) for tenant, queues in sizes.items()}
        share = share_of(capacity, [*totals.values()], others=max(0, state["bytes"] - sum(totals.values())))
        for tenant, total in totals.items():
            if total > share:
                await self._purge(tenant, counts[tenant], part=share / total)

    async def _purge(self, tenant: str, queues: Mapping[str, int], *, part: float) -> None:
        """Keeps that part of each queue, the newest messages of it."""
        for subject, count in queues.items():
            body = {"filter": subject, "keep": max(1, int(count * part))}
            answer = await self._ask(_PURGE, body)
            log.warning("queue_purged", extra={"tenant": tenant, "subject": subject, "requests": answer["purged"]})

    async def _counts(self) -> Mapping[str, Mapping[str, int]]:
        """How many messages there are, by tenant and subject."""
        counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        offset, total = 0, 1
        while offset < total:
            body = {"subjects_filter": subjects.REQUESTS, "offset": offset}
            page = await self._ask(_INFO, body)
            found: dict[str, int] = page["state"].get("subjects") or {}
            for subject, count in found.items():
                counts[subject.rsplit(".", 1)[-1]][subject] = count
            offset, total = offset + max(1, len(found)), page.get("total", 0)
        return counts

    async def _estimate(self, subject: str, state: Mapping[str, Any]) -> int:
        first, last = state["first_seq"], state["last_seq"]
        places = [first, *(self._rng.randint(first, last) for _ in range(_PLACES - 1))]
        found: dict[int, Sample] = {}
        for place in places:
            read = await samples(
                self._broker, stream=streams.REQUESTS, subject=subject, first_seq=place, count=_AT_EACH
            )
            found |= {sample.sequence: sample for sample in read}
        return estimate([found[sequence] for sequence in sorted(found)])

    async def _ask(self, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        payload = b"" if body is None else json.dumps(body).encode()
        answer: dict[str, Any] = json.loads(await self._broker.request(subject, payload))
        if error := answer.get("error"):
            raise streams.JetStreamError(subject, error)
        return answer


def estimate(samples: Sequence[Sample]) -> int:
    """The bytes of all messages of a subject, from some of them in their order; the first message is one of them.

    Those between two samples count as large as the two on average, those after the last one as that one.
    """
    if not samples:
        return 0
    between = sum((one.after - two.after) * (one.size + two.size) / 2 for one, two in pairwise(samples))
    return round(between + samples[-1].size * (samples[-1].after + 1))


def share_of(capacity: int, totals: Sequence[int], *, others: int) -> float:
    """How many bytes a tenant may have, when none has more than that; `others` are the bytes of those not in `totals`.

    That is SHARE of what is then free. So n tenants that want all there is have `SHARE / (1 + n * SHARE)` each.
    """
    low, high = 0.0, float(capacity)
    for _ in range(64):
        middle = (low + high) / 2
        free = capacity - others - sum(min(total, middle) for total in totals)
        low, high = (middle, high) if middle < SHARE * free else (low, middle)
    return low
