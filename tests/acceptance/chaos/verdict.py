"""What a trial must show, whatever its seed: pure, so that each rule is shown to fail when it is broken."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby, pairwise

from contracts.errors import Error, ErrorCode
from contracts.events import Cancelled, Completed, Delta, Event, Failed, Retrying, Started, Terminal
from contracts.usage import Outcome, UsageSource
from fleet.local.stack import LONGEST_DRAIN_S
from fleet.simulator.ledger import Entry
from tests.acceptance.chaos.agents import Seen
from tests.acceptance.chaos.books import Begun, Books, Record
from tests.acceptance.chaos.ends import Ends
from tests.acceptance.chaos.plan import AGENTS, Cancel, Leave
from workers.request.policy import LONGEST_WAIT_FOR_CIRCUIT_S, MAX_ATTEMPTS, MAX_TRIES_PER_ENDPOINT
from workers.request.recovery import MAX_DEAD_ATTEMPTS

MOST_MISSING = 0.01
"""Which part of a trial's calls may be in no book, each of them explained."""

UNEXPLAINED = "nothing explains it"
_SAME_CALL_S = 2.0
"""How far apart the clocks of a worker and of a vendor may see a call begin."""
_HEARD_WITHIN_S = 2.0
"""How long a busy worker may go on making calls until it hears a signal."""


def problems(seen: Sequence[Seen], books: Books, *, ends: Ends) -> list[str]:
    """What is not as promised, and what is known of it."""
    records: dict[str, list[Record]] = defaultdict(list)
    for record in books.records:
        records[record.request_id].append(record)
    calls: dict[str, list[Entry]] = defaultdict(list)
    for entry in books.served:
        calls[entry.request_id or ""].append(entry)
    found = [f"left over: {line}" for line in books.left]
    for one in seen:
        booked, made = records.pop(one.request_id, []), calls.pop(one.request_id, [])
        told = [
            *_ended_once(one),
            *_in_order(one.events, but_for_the_end=_heard_the_end_alone(one, ends)),
            *_whole(one, ends),
            *_rightly(one, booked),
            *_kept(one, books.results.get(one.request_id, ())),
            *_the_same_again(one),
            *_the_same_later(one),
            *_called_again(one, books.served_again),
            *_attempts_booked(one, booked, ends=ends),
            *_bill(made, booked, ends=ends),
        ]
        if told:
            found.append("\n    ".join([f"request {one.ask.number}, {one.request_id}: {one.ask.model}", *told]))
            found[-1] += "\n      ".join(["", *_story(one, booked, made)])
    unknown = (records.keys() | calls.keys() | books.results.keys()) - {one.request_id for one in seen}
    found += [f"request {request} was asked by nobody" for request in sorted(unknown)]
    lost = missing(seen, books, ends=ends)
    if len(lost) > MOST_MISSING * len(books.served):
        found.append("\n    ".join([f"{len(lost)} of {len(books.served)} calls are not booked", *lost]))
    return [*found, *_rolled_up(books), *_dead(seen, books)]


def missing(seen: Sequence[Seen], books: Books, *, ends: Ends) -> list[str]:
    """Each vendor call that has no record: who made it, and how it got lost."""
    events = {one.request_id: one.events for one in seen}
    return [
        _lost(call, events.get(call.request_id or "", ()), books.begun, ends=ends)
        for call in _unbooked(books.served, books.records)
    ]


def _lost(call: Entry, events: Sequence[Event], begun: Sequence[Begun], *, ends: Ends) -> str:
    def is_its(request_id: str | None, vendor: str, at: datetime) -> bool:
        return (request_id, vendor) == (call.request_id, call.vendor) and abs(at.timestamp() - call.at) < _SAME_CALL_S

    told = [e for e in events if isinstance(e, Started) and is_its(e.request_id, e.provider, e.at)]
    worker = told[0].worker if told else "a worker that nobody heard of"
    on_disk = any(is_its(one.request_id, one.provider, one.started_at) for one in begun)
    why = ends.explain(call.vendor, call.at, call.ended_at) or UNEXPLAINED
    return (
        f"{call.request_id} at {call.vendor}, {datetime.fromtimestamp(call.at, UTC):%H:%M:%S.%f}, made by {worker}, "
        f"its beginning {'' if on_disk else 'not '}on disk: {why}"
    )


def _unbooked(calls: Sequence[Entry], records: Sequence[Record]) -> list[Entry]:
    """The calls that are left when each record has taken the one of its request and vendor that began next to it."""
    left: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for call in calls:
        left[call.request_id or "", call.vendor].append(call)
    for record in records:
        if candidates := left[record.request_id, record.provider]:
            begun = record.started_at.timestamp()
            candidates.remove(min(candidates, key=lambda call, begun=begun: abs(call.at - begun)))
    return [call for candidates in left.values() for call in candidates]


def cut_by_a_stop(calls: Iterable[Entry], *, ends: Ends) -> list[Entry]:
    """The calls that a stopping worker cut off after it had let them go on for as long as `fleet up` promises.

    On a busy machine an answer of half a second may take longer. What was cut off sooner is not among them.
    """
    return [call for call in calls if call.outcome == "hung_up" and _drained_s(call, ends) >= LONGEST_DRAIN_S]


def _drained_s(call: Entry, ends: Ends) -> float:
    """How long a call went on after a worker of its vendor was told to stop; 0 when none was while it went on."""
    ended_at = call.ended_at or call.at
    stops = [at for at in ends.of_workers.get(call.vendor, ()) if call.at - _HEARD_WITHIN_S <= at <= ended_at]
    return ended_at - max(stops, default=ended_at)


def _ended_once(one: Seen) -> Iterable[str]:
    if one.error is not None:
        yield f"its agent got no end, but {one.error.code}: {one.error}"
    elif len(one.terminals) != 1 or one.events[-1] is not one.terminals[0]:
        yield f"ended with {[event.type for event in one.terminals]}"


def _heard_the_end_alone(one: Seen, ends: Ends) -> bool:
    """Whether its agent may have missed events before the end: it was not listening all the time, and NATS was killed
    meanwhile, which keeps them in memory. On several nodes, whoever is connected to the one that dies is away, too."""
    may_be_away = isinstance(one.ask.conduct, Leave) or one.ask.agent >= AGENTS // 2 or ends.are_of_several_nodes
    return may_be_away and ends.saw_broker_die(one.asked_at, one.ended_at)


def _in_order(events: Sequence[Event], *, but_for_the_end: bool = False) -> Iterable[str]:
    for before, after in pairwise(events):
        if not _follows(before, after) and not (but_for_the_end and _is_the_end_alone(before, after)):
            yield f"({after.attempt}, {after.seq}) came after ({before.attempt}, {before.seq})"


def _follows(before: Event, after: Event) -> bool:
    if after.attempt > before.attempt:
        return after.seq == 0
    return (after.attempt, after.seq) == (before.attempt, before.seq + 1)


def _is_the_end_alone(before: Event, after: Event) -> bool:
    return isinstance(after, Terminal) and (after.attempt, after.seq) > (before.attempt, before.seq)


def _whole(one: Seen, ends: Ends) -> Iterable[str]:
    end = one.terminals[0] if one.terminals else None
    if not isinstance(end, Completed):
        return
    if end.message.content not in one.ask.texts:
        yield f"the answer is not the vendor's: {end.message.content!r}"
    deltas = [event for event in one.events if isinstance(event, Delta) and event.attempt == end.attempt]
    said = "".join(delta.text or "" for delta in deltas)
    missed = _heard_the_end_alone(one, ends) and (len(one.events) == 1 or not _follows(one.events[-2], one.events[-1]))
    if one.ask.stream and said != end.message.content and not missed:
        yield f"the deltas of attempt {end.attempt} are {said!r}, the answer is {end.message.content!r}"
    if not one.ask.stream and any(isinstance(event, Delta) for event in one.events):
        yield "there are deltas, though no stream was asked for"


def _rightly(one: Seen, records: Sequence[Record]) -> Iterable[str]:
    """Faults are survived: what failed had been tried as often as is promised, or wished to fail."""
    match one.terminals:
        case [Cancelled()] if not isinstance(one.ask.conduct, Cancel):
            yield "cancelled, and nobody asked for that"
        case [Failed(error=error)] if not _may_fail(one, error, records):
            yield f"failed after {len(records)} attempts: {error.code}: {error.message}"
        case _:
            pass


def _may_fail(one: Seen, error: Error, records: Sequence[Record]) -> bool:
    match error.code:
        case ErrorCode.INTERNAL:
            return _is_poison(records)
        case ErrorCode.STREAM_INTERRUPTED if one.ask.on_interrupt == "fail":
            return True
        case _ if error.retry_after_s is not None and one.ended_at - one.asked_at >= LONGEST_WAIT_FOR_CIRCUIT_S:
            return True  # it waited for an endpoint, and all probes of others failed
        case _:
            return len(records) >= MAX_ATTEMPTS or _tried_enough_at_its_last_provider(records)


def _tried_enough_at_its_last_provider(records: Sequence[Record]) -> bool:
    """As often as an endpoint is tried; another one of it may have been left before, for a 429."""
    last = [record.provider for record in records][-MAX_TRIES_PER_ENDPOINT:]
    return len(last) == MAX_TRIES_PER_ENDPOINT and len(set(last)) == 1


def _is_poison(records: Sequence[Record]) -> bool:
    return sum(record.outcome == Outcome.ABANDONED for record in records) >= MAX_DEAD_ATTEMPTS


def _kept(one: Seen, results: Sequence[bytes]) -> Iterable[str]:
    """The end of each request is on disk, byte for byte as its agent heard it."""
    if len(one.terminals) != 1:
        return  # told already
    if len(results) != 1:
        yield f"{len(results)} results of it are stored"
    elif results[0] != one.terminals[0].to_json():
        yield f"its result is {results[0]!r}, its agent heard {one.terminals[0].to_json()!r}"


def _the_same_again(one: Seen) -> Iterable[str]:
    for after, events in one.read_again.items():
        yield from _heard_again(one, f"a later reader after {after}", events, after=after)


def _the_same_later(one: Seen) -> Iterable[str]:
    """After NATS was restarted: what was not said again since is its end alone."""
    if one.resumed is not None:
        yield from _heard_again(one, "an agent that came back later", one.resumed)
    if one.asked_again is not None:
        yield from _heard_again(one, "whoever sent it again", one.asked_again)


def _heard_again(one: Seen, who: str, events: Sequence[Event], *, after: tuple[int, int] = (0, -1)) -> Iterable[str]:
    if not events:
        yield f"{who} gets nothing"
        return
    if (events[0].attempt, events[0].seq) <= after:
        yield f"{who} gets ({events[0].attempt}, {events[0].seq})"
    yield from (f"{who} reads: {told}" for told in _in_order(events, but_for_the_end=True))
    ends = [event for event in events if isinstance(event, Terminal)]
    if len(ends) != 1 or events[-1] is not ends[0]:
        yield f"{who} sees it end with {[event.type for event in ends]}"
    elif [event.to_json() for event in one.terminals] != [ends[0].to_json()]:
        yield f"{who} sees it end with {ends[0].to_json()!r}, its agent saw {one.terminals}"


def _called_again(one: Seen, served: Sequence[Entry]) -> Iterable[str]:
    for call in served:
        if call.request_id == one.request_id:
            yield f"{call.vendor} was called for its id once more, though it had ended"


def _attempts_booked(one: Seen, records: Sequence[Record], *, ends: Ends) -> Iterable[str]:
    """But for one that may have got lost, see `Ends.explain`."""
    started = {event.attempt: event for event in one.events if isinstance(event, Started)}
    booked = {record.attempt: record.provider for record in records}
    for attempt, event in started.items():
        forgotten = attempt not in booked and ends.explain(event.provider, event.at.timestamp(), None)
        if booked.get(attempt) != event.provider and not forgotten:
            yield f"attempt {attempt} at {event.provider} is booked as {booked.get(attempt)}"


def _bill(calls: Sequence[Entry], records: Sequence[Record], *, ends: Ends) -> Iterable[str]:
    """The vendors' ledger against ours: each call has a record of its own, completed ones to the token.

    Of the calls that may get lost, `problems` counts how many did.
    """
    for call in _unbooked(calls, records):
        if not ends.explain(call.vendor, call.at, call.ended_at):
            counted = f"{len(calls)} calls were made, {len(records)} are booked"
            yield f"{counted}; one at {call.vendor} is missing: {UNEXPLAINED}"
    for vendor in {call.vendor for call in calls} | {record.provider for record in records}:
        made = [call for call in calls if call.vendor == vendor]
        booked = [record for record in records if record.provider == vendor]
        completed = [record for record in booked if record.outcome == Outcome.COMPLETED]
        stated = Counter((call.input_tokens, call.output_tokens) for call in made if call.outcome == "finished")
        for tokens, count in Counter((record.input_tokens, record.output_tokens) for record in completed).items():
            if count > stated[tokens]:
                yield f"{count} calls are booked as completed with {tokens} tokens, the vendor knows {stated[tokens]}"
        if any(record.usage_source != UsageSource.VENDOR for record in completed):
            yield "a completed call is estimated"


def _rolled_up(books: Books) -> Iterable[str]:
    sums = (
        len(books.records),
        sum(record.input_tokens for record in books.records),
        sum(record.output_tokens for record in books.records),
        sum(record.cost or 0 for record in books.records),
    )
    if books.rolled_up != sums:
        yield f"the roll-up says {books.rolled_up}, its records {sums}"


def _dead(seen: Sequence[Seen], books: Books) -> Iterable[str]:
    """In LLM_DEAD is what killed three workers, and nothing else."""
    buried = sum(
        isinstance(end, Failed) and end.error.code == ErrorCode.INTERNAL for one in seen for end in one.terminals
    )
    if books.dead != buried:
        yield f"{books.dead} messages are in LLM_DEAD, {buried} requests failed as poison"


def _story(one: Seen, records: Sequence[Record], calls: Sequence[Entry]) -> Iterable[str]:
    """For who must find out why."""
    ask = one.ask
    yield f"asked: {ask.conduct}, stream={ask.stream}, on_interrupt={ask.on_interrupt}, agent {ask.agent}"
    for attempt, events in groupby(one.events, key=lambda event: event.attempt):
        yield f"seen {attempt}: {' '.join(_told(event) for event in events)}"
    for record in records:
        yield (
            f"booked {record.attempt}: {record.provider} {record.started_at:%H:%M:%S.%f} {record.outcome} "
            f"{record.error_code or ''} {record.input_tokens}+{record.output_tokens} {record.usage_source}"
        )
    for call in calls:
        begun, ended = (
            "?" if at is None else f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f}" for at in (call.at, call.ended_at)
        )
        yield (
            f"called {call.vendor} {begun} to {ended} {call.outcome} {call.status} {call.chunks_sent} chunks, "
            f"{call.input_tokens}+{call.output_tokens}"
        )


def _told(event: Event) -> str:
    match event:
        case Delta():
            return str(event.seq)
        case Started():
            return f"{event.seq}:started({event.provider}, {event.worker}, {event.at:%H:%M:%S.%f})"
        case Retrying() | Failed():
            return f"{event.seq}:{event.type}({event.error.code})"
        case _:
            return f"{event.seq}:{event.type}"
