"""Notices to the stream LLM_NOTICES. A notice that is published twice within a day is stored once."""

import nats.errors
import nats.js.errors

from admin_api.notices.delivery import Outgoing, Undelivered
from contracts.control import MSG_ID
from contracts.notices import CONTENT_TYPE, subject_of
from contracts.wire import reason
from runtime.broker import Broker

_PUBACK_TIMEOUT_S = 5


class StreamSender:
    """Publishes notices and waits until the stream has them."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def send(self, outgoing: Outgoing) -> None:
        """Returns when the stream has it. Raises Undelivered."""
        if not self._broker.connected:
            raise Undelivered("NATS is disconnected")
        headers = {MSG_ID: str(outgoing.notice_id), "Content-Type": CONTENT_TYPE}
        subject = subject_of(outgoing.kind, outgoing.tenant)
        try:
            await self._broker.client.jetstream().publish(
                subject, outgoing.event, headers=headers, timeout=_PUBACK_TIMEOUT_S
            )
        except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as exc:
            raise Undelivered(reason(exc)) from None
