"""Whatever dies, every accepted request ends once, and every vendor call is booked: see tests/acceptance/chaos.

`FLEET_CHAOS_SEEDS=1,7,19` runs other seeds; `python -m tests.acceptance.chaos` runs many.
"""

import os
from pathlib import Path

import pytest

from tests.acceptance.chaos import trial
from tests.acceptance.chaos.plan import draw

pytestmark = pytest.mark.slow

SEEDS = [int(seed) for seed in os.environ.get("FLEET_CHAOS_SEEDS", "1").split(",")]


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_lost_whatever_dies(seed: int, tmp_path: Path) -> None:
    report = await trial.run(draw(seed, requests=240), tmp_path)

    assert not report.problems, str(report)


async def test_nothing_is_lost_by_a_handful_of_faults(tmp_path: Path) -> None:
    report = await trial.run(draw(1001, requests=100, faults=6), tmp_path)

    assert not report.problems, str(report)
