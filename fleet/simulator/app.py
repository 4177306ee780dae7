"""The simulator as a process of its own."""

import asyncio
import json
import os
from pathlib import Path

from fleet.simulator.server import Simulator
from runtime import role


def main(*, port: int = 0, host: str = "127.0.0.1", ready_file: Path | None = None) -> int:
    """Serves until SIGTERM or SIGINT. `ready_file` gets `{"url", "pid"}` when it answers."""

    async def serve(stop: asyncio.Event) -> None:
        async with Simulator(host=host, port=port) as simulator:
            if ready_file:
                _write(ready_file, {"url": simulator.url, "pid": os.getpid()})
            print(simulator.url, flush=True)  # noqa: T201 - what the person who started it needs
            await stop.wait()

    return role.run(serve)


def _write(path: Path, content: dict[str, str | int]) -> None:
    """At once and whole, so that no reader sees a half."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(json.dumps(content))
    draft.replace(path)
