"""Callers in a closed loop: each asks again as soon as it has been answered, and every reply is checked to be whole."""

import asyncio
import gc
import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from benchmarks.load.vendor import Script, token

SYSTEM = "You are a terse assistant that answers in one paragraph."
QUESTION = "Explain in a few words why the sky is blue and the sunset is red."
now = time.perf_counter
_PATIENCE_S = 120
_AFTER_S = 0.3
"""How long callers listen on after the last reply: a second end of it would come then."""
_AGAIN_AFTER_S = 0.01
"""How long a caller waits whose reply was not whole."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Load:
    """What so many callers ask for at the same time, and for how long: a window after `warm_s` and `ramp_s`, within
    which they begin one after the other."""

    script: Script
    callers: int
    seconds: float
    stream: bool = True
    warm_s: float = 1
    ramp_s: float = 0
    provider: str = "openai"
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the requests have besides, of fields that only the fleet knows."""

    @property
    def tokens_per_s(self) -> float:
        """As many as the vendor sends when nobody keeps it waiting; infinite when it sends without pause."""
        took = self.script.stream_s
        return self.callers * self.script.tokens / took if took else float("inf")

    def body(self) -> dict[str, Any]:
        """A request in OpenAI's vocabulary, without what depends on who is asked."""
        said = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
        return {
            "model": self.script.model,
            "messages": said,
            "max_tokens": 512,
            "temperature": 0.7,
            "stream": self.stream,
        }

    def tokens(self) -> list[bytes]:
        """What a whole reply has, in order."""
        return [token(number).strip().encode() for number in range(self.script.tokens)]


@dataclass(frozen=True, slots=True)
class Percentiles:
    """In milliseconds."""

    p50: float
    p99: float
    most: float
    count: int


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """What callers saw in a window, and what the probe said at its beginning, in its middle and at its end."""

    load: Load
    seconds: float
    requests: int
    """Whose whole reply came within the window."""
    tokens: int
    latency_ms: Percentiles | None
    first_token_ms: Percentiles | None
    gap_ms: Percentiles | None
    """Between tokens as callers see them: 0 between those that came together."""
    errors: Mapping[str, int]
    """How many replies were not whole, by what was wrong with them; also before and after the window."""
    probes: Sequence[T]

    @property
    def share(self) -> float:
        """Of the vendor's tokens, those that arrived in the window: 1 is all of them."""
        return self.tokens / self.seconds / self.load.tokens_per_s


class Tally:
    """What the callers of a load have seen so far. Times count while `measuring` is set, errors always."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.running = True
        self.measuring = False
        self.open = 0
        self.requests = 0
        self.tokens = 0
        self.errors: Counter[str] = Counter()
        self._latencies = array("d")
        self._first_tokens = array("d")
        self._gaps = array("d")

    def wrong(self, why: str) -> None:
        self.errors[why] += 1

    def seen(self, seconds: float, probes: Sequence[T]) -> Seen[T]:
        return Seen(
            load=self.load,
            seconds=seconds,
            requests=self.requests,
            tokens=self.tokens,
            latency_ms=percentiles(self._latencies),
            first_token_ms=percentiles(self._first_tokens),
            gap_ms=percentiles(self._gaps),
            errors=self.errors,
            probes=probes,
        )

    def came(self, reply: "Reply", tokens: int, at: float) -> None:
        """Tokens of a stream, together at one time."""
        if self.measuring:
            self.tokens += tokens
            if reply.first_at is not None:
                self._gaps.append(at - reply.last_at)
            if tokens > 1:
                self._gaps.extend([0.0] * (tokens - 1))
        if reply.first_at is None:
            reply.first_at = at
        reply.last_at = at

    def ended(self, reply: "Reply", why: str | None, at: float) -> None:
        """`why`: what was wrong with it; None: it was whole."""
        self.open -= 1
        if why is not None:
            self.wrong(why)
            return
        if self.measuring:
            self.requests += 1
            self.tokens += 0 if self.load.stream else self.load.script.tokens
        if reply.counted:
            self._latencies.append(at - reply.begun_at)
            if reply.first_at is not None:
                self._first_tokens.append(reply.first_at - reply.begun_at)


class Reply:
    """One reply on its way."""

    __slots__ = ("begun_at", "counted", "first_at", "last_at")

    def __init__(self, tally: Tally) -> None:
        tally.open += 1
        self.begun_at = self.last_at = now()
        self.first_at: float | None = None
        self.counted = tally.measuring
        """Whether it began in the window: what is measured from the beginning counts then, whenever it ends."""


class Caller(Protocol):
    """One of the callers: it goes on asking until its tally runs no more."""

    def begin(self) -> None: ...
    def close(self) -> None: ...


def go_on(caller: Caller, *, whole: bool) -> None:
    """The caller's next request: at once, but for one that got no whole reply, which would ask without pause."""
    if whole:
        caller.begin()
    else:
        asyncio.get_running_loop().call_later(_AGAIN_AFTER_S, caller.begin)


async def measure(tally: Tally, callers: Sequence[Caller], probe: Callable[[], T]) -> Seen[T]:
    """Lets the callers ask for the time of the load. `probe` should be cheap: it is called beside the load."""
    load, loop = tally.load, asyncio.get_running_loop()
    for number, caller in enumerate(callers):
        loop.call_later(load.ramp_s * number / len(callers), caller.begin)
    await asyncio.sleep(load.warm_s + load.ramp_s)
    gc.collect()
    gc.disable()
    try:
        begun, probes = now(), [probe()]
        tally.measuring = True
        await asyncio.sleep(load.seconds / 2)
        probes.append(probe())
        await asyncio.sleep(max(0.0, begun + load.seconds - now()))
        tally.measuring = False
        probes.append(probe())
        seconds = now() - begun
    finally:
        gc.enable()
    tally.running = False
    await _all_ended(tally)
    for caller in callers:
        caller.close()
    return tally.seen(seconds, probes)


async def _all_ended(tally: Tally) -> None:
    give_up = now() + _PATIENCE_S
    while tally.open and now() < give_up:  # noqa: ASYNC110 - callers are callbacks
        await asyncio.sleep(0.02)
    if tally.open:
        tally.errors["never ended"] += tally.open
    await asyncio.sleep(_AFTER_S)


def percentiles(seconds: Sequence[float]) -> Percentiles | None:
    """None when there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3, 3)

    return Percentiles(at(0.5), at(0.99), at(1), len(ordered))
