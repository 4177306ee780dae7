"""The journal of a request's vendor calls as `LLM_ATTEMPTS` keeps it: for whoever goes on with it, and for the bill."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import ValidationError

from contracts import streams
from contracts.attempts import ENTRY, Entry
from runtime.broker import Broker
from runtime.jetstream import direct_get

log = logging.getLogger(__name__)


def parse(subject: str, data: bytes) -> Entry | None:
    """The entry that a message of the journal holds; None, and an error in the log, when it holds none."""
    try:
        return ENTRY.validate_json(data)
    except ValidationError as exc:
        log.error("journal_entry_invalid", extra={"subject": subject, "errors": exc.error_count()})
        return None


async def entries(broker: Broker, subject: str) -> AsyncGenerator[tuple[int, Entry | None]]:
    """What is written on a request's subject, oldest first: the place of each message in the stream, and its entry as
    `parse` reads it. Raises TimeoutError and nats.errors.Error."""
    async with aclosing(direct_get.messages(broker, stream=streams.ATTEMPTS, subject=subject)) as found:
        async for stored in found:
            yield stored.sequence, parse(stored.subject, stored.data)
