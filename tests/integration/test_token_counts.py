"""Counts of tokens that a pool makes by itself, from a worker in its own process."""

import json
from collections.abc import Callable

import psutil
import pytest

from tests.kit import plane, worker_process
from tests.patience import PATIENCE_S, until
from tests.servers import Vault

ASK = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}).encode()


def has_vocabulary(pid: int) -> Callable[[], bool]:
    """Whether the process has loaded the library that counts: the last thing that the vocabulary needs."""
    process = psutil.Process(pid)
    return lambda: any("bpe_openai" in mapped.path for mapped in process.memory_maps())


@pytest.mark.parametrize("provider", ["openai", "azure"])
async def test_the_vocabulary_is_there_before_anybody_asks(
    nats_url: str, vault: Vault, tenant: str, provider: str
) -> None:
    config = {"base_url": "https://example.org"} if provider == "azure" else {}
    async with (
        plane(nats_url, vault, tenant) as control,
        worker_process(nats_url, vault, provider) as process,
    ):
        await until(has_vocabulary(process.pid))
        await control.put_tenant()
        await control.put_provider(provider, config, key="sk-0123456789abcdef")

        answer = await control.client.request(f"llm.v1.rpc.{provider}.count_tokens.{tenant}", ASK, timeout=PATIENCE_S)

    assert json.loads(answer.data) == {"input_tokens": 8, "exact": True}


async def test_a_pool_that_counts_otherwise_loads_none(nats_url: str, vault: Vault) -> None:
    async with worker_process(nats_url, vault, "mock") as process:
        assert not has_vocabulary(process.pid)()
