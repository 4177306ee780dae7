"""One completion, streamed to the terminal: the text to stdout, everything else to stderr."""

import asyncio
import sys

from rich.console import Console
from rich.text import Text

from contracts.events import Cancelled, Completed, Delta, Event, Failed, Retrying, Started
from fleet.client import Client
from fleet.operator.connection import AgentConnection
from fleet.terminal.foreign_text import for_stream, visible


async def run(connection: AgentConnection, *, model: str, prompt: str, system: str | None) -> int:
    """Shows one completion. Returns the exit code: 0 when it is whole. Raises FleetError."""
    messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    async with Client(connection.url, tenant=connection.tenant, agent="chat", **connection.login) as client:
        said = ""
        try:
            async for event in client.stream(model, messages):
                if said and not isinstance(event, Delta | Completed):
                    _write("\n")
                said = (_said(event) or said) if isinstance(event, Delta) else ""
                show(event, notes=notes)
                if isinstance(event, Completed | Failed | Cancelled):
                    return 0 if isinstance(event, Completed) else 1
        except asyncio.CancelledError:
            _write("\n" if said else "")
            notes.print("cancelled", style="yellow")  # the client has cancelled the request
            raise
    return 1


def show(event: Event, *, notes: Console) -> None:
    """Writes what a reader wants to see of an event, without delay."""
    match event:
        case Started(attempt=attempt) if attempt > 1:
            _note(notes, (f"attempt {attempt} starts over with {event.provider}/{event.model}", "dim"))
        case Delta():
            _write(_said(event))
        case Retrying():
            why = f" in {event.delay_s:.1f} s: {event.error.code}: {event.error.message}"
            _note(notes, ("retrying", "yellow"), (why, ""))
        case Completed():
            _write("\n")
            tokens = f"{event.usage.input_tokens} + {event.usage.output_tokens} tokens"
            cost = f"{event.cost.amount} {event.cost.currency}" if event.cost else "no price known"
            _note(notes, (f"{event.provider}/{event.model} · {tokens} · {cost}", "dim"))
        case Failed():
            _note(notes, ("failed", "red"), (f" {event.error.code}: {event.error.message}", ""))
        case Cancelled():
            _note(notes, ("cancelled", "yellow"))
        case _:
            pass


def _said(delta: Delta) -> str:
    """The words of a delta that are shown: an answer's or a refusal's, no reasoning and no tool calls."""
    return f"{delta.text or ''}{delta.refusal or ''}"


def _write(text: str) -> None:
    sys.stdout.write(for_stream(text, sys.stdout))
    sys.stdout.flush()


def _note(notes: Console, *parts: tuple[str, str]) -> None:
    """Writes a line to stderr, from parts of text and style."""
    shown = ((visible(text) if notes.is_terminal else text, style) for text, style in parts)
    notes.print(Text.assemble(*shown))
