"""The journal of a request's vendor calls: each is on disk before its vendor is asked, and found there by whoever
takes the request over (stream `LLM_ATTEMPTS`, contracts/attempts.py).

An entry names the one that it follows, so that of two workers that would make the same request's next call, because a
request came twice or a lease was lost, one is stopped before it makes it.
"""

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import timedelta

import nats.errors

from contracts.attempts import Begun, Unmade
from contracts.wire import reason
from runtime.broker import Broker
from runtime.jetstream.publishing import NotStored, Outrun, Publisher
from workers.jetstream import stored_attempts
from workers.providers.shared import token_estimates
from workers.request.job import Job
from workers.request.usage_records import VendorCall

_READS, _READ_AGAIN_S = 20, 0.1


class Contested(Exception):
    """Another worker has begun a call for this request, so that this one is not to be made."""


@dataclass(frozen=True, slots=True)
class Written:
    """What the journal has of one request."""

    begun: tuple[Begun, ...] = ()
    """The calls, the first one first, without those that were not made."""
    last_seq: int = 0
    """The place of its last entry; 0: it has none."""


class Journal:
    def __init__(self, broker: Broker, publisher: Publisher, *, worker: str) -> None:
        self._broker = broker
        self._publisher = publisher
        self._worker = worker

    async def read(self, subject: str) -> Written:
        """What is written on a request's subject. Raises TimeoutError and nats.errors.Error when the server does not
        answer."""
        begun: dict[str, Begun] = {}
        last_seq = 0
        async with aclosing(stored_attempts.entries(self._broker, subject)) as found:
            async for seq, entry in found:
                last_seq = seq
                match entry:
                    case Begun():
                        begun[entry.id] = entry
                    case Unmade():
                        begun.pop(entry.id, None)
                    case None:
                        pass
        return Written(tuple(begun.values()), last_seq)

    async def begin(self, job: Job, call: VendorCall, *, total_s: float) -> None:
        """Returns when it is written down that the call is about to be made; it may take `total_s`.

        Raises Contested and NotStored: then it is not to be made.
        """
        entry = Begun(
            id=call.id,
            request_id=job.request.id,
            attempt=call.number,
            tenant=job.request.tenant,
            agent=job.request.agent,
            provider=call.candidate.provider,
            provider_id=call.provider_id,
            endpoint=call.endpoint,
            model=call.candidate.model,
            worker=self._worker,
            request_seq=job.delivery.stream_seq,
            started_at=call.started_at,
            ends_by=min(job.deadline, call.started_at + timedelta(seconds=total_s)),
            queued_s=call.queued_s,
            input_tokens=token_estimates.estimate_input(job.request),
        )
        try:
            job.journal_seq = await self._publisher.durable(
                job.journal_subject, entry.to_json(), msg_id=entry.id, expected_last=job.journal_seq
            )
        except Outrun:
            # Perhaps by ourselves, when the answer to the first try was lost.
            written = await self._read_behind(job.journal_subject, job.journal_seq)
            if not written.begun or written.begun[-1].id != entry.id:
                raise Contested from None
            job.journal_seq = written.last_seq

    async def _read_behind(self, subject: str, seq: int) -> Written:
        """What is written when something is there behind `seq`; a replica may hear of it later. Raises NotStored."""
        for _ in range(_READS):
            try:
                written = await self.read(subject)
            except (nats.errors.Error, TimeoutError) as exc:
                raise NotStored(f"{subject}: {reason(exc)}") from exc
            if written.last_seq > seq:
                return written
            await asyncio.sleep(_READ_AGAIN_S)
        raise NotStored(f"{subject}: what was stored last cannot be read")

    async def unmake(self, job: Job, call: VendorCall, *, begun: "asyncio.Task[None]") -> None:
        """Nothing of the call was sent: nobody is to book it. `begun` may still be writing it. Raises NotStored."""
        with suppress(NotStored):  # it may be stored all the same
            try:
                await asyncio.shield(begun)
            except Contested:
                return
        entry = Unmade(id=call.id)
        job.journal_seq = await self._publisher.durable(
            job.journal_subject, entry.to_json(), msg_id=f"{call.id}:unmade"
        )
