"""What is kept free of budgets for calls that are under way, as every worker can see it."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import ValidationError

from contracts import streams, subjects
from contracts.budget import Hold
from runtime.broker import Broker
from runtime.jetstream import direct_get
from runtime.jetstream.publishing import Publisher
from runtime.jetstream.register import entry_subject

log = logging.getLogger(__name__)


class Holds:
    """The entries of `llm_holds`. A hold that is settled is emptied, and its key used again.

    A server that is killed may forget a deletion, and would then bring the hold back.
    """

    def __init__(self, broker: Broker, publisher: Publisher) -> None:
        self._broker = broker
        self._publisher = publisher

    async def put(self, hold: Hold) -> None:
        """Writes the hold, or what has changed in it. Raises NotStored."""
        await self._publisher.durable(_subject(hold), hold.to_json(), msg_id=f"{hold.name}:{hold.returned}")

    async def empty(self, hold: Hold) -> None:
        """Nothing is kept free by it any more. Raises NotStored."""
        await self._publisher.durable(_subject(hold), b"", msg_id=f"{hold.name}:empty")

    async def any_beside(self, own: Hold) -> bool:
        """Whether another call of the tenant is under way. Raises TimeoutError and nats.errors.Error."""
        async with aclosing(self._matching(f"{own.tenant}.{own.window}.*.*")) as found:
            async for hold in found:
                if hold.name != own.name:
                    return True
        return False

    async def of_worker(self, worker: str = "*") -> list[Hold]:
        """The holds of one worker, or of all. Raises TimeoutError and nats.errors.Error."""
        async with aclosing(self._matching(f"*.*.{worker}.*")) as found:
            return [hold async for hold in found]

    async def _matching(self, keys: str) -> AsyncGenerator[Hold]:
        subject = entry_subject(subjects.HOLDS_BUCKET, keys)
        async with aclosing(direct_get.messages(self._broker, stream=streams.HOLDS, subject=subject)) as found:
            async for msg in found:
                if not msg.data:
                    continue
                try:
                    yield Hold.model_validate_json(msg.data, extra="ignore")
                except ValidationError as exc:
                    log.error("hold_invalid", extra={"subject": msg.subject, "errors": exc.error_count()})


def _subject(hold: Hold) -> str:
    key = subjects.hold_key(hold.tenant, hold.window, hold.worker, hold.slot)
    return entry_subject(subjects.HOLDS_BUCKET, key)
