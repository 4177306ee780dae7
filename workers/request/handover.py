"""Giving a request to another provider's pool, which has the key that this one must never see.

It is published to that pool's subject before this delivery is acked. The message id names the attempt, so that doing
it twice puts it in the queue once.
"""

import json

from pydantic import SecretStr

from contracts import subjects
from contracts.control import HANDOVER, MSG_TTL, Handover
from contracts.errors import InvalidRequest, QueueFull
from runtime.jetstream.publishing import Publisher, SubjectFull, TooLarge
from runtime.sealing import Keyring, UnsealError
from workers import telemetry
from workers.endpoints.names import Candidate
from workers.request.job import Job

_TTL_SLACK_S = 60
"""A message outlives its deadline by this much, so that a worker can still say `deadline_exceeded`."""
_PASSED_ON = ("traceparent", "tracestate")
_MESSAGE_CHARS = 300
_PURPOSE = "handover"
"""In a provider's place, so that no sealed key can pass as a proof."""


async def hand_over(
    publisher: Publisher, keyring: Keyring, job: Job, to: Candidate, *, pool: str, time_left_s: float
) -> None:
    """Raises QueueFull when that pool's queue is full for this tenant, and Lost."""
    hops = job.handover.hops + 1 if job.handover else 1
    told = Handover(
        model=str(to),
        remaining=tuple(map(str, job.candidates)),
        attempt=job.events.attempt,
        hops=hops,
        queued_at=job.queued_at,
        history=tuple(
            failed.model_copy(
                update={"error": failed.error.model_copy(update={"message": failed.error.message[:_MESSAGE_CHARS]})}
            )
            for failed in job.history
        ),
        left_out=tuple(job.left_out),
        vendor_calls=job.attempts,
        usage=job.bill.usage,
        cost=job.bill.cost(),
        proof=keyring.seal(SecretStr(job.request.id), tenant=job.address.tenant, provider=_PURPOSE),
    )
    headers = {name: value for name in _PASSED_ON if (value := job.delivery.headers.get(name))}
    headers[HANDOVER] = json.dumps(told.model_dump(mode="json"))
    headers[MSG_TTL] = str(max(1, int(time_left_s) + _TTL_SLACK_S))
    subject = subjects.request(to.provider, job.address.priority, job.address.tenant)
    try:
        await publisher.durable(
            subject,
            job.body,
            msg_id=f"{job.request.id}:{job.events.attempt}:{to.provider}",
            headers=headers,
            check=job.delivery.lease.check,
        )
    except SubjectFull as exc:
        raise QueueFull(f"the queue of {to.provider} is full for tenant {job.address.tenant}") from exc
    except TooLarge as exc:
        raise InvalidRequest("the request and what is told of it are too large to be handed to another pool") from exc
    telemetry.HANDOVERS.labels(pool, to.provider).inc()


def is_proven(keyring: Keyring, job: Job) -> bool:
    """Whether a worker handed this request over; agents can set the header, too."""
    if job.handover is None or job.handover.proof is None:
        return False
    try:
        opened = keyring.unseal(job.handover.proof, tenant=job.address.tenant, provider=_PURPOSE)
    except UnsealError:
        return False
    return opened.get_secret_value() == job.request.id
