"""The table: figures of all gateways beside their goals, from the runs of one session."""

import operator
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.callers import Percentiles
from benchmarks.load.scenarios import (
    AFTER_A_BURST,
    COALESCED,
    FAST,
    GROWTH,
    ONE,
    OTHER_VENDORS,
    UNSTREAMED,
    Run,
)

_DISTURBED, _MISSED, _ABSENT = "~", "!", "—"


@dataclass(slots=True)
class Results:
    """What a session has measured so far."""

    runs: list[Run] = field(default_factory=list[Run])
    idle_mb: dict[str, list[Mapping[str, float]]] = field(default_factory=dict[str, list[Mapping[str, float]]])
    """Memory by part, by gateway: of one that has served a few requests and rests; one for each round."""
    ready_s: list[float] = field(default_factory=list[float])
    soak: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Seconds since its beginning, and the worker's memory in MB."""
    agent: Sequence[Mapping[str, Any]] = ()
    """The results of `benchmarks.agent`."""

    def of(self, gateway: str, scenario: str) -> list[Run]:
        """Its runs that nobody disturbed; all of them when there is none."""
        found = [run for run in self.runs if (run.gateway, run.scenario) == (gateway, scenario)]
        return [run for run in found if not run.disturbed] or found

    def is_disturbed(self, gateway: str, scenario: str) -> bool:
        return any(run.disturbed for run in self.of(gateway, scenario))

    def median(self, gateway: str, scenario: str, figure: Callable[[Run], float | None]) -> float | None:
        """None when it was not measured, or has no meaning there."""
        return _median(map(figure, self.of(gateway, scenario)))


@dataclass(frozen=True, slots=True)
class Goal:
    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        return (operator.ge if self.at_least else operator.le)(value, self.limit)

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:,g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """A line of the table."""

    title: str
    of: Callable[[Results, str], float | None]
    """Its value for a gateway; None: it has none."""
    goal: Goal | None = None
    """The fleet's."""
    scenario: str = ""
    """Whose disturbances put it in doubt."""


def figures() -> list[Figure]:
    """All lines, also those of what was not measured."""
    return [
        *_streams("500 streams", "streams-500", (0.99, 5, 25), gap=35, worker=28, whole=44),
        *_coalesced(),
        *_streams("100 streams", "streams-100", (0.99, 3, 10), gap=None, worker=45, whole=None),
        *_cpu_a_token("as fast as the vendor sends", FAST, worker=12, whole=None),
        *_unstreamed(),
        *_one(),
        *_memory(),
        *_growth(),
        *_other_vendors(),
        *_agent(),
        Figure("`fleet up` ready, s", lambda r, g: _median(r.ready_s) if g == "fleet" else None, Goal(8)),
    ]


def gateways(results: Results) -> list[str]:
    """The columns: the fleet first; `direct` has none, because the others' added times are above its own."""
    found = dict.fromkeys(run.gateway for run in results.runs if run.gateway not in ("direct", "fleet"))
    return ["fleet", *found]


def markdown(results: Results, *, before: Mapping[str, float] | None = None) -> str:
    """The table as docs/performance.md has it. `before`: the fleet's figures of another session, by their titles."""
    names = gateways(results)
    lines = [["figure", "goal", *(["fleet before"] if before else []), *names]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for figure in figures():
        cells = [_cell(results, figure, name) for name in names]
        if before:
            cells = [_number(before[figure.title]) if figure.title in before else _ABSENT, *cells]
        if any(cell != _ABSENT for cell in cells):
            lines.append([figure.title, str(figure.goal or ""), *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def as_json(results: Results) -> dict[str, dict[str, float]]:
    """The figures by their titles and gateways."""
    found = {figure.title: {name: figure.of(results, name) for name in gateways(results)} for figure in figures()}
    known = {title: {name: value for name, value in row.items() if value is not None} for title, row in found.items()}
    return {title: {name: round(value, 3) for name, value in row.items()} for title, row in known.items() if row}


def _cell(results: Results, figure: Figure, gateway: str) -> str:
    value = figure.of(results, gateway)
    if value is None:
        return _ABSENT
    missed = gateway == "fleet" and figure.goal is not None and not figure.goal.is_met(value)
    doubtful = bool(figure.scenario) and results.is_disturbed(gateway, figure.scenario)
    return f"{_number(value)}{_MISSED if missed else ''}{_DISTURBED if doubtful else ''}"


def _number(value: float) -> str:
    """Three digits that say something."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def _of(title: str, scenario: str, figure: Callable[[Run], float | None], goal: Goal | None = None) -> Figure:
    return Figure(title, lambda results, gateway: results.median(gateway, scenario, figure), goal, scenario)


def _added(title: str, scenario: str, time: Callable[[Run], float | None], goal: Goal | None) -> Figure:
    """What a gateway adds to the vendor's own time."""

    def added(results: Results, gateway: str) -> float | None:
        through, alone = results.median(gateway, scenario, time), results.median("direct", scenario, time)
        return None if through is None or alone is None else through - alone

    return Figure(title, added, goal, scenario)


def _streams(
    title: str,
    scenario: str,
    goals: tuple[float, float, float],
    *,
    gap: float | None,
    worker: float,
    whole: float | None,
) -> list[Figure]:
    share, p50, p99 = goals
    return [
        _of(f"{title}: share kept up", scenario, lambda run: run.share, Goal(share, at_least=True)),
        _added(f"{title}: added time to first token p50, ms", scenario, lambda r: _p50(r.first_token_ms), Goal(p50)),
        _added(f"{title}: added time to first token p99, ms", scenario, lambda r: _p99(r.first_token_ms), Goal(p99)),
        _of(f"{title}: gap between tokens p99, ms", scenario, lambda r: _p99(r.gap_ms), _goal(gap)),
        *_cpu_a_token(title, scenario, worker=worker, whole=whole),
    ]


def _cpu_a_token(title: str, scenario: str, *, worker: float | None, whole: float | None) -> list[Figure]:
    return [
        _of(f"{title}: CPU µs a token, worker", scenario, lambda run: run.us_a_token("worker"), _goal(worker)),
        _of(f"{title}: CPU µs a token, all of it", scenario, lambda run: run.us_a_token("all"), _goal(whole)),
    ]


def _coalesced() -> list[Figure]:
    title = "500 streams, `coalesce_ms: 50`"
    return [
        _of(f"{title}: share kept up", COALESCED, lambda run: run.share),
        _added(f"{title}: added time to first token p99, ms", COALESCED, lambda run: _p99(run.first_token_ms), None),
        *_cpu_a_token(title, COALESCED, worker=None, whole=29),
    ]


def _unstreamed() -> list[Figure]:
    title = "unstreamed, 32 at once"
    return [
        _of(f"{title}: CPU ms a request, worker", UNSTREAMED, lambda run: run.ms_a_request("worker"), Goal(0.6)),
        _of(f"{title}: CPU ms a request, all of it", UNSTREAMED, lambda run: run.ms_a_request("all"), Goal(1.2)),
        _of(f"{title}: requests/s", UNSTREAMED, lambda run: run.requests / run.seconds),
    ]


def _one() -> list[Figure]:
    return [
        _added("one request, idle: added p50, ms", ONE, lambda run: _p50(run.latency_ms), Goal(2)),
        _added("one request, idle: added p99, ms", ONE, lambda run: _p99(run.latency_ms), Goal(5)),
    ]


def _memory() -> list[Figure]:
    def an_open_stream(scenario: str) -> Callable[[Results, str], float | None]:
        def kb(results: Results, gateway: str) -> float | None:
            idle = _idle_mb(results, gateway)
            under_load = results.median(gateway, scenario, lambda run: run.rss_mb.get(_part(gateway)))
            callers = results.median(gateway, scenario, lambda run: run.callers)
            return (under_load - idle) / callers * 1e3 if idle is not None and under_load and callers else None

        return kb

    return [
        Figure("memory idle, MB", _idle_mb, Goal(100)),
        Figure("memory an open stream of 500, kB", an_open_stream("streams-500"), Goal(60)),
        Figure(f"memory an open stream of {GROWTH[-1]:,}, kB", an_open_stream(f"growth-{GROWTH[-1]}"), Goal(60)),
        Figure("memory under load, MB an hour", lambda r, g: _mb_an_hour(r.soak) if g == "fleet" else None),
    ]


def _growth() -> list[Figure]:
    """CPU a token beside that of few streams in a fresh worker."""
    fewest = f"growth-{GROWTH[0]}"

    def relative(scenario: str) -> Callable[[Results, str], float | None]:
        return lambda results, gateway: _ratio(results, gateway, scenario, fewest)

    return [
        _of(
            f"{GROWTH[0]} open streams, 5,000 tokens/s: CPU µs a token, worker",
            fewest,
            lambda r: r.us_a_token("worker"),
        ),
        *(
            Figure(f"… {callers:,} of them, times that", relative(f"growth-{callers}"), Goal(1.2), f"growth-{callers}")
            for callers in GROWTH[1:]
        ),
        Figure(f"… {GROWTH[0]} again, after them, times that", relative(AFTER_A_BURST), Goal(1.2), AFTER_A_BURST),
    ]


def _other_vendors() -> list[Figure]:
    def relative(vendor: str) -> Callable[[Results, str], float | None]:
        return lambda results, gateway: _ratio(results, gateway, vendor, "streams-100")

    return [
        Figure(f"100 streams of {vendor}: CPU a token, times openai's", relative(vendor), Goal(1.5), vendor)
        for vendor in map(str, OTHER_VENDORS)
    ]


def _agent() -> list[Figure]:
    def of(reader: str, figure: str) -> Callable[[Results, str], float | None]:
        def value(results: Results, gateway: str) -> float | None:
            found = [float(each[figure]) for each in results.agent if each["reader"] == reader]
            return found[-1] if found and gateway == "fleet" else None

        return value

    return [
        Figure("agent: CPU µs an event, `fleet.client`", of("fleet.client", "cpu_us_per_event"), Goal(30)),
        Figure("agent: CPU µs an event, nats-py alone", of("nats-py", "cpu_us_per_event")),
        Figure("agent: CPU µs a `stream()` call", of("fleet.client", "request_us"), Goal(150)),
    ]


def _ratio(results: Results, gateway: str, scenario: str, beside: str) -> float | None:
    value, base = (results.median(gateway, name, lambda run: run.us_a_token("worker")) for name in (scenario, beside))
    return None if value is None or not base else value / base


def _idle_mb(results: Results, gateway: str) -> float | None:
    return _median(parts.get(_part(gateway)) for parts in results.idle_mb.get(gateway, ()))


def _mb_an_hour(soak: Sequence[tuple[float, float]]) -> float | None:
    """Without its first third, in which a worker takes what it keeps."""
    later = soak[len(soak) // 3 :]
    return statistics.linear_regression(*zip(*later, strict=True)).slope * 3600 if len(later) > 1 else None


def _part(gateway: str) -> str:
    """Whose memory is compared: of the fleet, the worker's."""
    return "worker" if gateway == "fleet" else "all"


def _goal(limit: float | None) -> Goal | None:
    return None if limit is None else Goal(limit)


def _p50(times: Percentiles | None) -> float | None:
    return times.p50 if times else None


def _p99(times: Percentiles | None) -> float | None:
    return times.p99 if times else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
