"""The event streams of all requests that a worker runs, and of those that ended last.

What was on its way when the connection broke is lost. A single nats-server (2.15) that was killed has also forgotten
the replies that it kept in memory, and what it had taken from a worker and not yet given to the agent. So after a
reconnect every running request publishes its attempt's events again, and so do the requests that ended last.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from types import TracebackType

from contracts import subjects
from workers.jetstream.reply_publisher import ReplyPublisher
from workers.request.events import EventStream, Share

REPUBLISHED_S = 1.5
"""After the stream of replies was made anew, all workers that are connected have published their events again."""
AGENTS_ARE_BACK_S = 3.0
"""After a reconnect of this worker, agents have reconnected too."""

_ENDED_KEPT, _ENDED_BYTES_KEPT = 1000, 8 * 1024**2


class LiveStreams:
    def __init__(
        self,
        *,
        reconnects: Callable[[], int],
        until_kept: Callable[[], Awaitable[None]],
        replies: ReplyPublisher | None = None,
        backlog: Callable[[], Awaitable[None] | None] = lambda: None,
        agents_are_back_s: float = AGENTS_ARE_BACK_S,
    ) -> None:
        """`reconnects`: how often the connection was made anew so far; `until_kept` returns when events are stored.
        `backlog`: what to wait for before more is published, if anything.

        `replies` keeps each tenant within its share; without it everything is stored."""
        self.reconnects = reconnects
        self._until_kept = until_kept
        self.replies = replies
        self._backlog = backlog
        self._agents_are_back_s = agents_are_back_s
        self.running: set[EventStream] = set()
        self._ended: deque[tuple[EventStream, int]] = deque()
        """The last streams that ended, each with the size of its events."""
        self._ended_bytes = Counter[str]()
        """By tenant."""
        self._all_ended_bytes = 0
        self._reconnected = asyncio.Event()

    def keep(self, ended: tuple[EventStream, int]) -> None:
        """For `Tracked`: keeps a stream that has ended, with the size of its events, and drops the oldest of the tenant
        that has most when there are too many."""
        stream, size = ended
        self._ended.append(ended)
        self._ended_bytes[subjects.tenant_of_reply(stream.subject)] += size
        self._all_ended_bytes += size
        while len(self._ended) > _ENDED_KEPT or self._all_ended_bytes > _ENDED_BYTES_KEPT:
            most, _ = self._ended_bytes.most_common(1)[0]
            oldest = next(e for e in self._ended if subjects.tenant_of_reply(e[0].subject) == most)
            self._ended.remove(oldest)
            self._ended_bytes[most] -= oldest[1]
            self._all_ended_bytes -= oldest[1]
            if not self._ended_bytes[most]:
                del self._ended_bytes[most]

    async def reconnected(self) -> None:
        self._reconnected.set()

    async def repeat_after_reconnects(self) -> None:
        """Runs for ever. The stream of replies is made anew, and agents reconnect, at their own pace: so it repeats
        the events at once, when they are kept, and when agents are back."""
        while True:
            await self._reconnected.wait()
            self._reconnected.clear()
            await self.republish_all()
            try:
                async with asyncio.timeout(self._agents_are_back_s):
                    await self._until_kept()
            except TimeoutError:  # agents that are back hear it, though nobody keeps it yet
                await self.republish_all()
                await self._until_kept()
            await self.republish_all()
            await asyncio.sleep(self._agents_are_back_s)
            await self.republish_all()

    async def republish_all(self) -> None:
        """One stream after the other, no faster than the server takes them, while others of the worker go on."""
        for stream in [*(stream for stream, _ in self._ended), *self.running]:
            await stream.republish()
            await asyncio.sleep(0)
            if (until_sent := self._backlog()) is not None:
                await until_sent


class Tracked:
    """For `async with`: the stream counts as running while the block runs, and as ended after it.

    At the end of the block its events are published again if the connection was made anew meanwhile, so that they
    precede the ack, which follows the block, on the present connection as well.
    """

    def __init__(self, live: LiveStreams, stream: EventStream) -> None:
        self._live = live
        self._stream = stream
        self._reconnects = 0

    async def __aenter__(self) -> None:
        live, stream = self._live, self._stream
        self._reconnects = live.reconnects()
        live.running.add(stream)
        if (replies := live.replies) is not None:
            running = replies.shares.begin(stream.subject)
            stream.share = Share(running.has_room, running.note, replies.pass_on)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        live, stream = self._live, self._stream
        try:
            if exc is None and live.reconnects() != self._reconnects:
                await stream.republish()
        finally:
            live.running.remove(stream)
            if live.replies is not None:
                live.replies.shares.end(stream.subject, has_ended=stream.ended)
            # Left between two attempts, it is another worker's: what that one says since must not be said over.
            if stream.sent and not stream.is_between_attempts:
                live.keep((stream, sum(map(len, stream.sent))))
