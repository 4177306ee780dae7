"""A worker that may write nowhere and is nobody, as in its container."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fleet.client import Client
from fleet.local.launch import become
from tests.kit import plane, worker_process
from tests.servers import Vault

CAP_DAC_READ_SEARCH = 2
ROOT = Path(__file__).resolve().parents[2]


def confined() -> None:
    """In the process that is to be: no regular file grows, and root is nobody, who may read what root may."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if os.geteuid() == 0:
        become("nobody", keeping=CAP_DAC_READ_SEARCH)


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "unwritable"
    folder.mkdir(mode=0o555)
    yield folder
    assert list(folder.iterdir()) == []
    folder.chmod(0o755)


async def test_a_worker_serves_although_it_can_write_nothing(
    nats_url: str, vault: Vault, tenant: str, unwritable: Path
) -> None:
    how = {"cwd": unwritable, "preexec_fn": confined}
    there = {"HOME": str(unwritable), "TMPDIR": str(unwritable), "PYTHONPATH": str(ROOT)}
    async with (
        plane(nats_url, vault, tenant) as control,
        worker_process(nats_url, vault, "mock", how, **there) as process,
    ):
        await control.put_tenant()
        await control.put_provider("mock")
        async with Client(nats_url, tenant=tenant) as client:
            assert (await client.complete("mock/echo", "Hi")).finish_reason == "stop"
        assert psutil.Process(process.pid).uids().effective != 0
