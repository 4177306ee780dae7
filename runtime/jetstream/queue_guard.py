"""Keeps the queue of requests open: who has more of its bytes than its share loses the oldest of its requests.

JetStream bounds a stream's bytes for all its subjects together, and one subject's messages by their number only (seen
on nats-server 2.15). So 1,200 requests of 7 MB fill the queue, and then everybody's are refused. Long before, when a
quarter is full, the guard estimates what each tenant has, and purges what is beyond its share. That is an eighth of
what is free when everybody has at most its share, so the more tenants have a lot, the less each of them may have, and
something stays free for those who have little.

The server tells how many messages a subject has, not how large they are. So some are read: at places all over the
stream, with how many of the subject lie between them. Who has few messages cannot have many bytes, and is not asked.
Among many small messages a large one that happens to be read counts for many. So before anything is purged, its tenant
is measured once more, at many more places, and that decides.

Any number of guards may run at the same time: what one has purged the next one finds gone.
"""

import json
import logging
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
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
_PLACES, _PLACES_BEFORE_PURGE = 8, 64
"""Where messages of a subject are read, all over the stream."""
_AT_EACH, _AT_EACH_BYTES = 16, 16 * 1024**2
"""What is read at each place at most."""
_READ_BYTES = 256 * 1024**2
"""Of a subject: where messages are so large, few of them tell enough."""
_NEAR = 16
"""So many samples on each side stand for the messages between two places."""


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
        number = {tenant: sum(queues.values()) for tenant, queues in counts.items()}
        few = _FEW_BYTES * capacity / MAX_REQUEST_BYTES
        many = sorted((tenant for tenant in number if number[tenant] > few), key=lambda tenant: -number[tenant])
        most = share_of(capacity, [capacity], others=0)
        left, totals, purged = state["bytes"], dict[str, int](), dict[str, int]()
        for tenant in many:
            totals[tenant] = await self._estimate(counts[tenant], state, places=_PLACES)
            if totals[tenant] > most:  # whatever the others have
                purged[tenant] = await self._hold(tenant, counts[tenant], state, share=most)
                left, totals[tenant] = left - purged[tenant], totals[tenant] - purged[tenant]
        unmeasured = sum(number[tenant] for tenant in number.keys() - totals.keys()) * MAX_REQUEST_BYTES
        others = min(max(0, left - sum(totals.values())), unmeasured)
        # What nobody seems to have was estimated wrongly, and is somebody's of these.
        scale = max(1.0, (left - others) / max(1, sum(totals.values())))
        scaled = {tenant: round(total * scale) for tenant, total in totals.items()}
        share = share_of(capacity, [*scaled.values()], others=others)
        for tenant in many:
            if scaled[tenant] > share and not purged.get(tenant):
                await self._hold(tenant, counts[tenant], state, share=share)

    async def _hold(self, tenant: str, queues: Mapping[str, int], state: Mapping[str, Any], *, share: float) -> int:
        """Measures the tenant well, and purges what is beyond the share. Returns how many bytes that is."""
        total = await self._estimate(queues, state, places=_PLACES_BEFORE_PURGE)
        if total <= share:
            return 0
        for subject, count in queues.items():
            body = {"filter": subject, "keep": max(1, int(count * share / total))}
            answer = await self._ask(_PURGE, body)
            log.warning("queue_purged", extra={"tenant": tenant, "subject": subject, "requests": answer["purged"]})
        return round(total - share)

    async def _counts(self) -> Mapping[str, Mapping[str, int]]:
        """How many messages there are, by tenant and subject."""
        found = await streams.subject_counts(self._broker.request, streams.REQUESTS, subjects_filter=subjects.REQUESTS)
        counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for subject, count in found.items():
            counts[subject.rsplit(".", 1)[-1]][subject] = count
        return counts

    async def _estimate(self, queues: Mapping[str, int], state: Mapping[str, Any], *, places: int) -> int:
        """The bytes of a tenant."""
        return sum([await self._estimate_one(subject, state, places=places) for subject in queues])

    async def _estimate_one(self, subject: str, state: Mapping[str, Any], *, places: int) -> int:
        first, span = state["first_seq"], state["last_seq"] - state["first_seq"] + 1
        starts = [first + self._rng.randint(span * n // places, span * (n + 1) // places) for n in range(1, places)]
        self._rng.shuffle(starts)
        found: dict[int, Sample] = {}
        for start in [first, *starts]:
            read = await samples(
                self._broker,
                stream=streams.REQUESTS,
                subject=subject,
                first_seq=start,
                count=_AT_EACH,
                max_bytes=_AT_EACH_BYTES,
            )
            found |= {sample.sequence: sample for sample in read}
            if sum(sample.size for sample in found.values()) > _READ_BYTES:
                break
        return estimate([found[sequence] for sequence in sorted(found)])

    async def _ask(self, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        payload = b"" if body is None else json.dumps(body).encode()
        answer: dict[str, Any] = json.loads(await self._broker.request(subject, payload))
        if error := answer.get("error"):
            raise streams.JetStreamError(subject, error)
        return answer


def estimate(samples: Sequence[Sample]) -> int:
    """The bytes of all messages of a subject, from some of them in their order; the first message is one of them.

    Those between two samples count as large as the samples near them on average, on each side.
    """
    if not samples:
        return 0
    sizes = [sample.size for sample in samples]
    total = sum(sizes) + samples[-1].after * fmean(sizes[-_NEAR:])
    for at, (one, two) in enumerate(pairwise(samples), 1):
        if unread := one.after - two.after - 1:
            total += unread * (fmean(sizes[max(0, at - _NEAR) : at]) + fmean(sizes[at : at + _NEAR])) / 2
    return round(total)


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
