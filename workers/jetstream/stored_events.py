"""The events of a request as `LLM_REPLIES` keeps them: for resume, and to go on where a dead worker stopped."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import nats.errors

from contracts import streams
from contracts.events import Event, parse
from runtime.broker import Broker
from runtime.jetstream import direct_get
from workers.jetstream.server_memory import replies_kept_since


async def raw(broker: Broker, subject: str) -> AsyncGenerator[bytes]:
    """Every stored event of a reply subject, oldest first. Raises TimeoutError and nats.errors.Error."""
    async with aclosing(direct_get.messages(broker, stream=streams.REPLIES, subject=subject)) as found:
        async for msg in found:
            yield msg.data


async def last(broker: Broker, subject: str) -> Event | None:
    """The last stored event of a reply subject; None when there is none. Raises nats.errors.Error."""
    try:
        data = await direct_get.last(broker, stream=streams.REPLIES, subject=subject)
    except nats.errors.NoRespondersError:
        await _must_be_gone(broker)
        return None
    return None if data is None else parse(data)


async def events(broker: Broker, subject: str) -> list[Event]:
    """The stored events, parsed; none while the stream is gone with a server that was restarted. Raises as `raw`."""
    try:
        async with aclosing(raw(broker, subject)) as found:
            return [parse(data) async for data in found]
    except nats.errors.NoRespondersError:
        await _must_be_gone(broker)
        return []


async def _must_be_gone(broker: Broker) -> None:
    """Raises NoRespondersError where the stream is there and only has no leader."""
    if await replies_kept_since(broker) is not None:
        raise nats.errors.NoRespondersError
