"""The simulator as a process of its own: `fleet simulator`, and `python -m fleet.simulator`."""

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
                draft = ready_file.with_name(f"{ready_file.name}.draft")
                draft.write_text(json.dumps({"url": simulator.url, "pid": os.getpid()}))
                draft.replace(ready_file)  # so that no reader sees half of it
            print(simulator.url, flush=True)  # noqa: T201 - what the person who started it needs
            await stop.wait()

    return role.run(serve)
