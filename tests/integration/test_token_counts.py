"""Counts of tokens that a pool makes by itself, from a worker in its own process."""

import json

import psutil
import pytest

from tests.kit import plane, worker_process
from tests.patience import PATIENCE_S, until
from tests.servers import Vault

ASK = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}).encode()


def has_vocabulary(process: psutil.Process) -> bool:
    """Whether the process has loaded the library that counts: the last thing that the vocabulary needs."""
    return any("bpe_openai" in mapped.path for mapped in process.memory_maps())


@pytest.mark.parametrize("provider", ["openai", "azure"])
async def test_a_pool_counts_in_a_process_that_goes_with_it(
    nats_url: str, vault: Vault, tenant: str, provider: str
) -> None:
    config = {"base_url": "https://example.org"} if provider == "azure" else {}
    async with (
        plane(nats_url, vault, tenant) as control,
        worker_process(nats_url, vault, provider) as process,
    ):
        worker = psutil.Process(process.pid)
        await control.put_tenant()
        await control.put_provider(provider, config, key="sk-0123456789abcdef")
        assert not worker.children()

        answer = await control.client.request(f"llm.v1.rpc.{provider}.count_tokens.{tenant}", ASK, timeout=PATIENCE_S)

        (counting,) = worker.children()
        assert has_vocabulary(counting)
        assert not has_vocabulary(worker)
        process.kill()
        await until(lambda: not counting.is_running() or counting.status() == psutil.STATUS_ZOMBIE)

    assert json.loads(answer.data) == {"input_tokens": 8, "exact": True}
