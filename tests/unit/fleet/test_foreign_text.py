"""What others wrote is printed as it is: no markup is obeyed, and on a terminal no escape sequence."""

import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from contracts.errors import Error, ErrorCode
from contracts.events import (
    AssistantMessage,
    Cancelled,
    Completed,
    Delta,
    Event,
    Failed,
    NextCandidate,
    Retrying,
    Started,
    Timings,
)
from contracts.usage import Usage, UsageSource
from fleet.operator import chat, ollama, pool_table, usage_report
from fleet.operator.ollama import Model, Step
from fleet.terminal.foreign_text import in_one_line, say, visible
from fleet.terminal.tables import Table, name, number

NASTY = [
    "[/b]",
    "[red]no order[/red]",
    "[redacted]",
    "[link=http://example.org]here",
    "\\[/b]",
    "[",
    ":smile:",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;another title\x07",
    "\x1b]52;c;cm0gLXJm\x1b\\",
    "\x9b31mred",
    "over\bwritten\x7f",
    "\x00",
    "日本語 ✓",
]
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def on_terminal(request: pytest.FixtureRequest) -> bool:
    return request.param


def console(*, terminal: bool) -> Console:
    """Without colours, whose escape sequences would be ours."""
    return Console(file=StringIO(), force_terminal=terminal, color_system=None, width=400)


def printed(by: Console) -> str:
    assert isinstance(by.file, StringIO)
    return by.file.getvalue()


def error(text: str) -> Error:
    return Error(code=ErrorCode.OVERLOADED, message=text, retryable=True)


def events(text: str) -> Sequence[Event]:
    """Of each kind that is shown, with `text` wherever somebody else may write."""
    common: dict[str, Any] = {"request_id": "r", "attempt": 2, "seq": 0}
    usage = Usage(input_tokens=1, output_tokens=1, source=UsageSource.VENDOR)
    return (
        Started(**common, provider="mock", endpoint="default", model=text, worker="w", at=datetime.now(UTC)),
        Retrying(**common, error=error(text), delay_s=0.5, next=NextCandidate(provider="mock", model="echo")),
        Completed(
            **common,
            message=AssistantMessage(content="x"),
            finish_reason="stop",
            usage=usage,
            provider="mock",
            model=text,
            timings=Timings(queued_s=0, duration_s=1),
        ),
        Failed(**common, error=error(text), attempts=(), usage=usage),
    )


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("which", range(4), ids=["started", "retrying", "completed", "failed"])
def test_a_chats_notes(text: str, which: int, on_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", StringIO())
    notes = console(terminal=on_terminal)

    chat.show(events(text)[which], notes=notes)

    if on_terminal:
        assert visible(text) in printed(notes)
        assert not _CONTROL.search(printed(notes))
    else:  # rich leaves some control characters out by itself
        assert re.sub(r"[\x07\x08]", "", text) in printed(notes)


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("part", ["text", "refusal"])
def test_a_chats_text(text: str, part: str, on_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal() if on_terminal else StringIO()
    monkeypatch.setattr(sys, "stdout", out)

    delta = Delta.model_validate({"request_id": "r", "attempt": 1, "seq": 0, part: text})
    chat.show(delta, notes=console(terminal=on_terminal))

    assert out.getvalue() == (visible(text) if on_terminal else text)


def test_an_answer_keeps_its_lines_and_tabs_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)

    chat.show(Delta(request_id="r", attempt=1, seq=0, text="a\tb\r\nc\n"), notes=console(terminal=True))

    assert out.getvalue() == "a\tb\nc\n"


def test_a_cancelled_chat_says_so() -> None:
    notes = console(terminal=True)
    usage = Usage(input_tokens=1, output_tokens=1, source=UsageSource.VENDOR)
    chat.show(Cancelled(request_id="r", attempt=1, seq=0, usage=usage), notes=notes)
    assert printed(notes) == "cancelled\n"


def used(text: str) -> Any:
    counts = ("prompt_tokens", "completion_tokens", "cache_read_tokens", "reasoning_tokens", "unpriced_count")
    row = dict.fromkeys((*counts, "request_count", "error_count"), 1) | {"total_cost": "1", "model": text}
    return usage_report.render({"items": [row], "totals": row}, group_by=["model"])


def pools(text: str) -> Any:
    queue = {"provider": text, "waiting": 0, "delivered": 0, "redelivered": 0}
    return pool_table.render({"queues": [queue], "workers": []})


TABLES: dict[str, Callable[[str], Any]] = {
    "usage report": used,
    "status": pools,
    "models list": lambda text: ollama.table([(text, Model(text, 1, text, text))]),
    "any other": lambda text: Table((name("tenant"), number("events")), [[text, "1"]], totals=["total", "1"]),
}


@pytest.mark.parametrize("text", [*NASTY, "two\nlines\tand a tab"])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("width", [400, 20], ids=["wide", "narrow"])
def test_a_table(text: str, table: str, width: int, on_terminal: bool) -> None:
    shown = console(terminal=on_terminal)
    shown.width = width

    shown.print(TABLES[table](text))

    assert not _CONTROL.search(printed(shown))
    if width == 400:
        assert in_one_line(text) in printed(shown)


@pytest.mark.parametrize("text", NASTY)
def test_the_steps_of_a_pull(text: str) -> None:
    shown = console(terminal=False)

    ollama.show([Step(text), Step(text, "sha256:1", 2, 1)], console=shown)

    assert printed(shown).count(in_one_line(text)) == 2


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize(("stream", "err"), [("stdout", False), ("stderr", True)])
def test_a_line(text: str, stream: str, err: bool, on_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal() if on_terminal else StringIO()
    monkeypatch.setattr(sys, stream, out)

    say(text, err=err)

    assert out.getvalue() == (visible(text) if on_terminal else text) + "\n"
