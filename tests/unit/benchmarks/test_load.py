"""What the load benchmark takes for a whole reply, and how its table marks what it found."""

import json
from collections.abc import Callable, Sequence

import pytest

from benchmarks.load.nats_callers import what_is_wrong
from benchmarks.load.scenarios import Run, chosen
from benchmarks.load.table import Goal, Results, as_json, markdown
from benchmarks.load.vendor import Plans, Script, script_of

TOKENS = [b"tok0", b"tok1"]
Spoil = Callable[[list[str]], Sequence[str]]


def events() -> list[str]:
    """Those of a request whose reply is whole."""
    end = {
        "type": "completed",
        "attempt": 1,
        "seq": 3,
        "message": {"content": "tok0 tok1 "},
        "usage": {"output_tokens": 2, "source": "vendor"},
        "finish_reason": "stop",
    }
    return [
        '{"type":"started","attempt":1,"seq":0}',
        '{"type":"delta","attempt":1,"seq":1,"text":"tok0 "}',
        '{"type":"delta","attempt":1,"seq":2,"text":"tok1 "}',
        json.dumps(end, separators=(",", ":")),
    ]


def spoilt(*changes: tuple[int, str, str]) -> Spoil:
    """Of some events, a text is put in another one's place."""

    def spoil(said: list[str]) -> Sequence[str]:
        for number, old, new in changes:
            assert old in said[number]
            said[number] = said[number].replace(old, new)
        return said

    return spoil


def reordered(*numbers: int) -> Spoil:
    """Of some events, these in this order."""
    return lambda said: [said[number] for number in numbers]


def judged(said: Sequence[str], *, streamed: bool = True) -> str | None:
    return what_is_wrong([event.encode() for event in said], TOKENS, streamed=streamed)


def test_a_whole_reply_is_whole() -> None:
    assert judged(events()) is None


def test_tokens_that_came_together_are_whole() -> None:
    first, one, _, end = events()
    assert judged([first, one.replace("tok0 ", "tok0 tok1 "), end.replace('"seq":3', '"seq":2')]) is None


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (spoilt((3, '"completed"', '"failed"')), "not completed"),
        (spoilt((0, "started", "retrying")), "the first event is not started"),
        (reordered(0, 2, 3), "events are missing"),
        (reordered(0, 2, 1, 3), "events are missing"),
        (spoilt((2, '"attempt":1', '"attempt":2')), "events are missing"),
        (spoilt((2, "delta", "retrying")), "an event that was not asked for"),
        (spoilt((1, "tok0", "tok1"), (2, "tok1", "tok0")), "tokens are missing or out of order"),
        (spoilt((3, "tok0 tok1 ", "tok0 ")), "the message is not what was said"),
        (spoilt((3, '"output_tokens":2', '"output_tokens":3')), "wrong usage"),
        (spoilt((3, "vendor", "estimate")), "wrong usage"),
        (spoilt((3, '"stop"', '"length"')), "wrong usage or finish reason"),
    ],
)
def test_what_is_not_whole_is_told(spoil: Spoil, wrong: str) -> None:
    assert (judged(spoil(events())) or "").startswith(wrong)


def test_deltas_of_an_unstreamed_reply_were_not_asked_for() -> None:
    assert judged(events(), streamed=False) == "an event that was not asked for"


def test_a_model_says_how_it_replies() -> None:
    script = Script(first_ms=200, between_ms=20, tokens=64)
    assert script.model == "fake-ttft200-itl20-n64"
    assert script_of(script.model) == script
    assert script.stream_s == pytest.approx(1.46)


@pytest.mark.parametrize(
    ("path", "body", "first", "last"),
    [
        ("/v1/chat/completions", '{"model":"fake-n3","stream":true}', '"content":"tok0 "', "data: [DONE]"),
        ("/openai/deployments/fake-n3/chat/completions?api-version=1", '{"stream": true}', '"tok0 "', "[DONE]"),
        ("/v1/messages", '{"model":"fake-n3","stream":true}', "event: message_start", "event: message_stop"),
        ("/v1beta/models/fake-n3:streamGenerateContent?alt=sse", "{}", '"text":"tok0 "', '"finishReason":"STOP"'),
        ("/api/chat", '{"model":"fake-n3"}', '"content":"tok0 "', '"done":true'),
    ],
)
def test_the_vendor_writes_once_for_each_token(path: str, body: str, first: str, last: str) -> None:
    plan = Plans().of(f"POST {path} HTTP/1.1\r\n\r\n{body}".encode())
    assert plan
    assert len(plan.writes) == 3
    assert first.encode() in plan.writes[0]
    assert last.encode() in plan.writes[-1]
    assert plan.writes[-1].endswith(b"0\r\n\r\n")


def test_scenarios_are_chosen_by_how_their_names_begin() -> None:
    found = chosen(["streams", "fast"], quick=True, most_callers=2)
    assert [(scenario.name, scenario.load.callers) for scenario in found] == [
        ("fast", 2),
        ("streams-100", 2),
        ("streams-500", 2),
    ]


def run(*, us_a_token: float, others_percent: float = 0) -> Run:
    return Run(
        gateway="fleet",
        scenario="fast",
        callers=16,
        seconds=1,
        requests=100,
        tokens=1_000_000,
        share=None,
        latency_ms=None,
        first_token_ms=None,
        gap_ms=None,
        cpu_s={"worker": us_a_token, "all": us_a_token},
        rss_mb={},
        harness_percent=50,
        others_percent=others_percent,
        stolen_percent=0,
        errors={},
    )


def cell(*runs: Run) -> str:
    """What the table says of the worker's CPU a token at full speed, for which the goal is 12."""
    line = next(line for line in markdown(Results(runs=list(runs))).splitlines() if "a token, worker" in line)
    return line.split("|")[3].strip()


def test_a_figure_is_the_median_of_runs_that_nobody_disturbed() -> None:
    assert cell(run(us_a_token=9), run(us_a_token=11), run(us_a_token=90, others_percent=50)) == "10.0"


def test_a_missed_goal_and_a_disturbed_run_are_marked() -> None:
    assert cell(run(us_a_token=12)) == "12.0"
    assert cell(run(us_a_token=12.5)) == "12.5!"
    assert cell(run(us_a_token=9, others_percent=50)) == "9.00~"


def test_what_was_not_measured_is_no_line() -> None:
    figures = as_json(Results(runs=[run(us_a_token=9)]))
    assert set(figures) == {
        "as fast as the vendor sends: CPU µs a token, worker",
        "as fast as the vendor sends: CPU µs a token, all of it",
    }


def test_an_earlier_session_stands_beside_this_one() -> None:
    title = "as fast as the vendor sends: CPU µs a token, worker"
    lines = markdown(Results(runs=[run(us_a_token=9)]), before={title: 88.04}).splitlines()
    assert lines[0] == "| figure | goal | fleet before | fleet |"
    assert f"| {title} | ≤ 12 | 88.0 | 9.00 |" in lines


def test_a_goal_is_met_at_its_limit() -> None:
    assert Goal(5).is_met(5)
    assert not Goal(5).is_met(5.1)
    assert Goal(0.99, at_least=True).is_met(0.99)
    assert not Goal(0.99, at_least=True).is_met(0.98)
