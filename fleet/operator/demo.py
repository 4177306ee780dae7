"""`fleet demo`: the whole fleet in a temporary folder, two completions from a simulated vendor, and the bill."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp

from rich.console import Console
from rich.text import Text

from contracts.events import Completed, Delta, Failed, Retrying, Started
from fleet.admin_client import AdminApi
from fleet.client import Client
from fleet.local.stack import Stack, Wishes
from fleet.local.state import State
from fleet.local.up import until
from fleet.simulator import Script, Simulator
from fleet.terminal.foreign_text import visible
from fleet.terminal.tables import Column, Table, name, number
from runtime import role

MODEL = "gpt-4o-mini"
_POOLS = {"openai": 1, "mock": 1}
_BOOKED_WITHIN_S = 15
_ANSWER = (
    "A queue keeps what it was given. The request was durable before this worker saw it, each word is an event "
    "that can be read again, and the bill is written by whoever counts the tokens, once."
)
_SECOND_ANSWER = "The vendor was overloaded at first; nobody lost anything, and you see one answer."


class DemoFailed(Exception):
    """What should have been shown did not happen."""


def main() -> int:
    """Runs the demo until its end or a signal; returns the exit code. Raises DemoFailed, and what a start raises."""
    console = Console(highlight=False)

    async def start(stop: asyncio.Event) -> None:
        if not await until(stop, _demo(console)):
            raise DemoFailed("the demo was interrupted")

    return role.run(start)


async def _demo(console: Console) -> None:
    began = time.monotonic()
    async with Simulator() as simulator, _stack(console) as stack:
        facts = stack.facts()
        # The key is made up: the simulator takes any.
        config = {"base_url": simulator.base_url("openai"), "models": [MODEL]}
        request = {"tenant": "demo", "provider_type": "openai", "api_key": "sk-simulated", "config": config}
        provider = await asyncio.to_thread(stack.admin.post, "llm-providers", request)
        async with Client(
            facts["nats_url"],
            tenant=facts["tenant"],
            agent="demo",
            user=facts["nats_user"],
            password=facts["nats_password"],
        ) as client:
            console.rule("a completion, streamed through the OpenAI adapter")
            simulator.script(MODEL, Script(text=_ANSWER, first_token_s=0.3, between_s=0.04))
            await _ask(console, client, "Why a queue and not a proxy?")
            console.rule("the same, but the vendor's first answer is 503")
            simulator.script(
                MODEL,
                Script(status=503, error="overloaded"),
                Script(text=_SECOND_ANSWER, first_token_s=0.2, between_s=0.04),
            )
            await _ask(console, client, "And when a vendor fails?")
        console.rule("what it cost, from the admin API")
        console.print(await _bill(console, stack.admin, provider["id"]))
    console.print(f"[green]The demo worked[/], in {time.monotonic() - began:.1f} s, and everything is stopped.")


@asynccontextmanager
async def _stack(console: Console) -> AsyncGenerator[Stack]:
    """A stack that runs, in a folder that is kept, for its logs, only when something failed."""
    folder = Path(mkdtemp(prefix="fleet-demo-"))
    state = State(folder)

    def say(line: str) -> None:
        console.print(Text(f"  {line}", "dim"))

    with state.locked():
        stack = Stack(state, Wishes(pools=_POOLS), say=say)
        keep = False
        try:
            with console.status("starting the stack …"):
                await stack.start()
            yield stack
        except Exception:
            keep = True
            console.print(Text(f"The logs are in {state.logs}"), soft_wrap=True)
            raise
        finally:
            with console.status("stopping …"):
                await stack.stop()
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)


async def _ask(console: Console, client: Client, question: str) -> None:
    """Shows the events as they come. Raises DemoFailed when the completion does not come whole."""
    console.print(f"[bold]agent[/]  {question}")
    said: list[str | tuple[str, str]]
    async for event in client.stream(f"openai/{MODEL}", question):
        match event:
            case Delta(text=str(text)):
                console.print(Text(visible(text)), end="", soft_wrap=True)
                continue
            case Failed():
                raise DemoFailed(f"the completion failed: {event.error.code}: {event.error.message}")
            case Started():
                said = [f"started: attempt {event.attempt} at {event.provider}/{event.model}"]
            case Retrying():
                said = [("retrying", "yellow"), f" in {event.delay_s:.2f} s: {event.error.code}"]
            case Completed(usage=usage, timings=timings, cost=cost):
                console.print()
                first_s, whole_s = timings.time_to_first_token_s or 0, timings.duration_s
                times = f"first one after {first_s:.2f} s, whole after {whole_s:.2f} s"
                said = [f"completed: {usage.output_tokens} tokens, {times}, {cost.amount if cost else '?'} USD"]
            case _:
                said = [event.type]
        console.print(Text.assemble(("event", "dim"), "  ", *said), soft_wrap=True)


async def _bill(console: Console, admin: AdminApi, provider_id: str) -> Table:
    """The provider's usage, as soon as both completions are booked. Raises DemoFailed when they are not in time."""
    deadline = time.monotonic() + _BOOKED_WITHIN_S
    with console.status("waiting for the ledger …"):
        while True:
            usage = await asyncio.to_thread(admin.get, f"llm-providers/{provider_id}/usage")
            if usage["totals"]["request_count"] - usage["totals"]["error_count"] >= 2:
                break
            if time.monotonic() > deadline:
                raise DemoFailed(f"the usage was not booked in time: {json.dumps(usage['totals'])}")
            await asyncio.sleep(0.1)
    columns = (Column("date"), name("model"), *map(number, ("requests", "errors", "tokens in", "out", "USD")))
    counts = ("request_count", "error_count", "prompt_tokens", "completion_tokens")
    rows = [
        [row["date"], row["model"], *(str(row[key]) for key in counts), row["total_cost"] or "unpriced"]
        for row in usage["items"]
    ]
    return Table(columns, rows)
