"""Giving a request to another provider's pool, which has the key that this one must never see.

It is published to that pool's subject before this delivery is acked. What is told of it is signed, together with the
request, by a key that workers have and agents have not; and so is the message id, which is the same each time that it
is handed over, so that doing it twice puts it in the queue once, and nobody else can take the id beforehand.
"""

import hashlib
import json
from collections.abc import Callable

from contracts import subjects
from contracts.control import HANDOVER, HANDOVER_PROOF, MSG_ID, MSG_TTL, REPLAY, Handover, signed_replay
from contracts.errors import InvalidRequest, MalformedRequest, NoProvider, QueueFull
from contracts.subjects import RequestAddress
from runtime.jetstream.publishing import Publisher, SubjectFull, TooLarge
from runtime.sealing import Keyring
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
_PROOF, _MESSAGE_ID = "handover", "handover message id"
"""What signatures are for, so that none passes as another."""


class Handovers:
    def __init__(
        self, pool: str, *, publisher: Publisher, keyring: Keyring, may_wait: Callable[[str, int], bool], clock: Clock
    ) -> None:
        """`may_wait`: whether a tenant may have so many bytes more in the queue."""
        self._pool = pool
        self._publisher = publisher
        self._keyring = keyring
        self._may_wait = may_wait
        self._clock = clock

    async def publish(self, job: Job, to: Candidate) -> None:
        """Returns when it is stored.

        Raises NoProvider when it was handed over too often already, QueueFull when that pool's queue is full for this
        tenant or the tenant's requests in the queue take as many bytes as they may, InvalidRequest when no message can
        hold it, NotStored and Lost.
        """
        hops = job.handover.hops if job.handover else 0
        if hops >= MAX_ATTEMPTS:
            raise NoProvider(f"the request was handed over {hops} times and found no provider")
        if not self._may_wait(job.address.tenant, len(job.body)):
            raise QueueFull("the tenant's requests that wait take as many bytes of the queue as they may")
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
            journal_seq=job.journal_seq,
        )
        headers = {name: value for name in _PASSED_ON if (value := job.delivery.headers.get(name))}
        headers[HANDOVER] = json.dumps(json.loads(told.to_json()))  # a header holds ASCII only
        signed = _signed(headers[HANDOVER], job.address.tenant, job.body)
        headers[HANDOVER_PROOF] = self._keyring.sign(signed, purpose=_PROOF)
        headers[MSG_TTL] = str(max(1, int(job.time_left_s(self._clock.now())) + _TTL_SLACK_S))
        step = f"{job.delivery.place}:{job.events.attempt}:{to.provider}"
        try:
            await self._publisher.durable(
                subjects.request(to.provider, job.address.priority, job.address.tenant),
                job.body,
                msg_id=self._keyring.unguessable_id(step, purpose=_MESSAGE_ID),
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

    def told(self, delivery: Delivery, address: RequestAddress) -> Handover:
        """What the pool before this one told, in the header of a delivery that has it.

        An agent can write it, too. Raises MalformedRequest for one that no worker has signed for this very request.
        """
        if not self.is_ours(delivery, address.tenant):
            raise MalformedRequest(f"the header {HANDOVER} is not the fleet's; agents do not set it")
        return Handover.model_validate_json(delivery.headers[HANDOVER])

    def is_ours(self, delivery: Delivery, tenant: str) -> bool:
        """Whether a worker has signed the header of a delivery that has it, for this very request of the tenant."""
        signed = _signed(delivery.headers[HANDOVER], tenant, delivery.data)
        return self._keyring.verify(delivery.headers.get(HANDOVER_PROOF, ""), signed, purpose=_PROOF)

    def is_replay(self, delivery: Delivery) -> bool:
        """Whether an admin has put this very request into the queue once more, and no agent has written its id."""
        letter, _, proof = delivery.headers.get(MSG_ID, "").removeprefix(REPLAY).partition(":")
        return self._keyring.verify(proof, signed_replay(letter, delivery.subject, delivery.data), purpose=REPLAY)


def _signed(told: str, tenant: str, body: bytes) -> bytes:
    """What a proof is for: all that is told, of which request of whom. The body names agent and request id."""
    return b"\0".join((tenant.encode(), hashlib.sha256(body).digest(), told.encode()))
