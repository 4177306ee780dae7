"""One completion, streamed to the terminal: the text to stdout, everything else to stderr."""

import asyncio
import sys

from rich.console import Console

from contracts.events import Cancelled, Completed, Delta, Event, Failed, Retrying, Started
from fleet.client import Client
from fleet.connection import AgentConnection


def main(connection: AgentConnection, *, model: str, prompt: str, system: str | None) -> int:
    """The exit code: 0 when the completion is whole. Raises contracts.errors.FleetError."""
    messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]
    return asyncio.run(_chat(connection, model=model, messages=messages))


async def _chat(connection: AgentConnection, *, model: str, messages: list[dict[str, str]]) -> int:
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    async with Client(connection.url, tenant=connection.tenant, agent="chat", **connection.login) as client:
        stream = client.stream(model, messages)
        try:
            async for event in stream:
                show(event, notes=notes)
                if isinstance(event, Completed | Failed | Cancelled):
                    return 0 if isinstance(event, Completed) else 1
        except asyncio.CancelledError:
            await stream.cancel()
            raise
    return 1


def show(event: Event, *, notes: Console) -> None:
    """Writes what a reader wants to see of an event, at once."""
    match event:
        case Started(attempt=attempt) if attempt > 1:
            notes.print(f"[dim]attempt {attempt} starts over with {event.provider}/{event.model}[/]")
        case Delta(text=str(text)):
            sys.stdout.write(text)
            sys.stdout.flush()
        case Retrying():
            notes.print(f"[yellow]retrying[/] in {event.delay_s:.1f} s: {event.error.code}: {event.error.message}")
        case Completed():
            sys.stdout.write("\n")
            sys.stdout.flush()
            tokens = f"{event.usage.input_tokens} + {event.usage.output_tokens} tokens"
            cost = f"{event.cost.amount} {event.cost.currency}" if event.cost else "no price known"
            notes.print(f"[dim]{event.provider}/{event.model} · {tokens} · {cost}[/]")
        case Failed():
            notes.print(f"[red]failed[/] {event.error.code}: {event.error.message}")
        case Cancelled():
            notes.print("[yellow]cancelled[/]")
        case _:
            pass
