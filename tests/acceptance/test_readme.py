"""The programs in README.md and docs/simulator.md, run as a reader would run them."""

import asyncio
import shlex
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from fleet.simulator import Simulator
from tests import pages
from tests.acceptance import running
from tests.acceptance.running import RunningStack, clean_environment, pools, running_stack

pytestmark = pytest.mark.slow

PROGRAMS = pages.blocks((pages.ROOT / "README.md").read_text(), "python")
SIMULATOR = "docs/simulator.md"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("readme"), *pools(mock=1, openai=1)) as running:
        (running.ready_file.parent / "fleet.json").symlink_to(running.ready_file)
        yield running


def run(program: str, stack: RunningStack) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=stack.ready_file.parent,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=running.PATIENCE_S,
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


def test_the_mock_does_as_its_script_says(stack: RunningStack) -> None:
    (program,) = pages.blocks(pages.section(SIMULATOR, "## The provider `mock`"), "python")
    events = run(program, stack).split()
    assert events[:3] == ["started", "retrying", "started"]
    assert events[3:] == ["delta"] * 3 + ["completed"]


async def test_the_simulator_becomes_a_vendor_of_the_demo_tenant(stack: RunningStack) -> None:
    block, *_ = pages.blocks(pages.section(SIMULATOR, "## The simulator"), "sh")
    variables = {"LLM_ADMIN_TOKEN": stack.ready["admin_token"], "LLM_ADMIN_URL": stack.ready["admin_url"]}
    async with Simulator() as simulator, httpx.AsyncClient() as http:
        setting, calling, chatting = pages.lines(block.replace("http://127.0.0.1:9900", simulator.url))
        assert setting == f"SIMULATOR={simulator.url}"
        add = pages.call(calling, variables)
        assert (await http.request(add.method, add.url, headers=add.headers, content=add.body)).status_code == 201
        fleet, *chat = shlex.split(chatting)
        assert fleet == "fleet"
        state = str(stack.ready_file.parent / "state")
        answered = await asyncio.to_thread(running.run, *chat, "--state", state)
        assert answered.stdout == "You said: Hello\n", answered.stderr
        assert simulator.ledger.entries[-1].model == "gpt-4o-mini"


def test_there_is_no_program_that_is_not_tried() -> None:
    assert len(PROGRAMS) == 2
