"""`fleet demo`: what somebody sees who has just cloned the repository."""

from pathlib import Path

import pytest

from tests.acceptance.running import run

pytestmark = pytest.mark.slow


def test_shows_a_stream_a_retry_and_the_bill_and_leaves_nothing(tmp_path: Path) -> None:
    shown = run("demo", timeout_s=300, env={"TMPDIR": str(tmp_path)})

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stdout.count("completed:") == 2
    assert "retrying" in shown.stdout
    assert "0.0000" in shown.stdout.split("what it cost")[1]
    assert list(tmp_path.iterdir()) == []
