"""From a seed to what is asked and what breaks: everything random of a trial is drawn here, once, before it begins."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

LEADER = "leader-"
"""Followed by of what: so a node of NATS is named in a fault."""
VENDORS = ("openai", "anthropic", "google")
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-sonnet-4-5", "google": "gemini-2.5-flash"}
ALIAS = "fast"
ALIAS_OF = ("openai", "anthropic")
LAST_RESORT = "google"
"""The tenant's fallback. Its own line is cut, but never down for long."""

AGENTS = 4
"""The second half of them reaches NATS through a proxy."""
LOAD_S = 22.0
CLUSTER_LOAD_S = 60.0
"""Long enough for one leader after the other to die, and for its node to come back."""
_CALLS = 12
"""For how many calls a request has answers; more than are ever made for one."""
_FIRST_FAULT_S = 2.0
_BROKER_KILLED_BY_S = 10.0
_AGAIN_AFTER_S = (1.0, 5.0)
"""When NATS is killed once more, after it is back: while workers still wait for each other, and soon after."""
_DOWN_S = 5.0
"""How long a node that was killed stays down: long enough, as a rule, for the others to go on."""
_FULL_FROM_S = 12.0
_AN_HOUR_S = 45.0
"""More than two of a trial's LLM_ATTEMPT_GRACE_S, as an hour is two of the usual ones."""

Script = dict[str, Any]


class Kind(StrEnum):
    KILL = "kill -9"
    STOP = "SIGSTOP"
    TERMINATE = "SIGTERM"
    CUT = "cut"
    BLACK_HOLE = "black hole"
    REFUSE = "refuse"
    FULL = "full disk"
    AWAY = "away for what is an hour to the fleet"


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    kind: Kind
    what: str
    """A role of the ready file, the leader of a stream, or a line: `vendor-openai`, `agents`, `outlying-nats`."""
    which: int = 0
    """Of the role's processes."""
    lasts_s: float = 0.0
    then: tuple["Fault", ...] = ()
    """What follows when this one is mended. Their times count from that moment."""

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        then = f", then {' and '.join(str(fault).strip() for fault in self.then)}" if self.then else ""
        return f"{self.at_s:5.1f} s  {self.kind} {self.what}[{self.which}]{lasts}{then}"


@dataclass(frozen=True, slots=True)
class Read:
    """To the end."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """After so many events; 0: as soon as it is published."""

    after: int


@dataclass(frozen=True, slots=True)
class Leave:
    """After so many events the agent is gone; a new process of it resumes from there."""

    after: int
    away_s: float


Conduct = Read | Cancel | Leave


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, and what its agent does with it."""

    number: int
    at_s: float
    agent: int
    model: str
    fallbacks: tuple[str, ...]
    scripts: Mapping[str, Sequence[Script]]
    """What each vendor does on the first, second, … call for this request, whichever vendor was called before."""
    texts: tuple[str, ...]
    """What the first, second, … call is answered, if it is not broken off; of any two calls something else."""
    conduct: Conduct
    stream: bool = True
    on_interrupt: str = "restart"
    priority: str = "interactive"

    def fields(self) -> dict[str, Any]:
        """Of the request, as fleet.client takes them."""
        return {
            "stream": self.stream,
            "on_interrupt": self.on_interrupt,
            "priority": self.priority,
            "fallbacks": self.fallbacks,
            "provider_options": {vendor: {"simulate": list(scripts)} for vendor, scripts in self.scripts.items()},
        }


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    asks: tuple[Ask, ...]
    faults: tuple[Fault, ...]
    later: bool = True
    """Whether NATS is restarted when all is over, and each request resumed and sent once more after that."""
    nodes: int = 1
    """Of NATS."""

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {len(self.asks)} requests, {len(self.faults)} faults", *map(str, self.faults)]
        return "\n  ".join(lines)


def draw(seed: int, *, requests: int, faults: int | None = None, long: bool = False, later: bool = True) -> Plan:
    """`faults`: so many of those that a whole trial has, the two kills of NATS among them; None: all. `long`: also one
    that lasts, a full disk where the seed is even, PostgreSQL away for an hour where it is odd."""
    rng = random.Random(seed)
    asks = _asks(rng, requests, within_s=LOAD_S)
    every = _faults(rng)
    if faults is not None:
        kills = [fault for fault in every if fault.then]
        others = [fault for fault in every if not fault.then]
        every = kills + rng.sample(others, faults - len(kills))
    if long and seed % 2:
        every = [fault for fault in every if fault.what != "postgres"]
        every.append(Fault(_FIRST_FAULT_S, Kind.AWAY, "postgres", lasts_s=_AN_HOUR_S))
    elif long:
        every.append(Fault(rng.uniform(_FULL_FROM_S, LOAD_S), Kind.FULL, "nats", lasts_s=rng.uniform(2, 8)))
    return Plan(seed, asks, tuple(sorted(every, key=lambda fault: fault.at_s)), later=later)


def kill_leaders(seed: int, leaders: Sequence[str], *, requests: int) -> Plan:
    """On three nodes of NATS: the leader of each of `leaders` gets a kill -9, one after the other in an order of the
    seed's choosing, while workers, the usage consumer and lines to vendors break as in every trial. A leader's name is
    that of a stream, or stream and consumer as `stream.consumer`."""
    rng = random.Random(seed)
    asks = _asks(rng, requests, within_s=CLUSTER_LOAD_S)
    faults = [fault for fault in _faults(rng) if fault.what.startswith(("worker-", "usage", "vendor-"))]
    order = rng.sample(list(leaders), len(leaders))
    pause_s = CLUSTER_LOAD_S / len(order)
    faults += [
        Fault(2 + pause_s * number, Kind.KILL, f"{LEADER}{name}", lasts_s=_DOWN_S) for number, name in enumerate(order)
    ]
    return Plan(seed, asks, tuple(sorted(faults, key=lambda fault: fault.at_s)), nodes=3)


def rolling_restart(roles: Mapping[str, int], *, requests: int) -> Plan:
    """Each process of `roles` gets a SIGTERM, one after the other, while agents ask what takes half a second."""
    processes = [(role, which) for role, count in roles.items() for which in range(count)]
    pause_s = LOAD_S / (len(processes) + 1)
    faults = (Fault(pause_s * n, Kind.TERMINATE, role, which) for n, (role, which) in enumerate(processes, start=1))
    asks = (plain(n, VENDORS[n % len(VENDORS)], at_s=LOAD_S * n / requests) for n in range(requests))
    return Plan(0, tuple(asks), tuple(faults), later=False)


def kill_everything(roles: Mapping[str, int], *, requests: int) -> Plan:
    """Each process of `roles` gets a kill -9, one after the other and twice, while agents read streams of seconds."""
    processes = [(role, which) for role, count in roles.items() for which in range(count)] * 2
    pause_s = LOAD_S / (len(processes) + 1)
    faults = (Fault(pause_s * n, Kind.KILL, role, which) for n, (role, which) in enumerate(processes, start=1))
    asks = (plain(n, VENDORS[n % len(VENDORS)], at_s=LOAD_S * n / requests, lasts_s=5) for n in range(requests))
    return Plan(0, tuple(asks), tuple(faults))


def plain(number: int, vendor: str, *, at_s: float = 0, lasts_s: float = 0.5) -> Ask:
    """What is read to its end and meets no setback of the vendor's."""
    texts = tuple(f"{number}.{call} is the answer" for call in range(_CALLS))
    said = [{"text": text, "chunks": 5, "between_s": lasts_s / 5} for text in texts]
    return Ask(
        number=number,
        at_s=at_s,
        agent=number % AGENTS,
        model=f"{vendor}/{MODELS[vendor]}",
        fallbacks=(),
        scripts=dict.fromkeys(VENDORS, said),
        texts=texts,
        conduct=Read(),
    )


def _asks(rng: random.Random, requests: int, *, within_s: float) -> tuple[Ask, ...]:
    return tuple(_ask(rng, number, at_s=within_s * number / requests) for number in range(requests))


def _ask(rng: random.Random, number: int, *, at_s: float) -> Ask:
    vendor = rng.choice(VENDORS)
    words, chunks = rng.randint(8, 40), rng.randint(5, 25)
    pace = {"first_token_s": round(rng.uniform(0, 0.4), 3), "between_s": round(rng.uniform(0.01, 0.15), 3)}
    texts = tuple(" ".join(f"{number}.{call}.{word}" for word in range(words)) for call in range(_CALLS))
    said = [{"text": text, "chunks": chunks, **pace} for text in texts]
    broken = rng.choice((0, 0, 0, 1, 2))
    scripts = {name: [*(_setback(rng, script) for script in said[:broken]), *said[broken:]] for name in VENDORS}
    dead_primary = vendor != LAST_RESORT and rng.random() < 0.08
    if dead_primary:
        scripts = {name: [_setback(rng, script) for script in said] if name == vendor else said for name in VENDORS}
    by_alias = not dead_primary and rng.random() < 0.15
    others = [f"{name}/{MODELS[name]}" for name in rng.sample(VENDORS, len(VENDORS)) if name != vendor]
    return Ask(
        number=number,
        at_s=at_s,
        agent=rng.randrange(AGENTS),
        model=ALIAS if by_alias else f"{vendor}/{MODELS[vendor]}",
        fallbacks=tuple(others) if dead_primary or rng.random() < 0.3 else (),
        scripts=scripts,
        texts=texts,
        conduct=_conduct(rng),
        stream=rng.random() < 0.85,
        on_interrupt="fail" if rng.random() < 0.15 else "restart",
        priority="background" if rng.random() < 0.1 else "interactive",
    )


def _setback(rng: random.Random, said: Script) -> Script:
    """One call that comes to nothing, for the vendor's reasons."""
    after = rng.randint(1, 4)
    drawn: Callable[[], Script] = rng.choice(
        (
            lambda: {"status": 429, "error": "rate_limit_exceeded", "headers": {"retry-after": "1"}},
            lambda: {"status": 500},
            lambda: {"status": 503},
            lambda: {**said, "cut_after_chunks": 0, "cut": "reset"},
            lambda: {**said, "cut_after_chunks": after, "cut": rng.choice(("close", "reset", "eof"))},
            lambda: {**said, "stall_after_chunks": rng.choice((0, after))},
        )
    )
    return drawn()


def _conduct(rng: random.Random) -> Conduct:
    drawn = rng.random()
    if drawn < 0.12:
        return Cancel(after=rng.choice((0, 0, 1, 3, 6)))
    if drawn < 0.27:
        return Leave(after=rng.randint(1, 6), away_s=rng.uniform(0.2, 2.0))
    return Read()


@dataclass(slots=True)
class _Clock:
    """Draws when something happens."""

    rng: random.Random
    drawn: list[Fault] = field(default_factory=list[Fault])

    def add(
        self,
        kind: Kind,
        what: str,
        *,
        which: int = 0,
        lasts_s: float = 0,
        between: tuple[float, float] = (_FIRST_FAULT_S, LOAD_S),
        then: tuple[Fault, ...] = (),
    ) -> None:
        self.drawn.append(Fault(self.rng.uniform(*between), kind, what, which, lasts_s, then))


def _faults(rng: random.Random) -> list[Fault]:
    """Every part is hit, each in several ways, at times of the seed's choosing."""
    clock = _Clock(rng)
    clock.add(Kind.KILL, "worker-openai", which=rng.randrange(2))
    clock.add(Kind.KILL, "worker-anthropic", which=rng.randrange(2))
    clock.add(Kind.KILL, f"worker-{rng.choice(VENDORS)}")
    clock.add(Kind.STOP, "worker-openai", which=rng.randrange(2), lasts_s=rng.uniform(11, 14))
    clock.add(Kind.STOP, f"worker-{rng.choice(VENDORS)}", lasts_s=rng.uniform(1, 4))
    clock.add(Kind.TERMINATE, f"worker-{rng.choice(VENDORS)}")
    clock.add(Kind.KILL, "nats", between=(_FIRST_FAULT_S, _BROKER_KILLED_BY_S), then=_broker_again(rng))
    clock.add(Kind.STOP, "nats", lasts_s=rng.choice((1.5, 3.0, 11.5)))
    for role in ("usage", "admin", "vault", "postgres"):
        clock.add(Kind.KILL, role)
        clock.add(Kind.STOP, role, lasts_s=rng.uniform(1, 6))
    for vendor in VENDORS:
        clock.add(Kind.CUT, f"vendor-{vendor}")
    clock.add(Kind.BLACK_HOLE, f"vendor-{rng.choice(VENDORS)}")
    clock.add(Kind.REFUSE, f"vendor-{rng.choice(ALIAS_OF)}", lasts_s=rng.uniform(0.5, 3))
    clock.add(Kind.CUT, "outlying-nats")
    clock.add(Kind.BLACK_HOLE, "outlying-nats")
    clock.add(Kind.STOP, "outlying", lasts_s=rng.uniform(1, 13))
    clock.add(Kind.CUT, "agents")
    clock.add(Kind.BLACK_HOLE, "agents")
    return clock.drawn


def _broker_again(rng: random.Random) -> tuple[Fault, ...]:
    """NATS dies once more soon after it is back, in half of the trials together with a worker."""
    at_s = rng.uniform(*_AGAIN_AFTER_S)
    kills = [Fault(at_s, Kind.KILL, "nats")]
    if rng.random() < 0.5:
        kills.append(Fault(at_s, Kind.KILL, f"worker-{rng.choice(VENDORS)}", rng.randrange(2)))
    return tuple(kills)
