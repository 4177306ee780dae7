"""Trials of many seeds, one after the other: `python -m tests.acceptance.chaos --seeds 20 [--first 1]`.

Prints a line for each seed, everything about those that failed, and where their logs are; exit code 1 if any did.
"""

import argparse
import asyncio
import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp

from tests.acceptance.chaos import trial
from tests.acceptance.chaos.plan import draw

REQUESTS = 300


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many trials")
    parser.add_argument("--first", type=int, default=1, help="the seed of the first one")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--plan", action="store_true", help="show what would happen, and do nothing")
    wanted = parser.parse_args()
    failed: list[int] = []
    for seed in range(wanted.first, wanted.first + wanted.seeds):
        plan = draw(seed, requests=wanted.requests)
        if wanted.plan:
            _say(plan)
            continue
        folder = Path(mkdtemp(prefix=f"fleet-chaos-{seed}-"))
        report = asyncio.run(trial.run(plan, folder))
        if report.problems:
            failed.append(seed)
            _say(f"{report}\n  logs: {folder / 'state' / 'logs'}")
        else:
            _say(str(report).partition("\n")[0])
            shutil.rmtree(folder)
    _say(f"{wanted.seeds - len(failed)} of {wanted.seeds} seeds passed; failed: {failed or 'none'}")
    return 1 if failed else 0


def _say(what: object) -> None:
    print(what, flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    sys.exit(main())
