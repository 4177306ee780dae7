"""The one path on which every vendor's reply is read, streamed or not."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from contracts.errors import DeadlineExceeded, FleetError, ProviderTimeout, StreamInterrupted
from workers.providers.base import Chunk, Finish, Stated, StreamItem
from workers.providers.time_limits import TimeLimits
from workers.providers.transport import ConnectionBroken, Reply

TRAILER_S = 5.0
"""How long after a reply's end its usage may still come."""


class Reader(Protocol):
    """A vendor's format: bytes in, what they say out. The state of one reply."""

    error: FleetError | None
    """What the vendor reported inside its reply."""

    stated: Stated | None
    """What the vendor has said of its bill; another object when it has said more."""

    @property
    def finished(self) -> bool:
        """The vendor's end marker was seen. What may still come is usage."""
        ...

    @property
    def done(self) -> bool:
        """Nothing more will come."""
        ...

    def feed(self, data: bytes) -> Chunk | None:
        """The output in `data`, merged; None when it held none."""
        ...

    def end(self) -> Chunk | None:
        """What was still incomplete when the connection ended in good order."""
        ...

    def finish(self) -> Finish: ...


async def read_to_end(reply: Reply, reader: Reader, *, limits: TimeLimits, provider: str) -> AsyncGenerator[StreamItem]:
    """As `read`; closes the reply, whatever happens."""
    try:
        async with aclosing(read(reply, reader, limits=limits, provider=provider)) as items:
            async for item in items:
                yield item
    finally:
        await reply.aclose()


async def read(reply: Reply, reader: Reader, *, limits: TimeLimits, provider: str) -> AsyncGenerator[StreamItem]:
    """The chunks of a reply and its Finish. Raises FleetError; the caller closes the reply."""
    stated: Stated | None = None
    while not reader.done:
        try:
            data = await limits.wait(reply.read(), at_most_s=TRAILER_S if reader.finished else None)
        except (ConnectionBroken, ProviderTimeout, DeadlineExceeded, TimeoutError) as exc:
            if reader.finished:
                break
            if isinstance(exc, FleetError):
                raise
            raise StreamInterrupted(f"{provider}'s stream broke: {exc}", provider=provider) from exc
        limits.sign_of_life()
        chunk = reader.feed(data) if data else reader.end()
        if reader.stated is not None and reader.stated is not stated:
            stated = reader.stated
            yield stated
        if chunk:
            yield chunk
        if reader.error:
            raise reader.error
        if not data:
            break
    if not reader.finished:
        raise StreamInterrupted(f"{provider}'s stream ended without its end marker", provider=provider)
    await reply.drain()
    yield reader.finish()
