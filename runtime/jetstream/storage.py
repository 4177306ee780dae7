"""Whether JetStream has room for what must be stored, as readiness says it.

What nats-server 2.15.1 does when there is none:

- A stream that refuses when it is full, or the server's `max_file_store`: the publish is answered with an error (10077,
  10023). There is room again when something is taken out.
- The disk itself is full: a write fails, and from then on the stream stores nothing until the server is started again,
  also when the disk has room by then. Its publishes are answered by nobody, other streams go on. What it has confirmed
  is there, and is delivered. Purges and deletes answer with the error of the write.

Processes that publish note how that goes. The control plane, which publishes little, asks for a purge of nothing.
"""

import json
import time

from contracts import streams, subjects
from runtime.broker import Broker

_SILENT_S = 5.0
"""After so long without an answer to any publish of a kind there is no room for it, or nobody who could say so."""
_ANSWER_S = 1.0
_OF_NOBODY = f"{subjects.VERSION}.none"


class Storage:
    """What the last publishes of each kind came to."""

    def __init__(self) -> None:
        self._without_room: set[str] = set()
        """Kinds of messages that are not stored."""
        self._silent_since: dict[str, float] = {}
        """Kinds of messages that were not answered, nor stored since."""

    @property
    def has_room(self) -> bool:
        """Whether nothing was refused for lack of room since it was last stored. May be asked from another thread."""
        return not self._without_room

    def refused(self, subject: str) -> None:
        """There was no room for it."""
        self._without_room.add(_kind(subject))

    def unanswered(self, subject: str) -> None:
        """Nobody answered, although there is a connection."""
        now = time.monotonic()
        if now - self._silent_since.setdefault(_kind(subject), now) >= _SILENT_S:
            self.refused(subject)

    def stored(self, subject: str) -> None:
        """It was confirmed."""
        if self._without_room or self._silent_since:
            self._without_room.discard(_kind(subject))
            self._silent_since.pop(_kind(subject), None)

    async def forget(self) -> None:
        """The server may have been started again, and may have room."""
        self._without_room.clear()
        self._silent_since.clear()


def _kind(subject: str) -> str:
    """`llm.v1.usage.…`: usage; `$KV.llm_holds.…`: llm_holds."""
    tokens = subject.split(".", 3)
    return tokens[1] if tokens[0] == "$KV" else tokens[2]


async def stores(broker: Broker, stream: str) -> bool:
    """Whether a file stream's last write did not fail. The user must have the right to purge it.

    Raises nats.errors.Error when the server does not answer, as to whoever has no right.
    """
    asked = json.dumps({"filter": _OF_NOBODY}).encode()
    answer = await broker.client.request(f"$JS.API.STREAM.PURGE.{stream}", asked, timeout=_ANSWER_S)
    return "error" not in json.loads(answer.data)


GUARDED = (streams.REQUESTS, streams.RESULTS)
"""The streams that take most of a disk, and that the control plane may purge."""
