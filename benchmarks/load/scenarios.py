"""The loads of the table, and what a run of one of them came to."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from benchmarks.load.callers import Load, Percentiles, Seen
from benchmarks.load.gateways import Parts, Probe
from benchmarks.load.vendor import Script
from contracts.requests import CompletionRequest
from contracts.subjects import Provider

ONE, UNSTREAMED, FAST, COALESCED, SOAK = "one", "unstreamed", "fast", "coalesced", "soak"
GROWTH = (100, 500, 1000, 2000)
AFTER_A_BURST = "growth-100-after"
OTHER_VENDORS = (Provider.ANTHROPIC, Provider.GOOGLE, Provider.AZURE, Provider.OLLAMA)
COALESCE_MS = 50

_TOGETHER_PER_S = 5000
"""Tokens of all open streams together, where only their number grows."""
_QUICK = 0.3
"""By how much windows are shortened to try the benchmark."""
_LIVE = Script(first_ms=200, between_ms=20, tokens=64)
"""As vendors send: the first token after 200 ms, then 50 a second."""
_AT_ONCE = Script(tokens=64)
_SHORT = Script(tokens=16)


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    load: Load
    fleet_only: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What a gateway did under a scenario, once."""

    gateway: str
    scenario: str
    callers: int
    seconds: float
    requests: int
    tokens: int
    share: float | None
    """Of the vendor's tokens, those that arrived; None where it sends without pause."""
    latency_ms: Percentiles | None
    first_token_ms: Percentiles | None
    gap_ms: Percentiles | None
    cpu_s: Mapping[str, float]
    """By part, see `gateways.Parts`."""
    rss_mb: Mapping[str, float]
    """By part, in the middle of the window."""
    harness_percent: float
    """Of the callers' and the vendor's core. Near 100 that core was the limit, and only CPU a token and a request say
    something of the gateway."""
    others_percent: float
    """Of one core, used by processes that have nothing to do with it."""
    stolen_percent: float
    """Of one core, taken away by the hypervisor."""
    errors: Mapping[str, int]
    """Replies that were not whole, by what was wrong."""

    @property
    def disturbed(self) -> bool:
        return self.others_percent >= 5 or self.stolen_percent >= 8

    def us_a_token(self, part: str) -> float | None:
        cpu_s = self.cpu_s.get(part)
        return None if cpu_s is None or not self.tokens else cpu_s / self.tokens * 1e6

    def ms_a_request(self, part: str) -> float | None:
        cpu_s = self.cpu_s.get(part)
        return None if cpu_s is None or not self.requests else cpu_s / self.requests * 1e3


def run_of(gateway: str, scenario: Scenario, seen: Seen[Probe], *, others_s: float, took_s: float) -> Run:
    """`others_s`: CPU that others used in the `took_s` that it took with its beginning and its end."""
    first, middle, last = seen.probes
    paced = bool(seen.load.stream and seen.load.script.stream_s)
    return Run(
        gateway=gateway,
        scenario=scenario.name,
        callers=seen.load.callers,
        seconds=round(seen.seconds, 3),
        requests=seen.requests,
        tokens=seen.tokens,
        share=round(seen.share, 3) if paced else None,
        latency_ms=seen.latency_ms,
        first_token_ms=seen.first_token_ms,
        gap_ms=seen.gap_ms,
        cpu_s={part: round(used.cpu_s - first.parts[part].cpu_s, 3) for part, used in last.parts.items()},
        rss_mb=memory(middle.parts),
        harness_percent=round((last.harness.cpu_s - first.harness.cpu_s) / seen.seconds * 100, 1),
        others_percent=round(others_s / took_s * 100, 1),
        stolen_percent=round((last.stolen_s - first.stolen_s) / seen.seconds * 100, 1),
        errors=dict(seen.errors),
    )


def memory(parts: Parts) -> dict[str, float]:
    """In MB, by part."""
    return {part: round(used.rss_mb, 1) for part, used in parts.items()}


def chosen(only: Collection[str], *, quick: bool, most_callers: int | None) -> list[Scenario]:
    """In the order in which they are run: nothing has been under a burst before `growth-100`.

    `only`: how their names begin; empty: all. `most_callers`: None leaves them as the table has them.
    """
    wanted = [s for s in _all(quick=quick) if not only or s.name.startswith(tuple(only))]
    return [_smaller(scenario, quick=quick, most_callers=most_callers) for scenario in wanted]


def _all(*, quick: bool) -> list[Scenario]:
    growth = {callers: Scenario(f"growth-{callers}", _growth(callers, quick), True) for callers in GROWTH}
    streams = Load(_LIVE, 500, 12, warm_s=2, ramp_s=_LIVE.stream_s)
    hundred = replace(streams, callers=100, seconds=10)
    coalesced = replace(streams, fields={"coalesce_ms": COALESCE_MS})
    return [
        Scenario(ONE, Load(_SHORT, 1, 5, stream=False)),
        Scenario(UNSTREAMED, Load(_SHORT, 32, 6, stream=False)),
        Scenario(FAST, Load(_AT_ONCE, 16, 6)),
        Scenario("streams-100", hundred),
        growth[GROWTH[0]],
        Scenario("streams-500", streams),
        *([Scenario(COALESCED, coalesced, True)] if "coalesce_ms" in CompletionRequest.model_fields else []),
        *(Scenario(str(provider), replace(hundred, provider=str(provider)), True) for provider in OTHER_VENDORS),
        *(growth[callers] for callers in GROWTH[1:]),
        Scenario(AFTER_A_BURST, _growth(GROWTH[0], quick), True),
    ]


def _growth(callers: int, quick: bool) -> Load:
    """More streams, each slower, so that all of them together say as much."""
    between_ms = callers * 1000 // _TOGETHER_PER_S
    script = Script(between_ms, between_ms, 16 if quick else 64)
    return Load(script, callers, max(10, script.stream_s), ramp_s=script.stream_s)


def soak(seconds: float) -> Scenario:
    """One piece of it."""
    return Scenario(SOAK, Load(_LIVE, 100, seconds, ramp_s=_LIVE.stream_s), True)


def warming() -> list[Load]:
    """What a gateway is asked before anything is measured."""
    return [Load(_SHORT, 8, 0.5, stream=False, warm_s=0.2), Load(_AT_ONCE, 8, 0.5, warm_s=0.2)]


def _smaller(scenario: Scenario, *, quick: bool, most_callers: int | None) -> Scenario:
    load = scenario.load
    if quick:
        load = replace(load, seconds=load.seconds * _QUICK, warm_s=load.warm_s * _QUICK)
    if most_callers is not None:
        load = replace(load, callers=min(load.callers, most_callers))
    return replace(scenario, load=load)
