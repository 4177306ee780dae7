"""Whatever dies, every accepted request ends once, and every vendor call is booked: see tests/acceptance/chaos.

`FLEET_CHAOS_SEEDS=1,7,19` runs other seeds, each with a fault that lasts; `python -m tests.acceptance.chaos` runs many.
"""

import os
from pathlib import Path

import pytest

from contracts.events import Completed, Delta, Retrying, Started
from tests.acceptance.chaos import trial
from tests.acceptance.chaos.plan import VENDORS, draw, rolling_restart
from tests.acceptance.chaos.scene import WORKERS
from tests.acceptance.chaos.verdict import cut_by_a_stop

pytestmark = pytest.mark.slow

WANTED = os.environ.get("FLEET_CHAOS_SEEDS", "")
SEEDS = [int(seed) for seed in (WANTED or "1").split(",")]


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_lost_whatever_dies(seed: int, tmp_path: Path) -> None:
    by_hand = bool(WANTED)
    report = await trial.run(draw(seed, requests=240, long=by_hand, later=by_hand), tmp_path)

    assert not report.problems, str(report)


async def test_nothing_is_lost_by_a_handful_of_faults_and_all_ends_are_known_later(tmp_path: Path) -> None:
    report = await trial.run(draw(1001, requests=100, faults=6), tmp_path)

    assert not report.problems, str(report)
    assert sum("kill -9 nats" in fault for fault in report.faults) == 3  # twice in the trial, once after it
    assert all(one.resumed for one in report.seen)


async def test_restarting_one_process_after_the_other_loses_nothing_and_adds_no_error(tmp_path: Path) -> None:
    roles = {f"worker-{vendor}": WORKERS[vendor] for vendor in VENDORS} | {"usage": 1, "admin": 1}
    plan = rolling_restart(roles, requests=200)
    report = await trial.run(plan, tmp_path)

    assert not report.problems, str(report)
    assert len(report.faults) == sum(roles.values())
    retried = {one.request_id for one in report.seen if any(isinstance(event, Retrying) for event in one.events)}
    cut = cut_by_a_stop(report.calls, ends=report.ends)
    assert retried == {call.request_id for call in cut}, str(report)
    assert len(report.calls) == len(plan.asks) + len(cut), str(report)
    told = {type(event) for one in report.seen if one.request_id not in retried for event in one.events}
    assert told == {Started, Delta, Completed}, str(report)
