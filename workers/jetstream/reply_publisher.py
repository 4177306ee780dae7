"""Publishing events within each tenant's share of what is stored."""

from runtime.broker import Broker
from runtime.jetstream.publishing import Publisher, TooLarge
from workers.jetstream.reply_shares import ReplyShares

_LARGE_END_BYTES = 64 * 1024


class ReplyPublisher(Publisher):
    """Publishes events within each tenant's share."""

    def __init__(self, broker: Broker, shares: ReplyShares) -> None:
        super().__init__(broker)
        self._broker = broker
        self.shares = shares

    async def event(self, subject: str, payload: bytes, *, spare: int = 0) -> None:
        """The live reader gets it at once. `LLM_REPLIES` keeps it, but when the tenant has more than its share and
        nobody goes on with the request. Raises TooLarge for more than a message can hold beside `spare` bytes."""
        if len(payload) + spare > self._broker.client.max_payload:
            raise TooLarge(subject)
        has_room = self.shares.has_room(subject)
        if not has_room and not self.shares.is_running(subject):
            self.pass_on(subject, payload)
        elif not has_room and len(payload) > _LARGE_END_BYTES:
            async with self.shares.turn(subject):
                self.shares.note(subject, payload)
                await super().event(subject, payload)
        else:
            self.shares.note(subject, payload)
            await super().event(subject, payload)
