"""A hold that grows while its answer streams, ahead of what has arrived.

The answer tells how far it has come (`reach`), in the callback that reads it: that is a comparison of two numbers until
a mark is passed. Then the next step is kept free, in the background. An answer that comes faster than that waits: no
more is read of it before the step is there, so what arrives never passes what is kept free by more than one read. When
nothing is left to grow into, and what has arrived reaches what is kept free, the answer is broken off.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from contracts.budget import Hold
from contracts.errors import BudgetExceeded
from runtime.jetstream.publishing import NotStored
from workers.providers.shared.token_estimates import BYTES_PER_TOKEN

FIRST_TOKENS = 1024
"""What a step has at most while nothing is known of a model's answers."""
FIRST_SHARE = 128
"""And its part of the day's budget: so many requests begin at the same time, however dear the model is."""
_STEP_SHARE = 4
"""A step is so large a part of what is kept free, and the first step at least: long answers take few steps."""
_TRIES = 3
"""While an answer waits for a step whose count NATS does not confirm."""
_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Rate:
    """How a call's cost grows with its answer, in units of the budget."""

    base: int
    """What the prompt can cost at most."""
    per_token: int
    """Of the output, at the dearest rate; 1 at least."""
    most_tokens: int
    """No answer is longer."""

    def tokens(self, kept: int) -> int:
        """Output tokens that `kept` units cover."""
        return max(0, kept - self.base) // self.per_token


class Growth:
    """The growth of one call's hold."""

    def __init__(
        self,
        rate: Rate,
        *,
        kept: int,
        first_tokens: int,
        tokens_per_estimated: float,
        keep_free: Callable[[int, int], Awaitable[Hold | None]],
        give_back: Callable[[Hold], Awaitable[None]],
        refusal: Callable[[], BudgetExceeded],
    ) -> None:
        """`kept`: units that are kept free already. `keep_free(units, least)` keeps so many more, or as many as are
        left if those are `least` or more; None: fewer are left. It raises NotStored. `give_back` takes what came too
        late, and raises nothing."""
        self._rate = rate
        self._first_tokens = first_tokens
        self._density = tokens_per_estimated
        self._keep_free = keep_free
        self._give_back = give_back
        self._refusal = refusal
        self._covered = rate.tokens(kept)
        self._holds: list[Hold] = []
        self._growing: asyncio.Task[bool] | None = None
        self._ended = False
        self.estimated = 0
        """Output tokens that had arrived at the last look, as `token_estimates` counts them or more."""
        self.mark_pieces = 0
        """From so many pieces on, or `mark_characters`, `reach` has something to do."""
        self.mark_characters = 0
        self._set_marks(self._covered - self._step() // 2)

    def reach(self, pieces: int, characters: int) -> Awaitable[None] | None:
        """So much of the answer has arrived. What it returns is to be awaited before more is read; that raises
        BudgetExceeded when nothing is left to grow into, and NotStored."""
        self.estimated = self.estimate(pieces, characters)
        arrived = math.ceil(self.estimated * self._density)
        if self._covered >= self._rate.most_tokens or self._ended:
            self._set_marks(_NEVER)
            return None
        if self._growing is None:
            self._growing = asyncio.create_task(self._grow(), name="grow a hold")
            self._growing.add_done_callback(_note_exception)
        if arrived < self._covered:
            self._set_marks(self._covered)
            return None
        return self._until_covered(arrived)

    @staticmethod
    def estimate(pieces: int, characters: int) -> int:
        """Output tokens: at least one for each of the vendor's deltas, else one for four characters."""
        return max(pieces, -(-characters // BYTES_PER_TOKEN))

    def end(self) -> list[Hold]:
        """The call is over: what was kept free for it beside the first hold. A step that is under way gives itself
        back."""
        self._ended = True
        holds, self._holds = self._holds, []
        return holds

    async def _until_covered(self, arrived: int) -> None:
        unconfirmed = 0
        while arrived >= self._covered and self._covered < self._rate.most_tokens:
            growing = self._growing or asyncio.create_task(self._grow(), name="grow a hold")
            self._growing = growing
            try:
                # Shielded, because a request that is interrupted here leaves the step to give itself back.
                has_grown = await asyncio.shield(growing)
            except NotStored:
                unconfirmed += 1
                if unconfirmed == _TRIES:
                    raise
            else:
                if not has_grown:
                    raise self._refusal()

    async def _grow(self) -> bool:
        """One step; whether there was anything left for it. Raises NotStored."""
        step = min(self._step(), self._rate.most_tokens - self._covered)
        try:
            hold = await self._keep_free(step * self._rate.per_token, self._rate.per_token)
        finally:
            self._growing = None
        if hold is None:
            return False
        if self._ended:
            await self._give_back(hold)
            return True
        self._holds.append(hold)
        granted = (hold.units - hold.returned) // self._rate.per_token
        self._covered += granted
        # After less than was asked for, the next step waits until it is needed: others may have given back by then.
        self._set_marks(self._covered - (self._step() // 2 if granted == step else 0))
        return True

    def _step(self) -> int:
        """Output tokens of the next step."""
        return max(self._first_tokens, self._covered // _STEP_SHARE, 1)

    def _set_marks(self, tokens: int) -> None:
        self.mark_pieces = int(tokens / self._density) if tokens < _NEVER else _NEVER
        self.mark_characters = self.mark_pieces * BYTES_PER_TOKEN


def _note_exception(growing: asyncio.Task[bool]) -> None:
    """A step that failed is tried again when it is needed; then its error is raised."""
    if not growing.cancelled():
        growing.exception()
