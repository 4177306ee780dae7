"""Giving a request to another provider's pool, which has the key that this one must never see.

It is published to that pool's subject before this delivery is acked. The message id names the attempt, so that doing
it twice puts it in the queue once.
"""

import json

from pydantic import SecretStr, ValidationError

from contracts import subjects
from contracts.control import HANDOVER, MSG_TTL, Handover
from contracts.errors import InvalidRequest, MalformedRequest, NoProvider, QueueFull
from contracts.subjects import RequestAddress
from runtime.jetstream.publishing import Publisher, SubjectFull, TooLarge
from runtime.sealing import Keyring, UnsealError
from workers import telemetry
from workers.clock import Clock
from workers.endpoints.names import Candidate
from workers.intake.delivery import Delivery
from workers.request.job import Job
from workers.request.policy import MAX_ATTEMPTS

_TTL_SLACK_S = 60
"""A message outlives its deadline by this much, so that a worker can still say `deadline_exceeded`."""
_PASSED_ON = ("traceparent", "tracestate")
_MESSAGE_CHARS = 300
_PURPOSE = "handover"
"""In a provider's place, so that no sealed key can pass as a proof."""


def parse(delivery: Delivery, address: RequestAddress) -> Handover:
    """What the pool before this one told, from the header of a delivery that has it.

    An agent may have written it, too: so it leads to no pool that is not there, and not into the future. Raises
    MalformedRequest.
    """
    try:
        told = Handover.model_validate_json(delivery.headers[HANDOVER])
    except ValidationError:
        raise MalformedRequest(f"the header {HANDOVER} is not valid; agents do not set it") from None
    if Candidate.parse(told.model).provider != address.provider:
        raise MalformedRequest(f"the header {HANDOVER} names another provider than the subject; agents do not set it")
    known = tuple(text for text in told.remaining if Candidate.parse(text).provider in list(subjects.Provider))
    return told.model_copy(update={"remaining": known, "queued_at": min(told.queued_at, delivery.queued_at)})


class Handovers:
    def __init__(self, pool: str, *, publisher: Publisher, keyring: Keyring, clock: Clock) -> None:
        self._pool = pool
        self._publisher = publisher
        self._keyring = keyring
        self._clock = clock

    async def publish(self, job: Job, to: Candidate) -> None:
        """Returns when it is stored.

        Raises NoProvider when it was handed over too often already, QueueFull when that pool's queue is full for this
        tenant, InvalidRequest when no message can hold it, NotStored and Lost.
        """
        hops = job.handover.hops if job.handover else 0
        if hops >= MAX_ATTEMPTS:
            raise NoProvider(f"the request was handed over {hops} times and found no provider")
        told = Handover(
            model=str(to),
            remaining=tuple(map(str, job.candidates)),
            attempt=job.events.attempt,
            hops=hops + 1,
            queued_at=job.queued_at,
            history=tuple(
                failed.model_copy(
                    update={"error": failed.error.model_copy(update={"message": failed.error.message[:_MESSAGE_CHARS]})}
                )
                for failed in job.history
            ),
            left_out=tuple(job.left_out),
            vendor_calls=job.vendor_calls,
            usage=job.bill.usage,
            cost=job.bill.cost(),
            proof=self._keyring.seal(SecretStr(job.request.id), tenant=job.address.tenant, provider=_PURPOSE),
        )
        headers = {name: value for name in _PASSED_ON if (value := job.delivery.headers.get(name))}
        headers[HANDOVER] = json.dumps(told.model_dump(mode="json"))
        headers[MSG_TTL] = str(max(1, int(job.time_left_s(self._clock.now())) + _TTL_SLACK_S))
        try:
            await self._publisher.durable(
                subjects.request(to.provider, job.address.priority, job.address.tenant),
                job.body,
                msg_id=f"{job.request.id}:{job.events.attempt}:{to.provider}",
                headers=headers,
                check=job.delivery.lease.check,
            )
        except SubjectFull as exc:
            raise QueueFull(f"the queue of {to.provider} is full for tenant {job.address.tenant}") from exc
        except TooLarge as exc:
            raise InvalidRequest(
                "the request and what is told of it are too large to be handed to another pool"
            ) from exc
        telemetry.HANDOVERS.labels(self._pool, to.provider).inc()

    def is_proven(self, job: Job, told: Handover) -> bool:
        """Whether a worker handed this request over; agents can set the header, too."""
        if told.proof is None:
            return False
        try:
            opened = self._keyring.unseal(told.proof, tenant=job.address.tenant, provider=_PURPOSE)
        except UnsealError:
            return False
        return opened.get_secret_value() == job.request.id
