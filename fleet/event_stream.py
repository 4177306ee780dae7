"""The events of one request, brought into order for who reads them; what is missing is asked for.

Nothing here knows of NATS: the client feeds a stream with what arrives, and answers what it asks (`Source`).
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from contracts.errors import DeadlineExceeded, FleetError, InvalidRequest
from contracts.events import Event, Terminal

Position = tuple[int, int]
"""`(attempt, seq)` of an event. Events are in order by it."""
BEGINNING: Position = (0, -1)
"""Before the first event of a request."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the client waits for what, in seconds."""

    connect_s: int = 5
    """For a server to confirm the subscription; nats-py takes whole seconds."""
    puback_s: float = 2.0
    """For JetStream to confirm a request; then it is published again, under the same message id. Should the answer to
    an earlier try come after all, it counts."""
    busy_first_s: float = 0.01
    """The pause before a request is published again that NATS had no time for: anything up to a bound that doubles from
    this to `backoff_first_s`."""
    backoff_first_s: float = 0.1
    backoff_max_s: float = 5.0
    """The pause before a request is published again: anything up to a bound that doubles from the first to this."""
    ttl_slack_s: int = 60
    """A request outlives its deadline in the queue by this much, so that a worker can still say so."""
    last_word_s: float = 5.0
    """How long after the deadline the fleet may take to say so itself."""
    gap_s: float = 0.5
    """An event that overtook another waits this long before the missing one is asked for."""
    silence_s: float = 15.0
    """Without any event for this long, what is stored is asked for: an event may have been lost on the way."""
    stored_again_s: float = 0.5
    """The first such pause of a stream that was fed with what is stored, because an event is passed on before it is
    stored. Each time that nothing is found it doubles, up to `silence_s`."""
    lost_s: float = 5.0
    """An event that is not stored either is given up after so long. By then workers have said again what a restarted
    server had forgotten. The stream goes on without it: `completed` holds the answer."""
    unknown_s: float = 30.0
    """The same where nobody answers what is stored."""
    resume_s: float = 3.0
    """For the next stored event, when the fleet was asked for them."""
    resume_for_s: float = 15.0
    resume_again_s: float = 0.2
    """`resume` asks again after this pause, for so long, while no worker answers."""
    answer_s: float = 35.0
    """For the answer to a question. A worker gives its vendor 30 s."""
    cancel_s: float = 1.0
    """For the cancel of a request that a cancelled task leaves behind."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a stream asks of the fleet about its request."""

    stored: Callable[[Position], AsyncGenerator[Event]]
    """The stored events after a position. Raises InvalidRequest when nothing is stored, ProviderUnavailable."""
    cancel: Callable[[], Awaitable[None]]
    """Asks the fleet to stop the request. Raises ProviderUnavailable."""
    forget: Callable[["Stream"], None]
    """The stream wants no further events."""


class Stream(AsyncIterator[Event]):
    """The events of one request, each once and in order; ends after the terminal one.

        async with client.stream("openai/gpt-4o-mini", "Why is the sky blue?") as events:
            async for event in events:
                ...

    The request is published when the block begins, and belongs to it: a block that is left before the request has
    ended, by `break`, `return` or an exception, cancels it. Call `aclose` in it for a request that is to go on.

    Without the block, the request is published when iteration begins. Who leaves such a loop early leaves the request
    running; `aclose` stops listening to it.

    In both forms a task that is cancelled while it waits here cancels the request. A little after the deadline, which
    counts from the publishing, iteration raises DeadlineExceeded by itself.
    """

    def __init__(
        self,
        request_id: str,
        source: Source,
        *,
        publish: Callable[[], Awaitable[float]] | None,
        after: Position = BEGINNING,
        deadline: float = float("inf"),
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`publish` sends the request and returns its deadline; None when somebody else has sent it, and owns it.

        Deadlines are times of `clock`.
        """
        self.request_id = request_id
        self.position = after
        """`(attempt, seq)` of the last event that was yielded; `resume` goes on from there."""
        self._source = source
        self._publish = publish
        self._deadline = deadline
        self._patience = patience
        self._clock = clock
        self._arrived = deque[Event]()
        self._readers: list[asyncio.Future[bool]] = []
        """Who waits for an event, hardly ever more than one; the answer is whether it was quiet for too long."""
        self._due = 0.0
        """When a reader has waited long enough, as a time of the clock."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._early: dict[Position, Event] = {}
        self._gap_since: float | None = None
        self._quiet_for_s = patience.silence_s
        """How long nothing may arrive before what is stored is asked for."""
        self._is_published = False
        self._is_closed = False

    async def __aenter__(self) -> Self:
        """Raises what publishing raises: QueueFull, MalformedRequest, InvalidRequest, DeadlineExceeded."""
        try:
            await self._publish_once()
        except asyncio.CancelledError:
            await self._abandon()
            raise
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._abandon()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._is_closed:
            raise StopAsyncIteration
        try:
            if not self._is_published:
                await self._publish_once()
            while (event := self._next()) is None:
                if self._is_closed:
                    raise StopAsyncIteration
                if await self._is_quiet():
                    await self._ask()
        except asyncio.CancelledError:
            await self._abandon()
            raise
        except BaseException:
            await self.aclose()
            raise
        self.position = (event.attempt, event.seq)
        self._gap_since = None
        if isinstance(event, Terminal):
            await self.aclose()
        return event

    async def cancel(self) -> None:
        """Asks the fleet to stop; the stream then ends with `cancelled`, unless it had ended already."""
        await self._source.cancel()

    async def aclose(self) -> None:
        """Stops listening. The request itself goes on; `cancel` stops it."""
        self._is_closed = True
        self._source.forget(self)
        self._wake()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def feed(self, event: Event) -> None:
        """An event has arrived, in whatever order and however often."""
        self._arrived.append(event)
        if self._readers:
            self._wake()

    def was_fed_with_stored(self) -> None:
        """What has been said until now may not have been stored yet."""
        self._quiet_for_s = min(self._patience.stored_again_s, self._patience.silence_s)
        self._wake()

    async def _publish_once(self) -> None:
        if not self._is_published:
            self._is_published = True
            if self._publish is not None:
                self._deadline = await self._publish()

    async def _abandon(self) -> None:
        """Stops listening to a request, and cancels it if it is ours and may still run.

        It may be in the queue even if publishing it was not confirmed. Workers keep a cancel that comes before its
        request, so the order in which the two arrive does not matter.
        """
        if self._is_closed:
            return
        await self.aclose()
        if self._publish is not None and self._is_published:
            with suppress(FleetError, TimeoutError):
                async with asyncio.timeout(self._patience.cancel_s):
                    await self._source.cancel()

    def _next(self) -> Event | None:
        """The next event in order, if it has arrived."""
        while True:
            if self._early and self._is_next(first := min(self._early)):
                return self._early.pop(first)
            if not self._arrived:
                return None
            event = self._arrived.popleft()
            position = (event.attempt, event.seq)
            if self._is_next(position) and not self._early:
                return event
            if position > self.position:
                self._early[position] = event

    async def _is_quiet(self) -> bool:
        """Waits until an event arrives, or none has for so long that it is time to ask for what is stored, and says
        which it was. It also returns when the stream is closed, and when less patience is asked for. Raises
        DeadlineExceeded."""
        now, ends = self._clock(), self._deadline + self._patience.last_word_s
        self._due = min(ends, now + (self._patience.gap_s if self._early else self._quiet_for_s))
        if self._timer is None or self._due < self._timer_at:
            self._set_timer(now)
        reader: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        is_quiet = await reader
        if is_quiet and self._due >= ends:
            raise DeadlineExceeded(f"request {self.request_id} did not end by its deadline")
        return is_quiet

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, self._due - now), self._on_timer)

    def _on_timer(self) -> None:
        """Events only move `_due` on: a timer that is set for each of them costs more than the event."""
        self._timer = None
        if not self._readers:
            return
        if (now := self._clock()) < self._due:
            self._set_timer(now)
        else:
            self._wake(is_quiet=True)

    def _wake(self, *, is_quiet: bool = False) -> None:
        for reader in self._readers:
            if not reader.done():
                reader.set_result(is_quiet)
        self._readers.clear()

    async def _ask(self) -> None:
        """Asks for what is stored; where that brings nothing, the next pause is longer."""
        was_quiet = not self._early
        await self._fill()
        if was_quiet and not self._early:
            self._quiet_for_s = min(2 * self._quiet_for_s, self._patience.silence_s)

    def _is_next(self, position: Position) -> bool:
        """Whether no event can be missing between the last one that was yielded and this one.

        Attempts need not follow each other: their numbers have gaps where NATS forgot which had been used.
        """
        attempt, seq = self.position
        return position == (attempt, seq + 1) or (position[0] > attempt and position[1] == 0)

    async def _fill(self) -> None:
        """Takes what is stored. What stays missing even there was lost, and is given up after a while."""
        patience_s = self._patience.lost_s
        try:
            async with aclosing(self._source.stored(self.position)) as stored:
                async for event in stored:
                    if (event.attempt, event.seq) > self.position:
                        self._early[event.attempt, event.seq] = event
        except InvalidRequest:
            pass  # nothing is stored
        except FleetError:
            patience_s = self._patience.unknown_s
        if not self._early or self._is_next(min(self._early)):
            return
        now = self._clock()
        if self._gap_since is None:
            self._gap_since = now
        if now - self._gap_since >= patience_s:
            attempt, seq = min(self._early)
            self.position = (attempt, seq - 1)
