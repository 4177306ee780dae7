"""Trials of many seeds, one after the other: `python -m tests.acceptance.chaos --seeds 20 [--first 1]`.

Each has a fault that lasts: a full disk, or PostgreSQL away for an hour. `--leaders` runs the seeds on three nodes of
NATS, whose leaders die one after the other. `--walls` kills every process of every role in turn instead, twice, under
200 streams each time.

Prints a line for each trial, everything about those that failed, and where their logs are; exit code 1 if any did. Each
vendor call that has no row is printed with how it got lost.
"""

import argparse
import asyncio
import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp

from tests.acceptance.chaos import trial
from tests.acceptance.chaos.cluster import LEADERS
from tests.acceptance.chaos.plan import VENDORS, Plan, draw, kill_everything, kill_leaders
from tests.acceptance.chaos.scene import WORKERS

REQUESTS = 300
KILLED_REQUESTS, KILLED_TIMES = 200, 2
KILLED = {
    **{f"worker-{vendor}": WORKERS[vendor] for vendor in VENDORS},
    **dict.fromkeys(("usage", "admin", "nats", "vault", "postgres"), 1),
}
"""How many processes of each role."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many trials")
    parser.add_argument("--first", type=int, default=1, help="the seed of the first one")
    parser.add_argument("--requests", type=int, default=REQUESTS)
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--walls", action="store_true", help="kill -9 of every role in turn, in place of seeds")
    other.add_argument("--leaders", action="store_true", help="three nodes of NATS, whose leaders are killed in turn")
    parser.add_argument("--plan", action="store_true", help="show what would happen, and do nothing")
    wanted = parser.parse_args()
    if wanted.walls:
        plans = [kill_everything(KILLED, requests=KILLED_REQUESTS)] * KILLED_TIMES
    else:
        seeds = range(wanted.first, wanted.first + wanted.seeds)
        if wanted.leaders:
            plans = [kill_leaders(seed, LEADERS, requests=wanted.requests) for seed in seeds]
        else:
            plans = [draw(seed, requests=wanted.requests, long=True) for seed in seeds]
    if wanted.plan:
        for plan in plans:
            _say(plan)
        return 0
    reports = [_run(plan) for plan in plans]
    calls, rows = sum(len(report.calls) for report in reports), sum(report.rows for report in reports)
    lost = sum(len(report.missing) for report in reports)
    _say(f"{calls} vendor calls, {rows} rows, {lost} calls without one")
    failed = [report.plan.seed for report in reports if report.problems]
    _say(f"{len(reports) - len(failed)} of {len(reports)} trials passed; failed seeds: {failed or 'none'}")
    return 1 if failed else 0


def _run(plan: Plan) -> trial.Report:
    folder = Path(mkdtemp(prefix=f"fleet-chaos-{plan.seed}-"))
    report = asyncio.run(trial.run(plan, folder))
    _say(report if report.problems or report.missing else str(report).partition("\n")[0])
    if report.problems:
        _say(f"  logs: {folder} and {folder / 'state' / 'logs'}")
    else:
        shutil.rmtree(folder)
    return report


def _say(what: object) -> None:
    print(what, flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    sys.exit(main())
