"""The answer of a vendor call while it arrives: gathered for the end of the request, and passed on to the agent.

It runs in the event loop's callback that read the bytes from the vendor's connection: nothing here may take long.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from contracts.errors import InvalidRequest
from runtime.jetstream.publishing import TooLarge
from workers.clock import Clock
from workers.endpoints.admission import CallPermit
from workers.providers.base import Call, Chunk, Finish, Provider, StreamItem
from workers.providers.shared.token_estimates import BYTES_PER_TOKEN
from workers.quotas.growth import Growth
from workers.request.coalescing import Coalescing, Moments
from workers.request.events import EventStream
from workers.request.usage_records import VendorCall

TOO_LONG = "the answer is larger than one message may be; bound it with max_tokens"


class Answer:
    """What one vendor call says."""

    def __init__(
        self,
        call: VendorCall,
        *,
        permit: CallPermit,
        events: EventStream | None,
        coalesce_s: float,
        moments: Moments,
        backlog: Callable[[], Awaitable[None] | None],
        most_characters: int,
        growth: Growth | None,
        clock: Clock,
    ) -> None:
        """`events`: None when the agent wants no deltas. `coalesce_s`: deltas leave at most every so many seconds.
        `backlog`: what to wait for before more is published, if anything. `growth`: of what is kept free of the
        tenant's budget; None where nothing has to grow."""
        self._call = call
        self._permit = permit
        self._publish = events.delta if events else None
        self._coalescing = (
            Coalescing(events.delta, every_s=coalesce_s, moments=moments) if events and coalesce_s else None
        )
        self._backlog = backlog
        self._most_characters = most_characters
        self._growth = growth
        self._wide = 0
        """Characters that texts which are not ASCII count for beyond their own: each as much as a token."""
        self._clock = clock

    async def read(self, adapter: Provider, question: Call) -> Finish:
        """Asks the vendor, and returns when its answer is whole. What has come is passed on, however it ends."""
        try:
            finish = await adapter.stream_completion(question, self._take)
            if not self._call.sent:
                raise AssertionError("an adapter sent before it might")
            if self._coalescing is not None:
                self._coalescing.end()
        except TooLarge:
            raise InvalidRequest(TOO_LONG) from None
        except BaseException:
            if self._coalescing is not None:
                with suppress(Exception):  # it failed for something else
                    self._coalescing.end()
            raise
        finally:
            if self._growth is not None:
                self._growth.estimated = self._growth.estimate(*self._arrived())
        self._call.finish = finish
        return finish

    def _take(self, item: StreamItem) -> Awaitable[None] | None:
        """Raises InvalidRequest or TooLarge for an answer that no message can hold."""
        call = self._call
        if not isinstance(item, Chunk):
            call.stated = item
            return None
        if call.time_to_first_token_s is None:
            call.time_to_first_token_s = self._clock.monotonic() - call.started
            self._permit.first_output(call.time_to_first_token_s)
        call.gathering.add(item)
        if call.gathering.characters > self._most_characters:
            raise InvalidRequest(TOO_LONG)
        grows = self._grow(self._growth, item) if self._growth is not None else None
        if self._publish is None:
            return grows
        if self._coalescing is None:
            self._publish(item)
        else:
            self._coalescing.add(item)
        backlog = self._backlog()
        return backlog if grows is None else _both(grows, backlog)

    def _grow(self, growth: Growth, chunk: Chunk) -> Awaitable[None] | None:
        """What to wait for before more of the answer is read, if anything. Raises nothing."""
        for text in (chunk.text, chunk.reasoning, chunk.refusal, *(call.arguments or "" for call in chunk.tool_calls)):
            if not text.isascii():
                self._wide += (BYTES_PER_TOKEN - 1) * len(text)
        pieces, characters = self._arrived()
        if pieces < growth.mark_pieces and characters < growth.mark_characters:
            return None
        return growth.reach(pieces, characters)

    def _arrived(self) -> tuple[int, int]:
        gathering = self._call.gathering
        return gathering.pieces, gathering.characters + self._wide


async def _both(first: Awaitable[None], second: Awaitable[None] | None) -> None:
    await first
    if second is not None:
        await second
