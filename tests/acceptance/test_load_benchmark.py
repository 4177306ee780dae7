"""The load benchmark runs: with two streams, and without judging any time."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.repository import ROOT

pytestmark = pytest.mark.slow

WITHIN_S = 400
SCENARIOS = ("unstreamed", "fast", "streams-100")
FIGURES = (
    "100 streams: share kept up",
    "100 streams: gap between tokens p99, ms",
    "100 streams: CPU µs a token, worker",
    "100 streams: CPU µs a token, all of it",
    "as fast as the vendor sends: CPU µs a token, all of it",
    "unstreamed, 32 at once: requests/s",
    "memory idle, MB",
)


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The table, and what is in the file."""
    file = tmp_path_factory.mktemp("load") / "load.json"
    asked = ["--quick", "--callers", "2", "--only", ",".join(SCENARIOS), "--gateways", "direct,fleet", "--markdown"]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *asked, "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, json.loads(file.read_text())


def test_every_reply_was_whole(answer: tuple[str, dict[str, Any]]) -> None:
    runs = [run for run in answer[1]["runs"] if run["gateway"] == "fleet"]
    assert [run["scenario"] for run in runs] == list(SCENARIOS)
    assert all(run["requests"] > 0 for run in runs)
    assert all(run["errors"] == {} for run in answer[1]["runs"])


@pytest.mark.parametrize("title", FIGURES)
def test_the_table_has_its_figures(answer: tuple[str, dict[str, Any]], title: str) -> None:
    table, facts = answer
    rows = {cells[1]: cells[3] for line in table.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 3}
    assert float(rows[title].rstrip("!~").replace(",", "")) > 0
    assert facts["figures"][title]["fleet"] > 0


def test_only_the_measured_parts_have_the_core(answer: tuple[str, dict[str, Any]]) -> None:
    """What a gateway used is that of its worker and of nats-server, each with its own share."""
    for run in answer[1]["runs"]:
        if run["gateway"] == "fleet":
            parts = run["cpu_s"]
            assert parts["all"] == pytest.approx(parts["worker"] + parts["nats"], abs=0.01)
            assert parts["worker"] > 0
