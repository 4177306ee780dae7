"""Fewer, larger deltas, as a request may wish (`coalesce_ms`): the first one leaves at once, later ones are merged.

All requests of a worker share the moments at which what they hold back leaves (`Moments`): one timer for all that are
due at the same one, and one write to the broker.
"""

import asyncio
import logging
import math
from collections.abc import Callable

from contracts.events import ToolCallDelta
from workers.providers.base import Chunk

log = logging.getLogger(__name__)

_APART_S = 0.01
_MOST_CHARACTERS = 64 * 1024
"""What has more leaves before its time, so that nobody's answer is held in memory for a second."""


class Moments:
    """Moments of the event loop's clock, a hundredth of a second apart, for what need not be exact."""

    def __init__(self) -> None:
        self._due: dict[int, list[Callable[[], None]]] = {}

    def call_at(self, when: float, work: Callable[[], None]) -> None:
        """Calls `work` at the first moment that is not before `when`."""
        moment = math.ceil(when / _APART_S)
        if (works := self._due.get(moment)) is None:
            works = self._due[moment] = []
            asyncio.get_running_loop().call_at(moment * _APART_S, self._pass, moment)
        works.append(work)

    def _pass(self, moment: int) -> None:
        for work in self._due.pop(moment):
            try:
                work()
            except Exception:  # the top of a callback; one request's bug is not the next one's
                log.exception("moment_failed")


class Coalescing:
    """The chunks of one answer on their way to `publish`."""

    def __init__(self, publish: Callable[[Chunk], None], *, every_s: float, moments: Moments) -> None:
        self._publish = publish
        self._every_s = every_s
        self._moments = moments
        self._loop = asyncio.get_running_loop()
        self._next_at = -math.inf
        self._held: list[Chunk] = []
        self._held_characters = 0
        self._is_due = False
        self._error: Exception | None = None

    def add(self, chunk: Chunk) -> None:
        """Publishes the chunk when it is time, alone or with what is held back. Raises what `publish` raises, also of
        what was published since."""
        if self._error is not None:
            raise self._error
        self._held.append(chunk)
        self._held_characters += len(chunk.text) + len(chunk.reasoning) + len(chunk.refusal)
        self._held_characters += sum(len(call.arguments or "") for call in chunk.tool_calls)
        now = self._loop.time()
        if now >= self._next_at or self._held_characters > _MOST_CHARACTERS:
            self._next_at = now + self._every_s
            self._flush()
        elif not self._is_due:
            self._is_due = True
            self._moments.call_at(self._next_at, self._moment)

    def end(self) -> None:
        """Publishes what is held back: nothing more comes. Raises what `publish` raises."""
        if self._error is not None:
            raise self._error
        self._flush()

    def _moment(self) -> None:
        self._is_due = False
        if not self._held:
            return
        if (now := self._loop.time()) < self._next_at:  # something has left meanwhile
            self._is_due = True
            self._moments.call_at(self._next_at, self._moment)
            return
        self._next_at = now + self._every_s
        try:
            self._flush()
        except Exception as exc:  # noqa: BLE001 - raised to whoever adds the next chunk, or ends the answer
            self._error = exc

    def _flush(self) -> None:
        held, self._held, self._held_characters = self._held, [], 0
        if held:
            self._publish(held[0] if len(held) == 1 else merged(held))


def merged(chunks: list[Chunk]) -> Chunk:
    """One chunk that says what `chunks` say, one after the other."""
    calls: dict[int, list[ToolCallDelta]] = {}
    for chunk in chunks:
        for delta in chunk.tool_calls:
            calls.setdefault(delta.index, []).append(delta)
    return Chunk(
        text="".join([chunk.text for chunk in chunks]),
        reasoning="".join([chunk.reasoning for chunk in chunks]),
        refusal="".join([chunk.refusal for chunk in chunks]),
        tool_calls=tuple(map(_merged_call, calls.values())),
        pieces=sum([chunk.pieces for chunk in chunks]),
    )


def _merged_call(deltas: list[ToolCallDelta]) -> ToolCallDelta:
    """A call's deltas as one: its last id and name count, as they do for who gathers them."""
    if len(deltas) == 1:
        return deltas[0]
    said = [delta.arguments for delta in deltas if delta.arguments is not None]
    return ToolCallDelta(
        index=deltas[0].index,
        id=next((delta.id for delta in reversed(deltas) if delta.id), None),
        name=next((delta.name for delta in reversed(deltas) if delta.name), None),
        arguments="".join(said) if said else None,
    )
