"""The programs in README.md, run as a reader would run them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.running import RunningStack, clean_environment, running_stack

pytestmark = pytest.mark.slow

README = (Path(__file__).parents[2] / "README.md").read_text()
PROGRAMS = re.findall(r"(?ms)^```python\n(.*?)^```", README)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("readme")) as running:
        (running.ready_file.parent / "fleet.json").symlink_to(running.ready_file)
        yield running


def run(program: str, stack: RunningStack) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=stack.ready_file.parent,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_client_streams_and_completes(stack: RunningStack) -> None:
    lines = run(PROGRAMS[0], stack).splitlines()
    assert lines[0] == "You said: Hello"
    assert lines[1].endswith(" tokens")
    assert lines[2] == "You said: And again"


def test_raw_nats_is_enough(stack: RunningStack) -> None:
    lines = run(PROGRAMS[1], stack).splitlines()
    assert "'type': 'started'" in lines[0]
    assert "'type': 'completed'" in lines[-1]
    assert "You said: Hello" in lines[-1]


def test_there_is_no_program_that_is_not_tried() -> None:
    assert len(PROGRAMS) == 2
