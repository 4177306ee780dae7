"""What a worker loads: no SDK, as long as it only streams."""

import subprocess
import sys

import pytest

from tests.contract.adapters.vendor import TRAITS

STREAMS_ONCE = """
import asyncio, gc, sys
import httpx2
from fleet.simulator import Simulator
from tests.contract.adapters.vendor import LOCAL, Vendor
from workers.providers import registry

async def main(provider):
    adapter = registry.load(provider, LOCAL)
    loaded = {"idle": set(sys.modules)}
    async with Simulator() as simulator:
        vendor = Vendor(adapter, simulator)
        assert (await vendor.complete()).message.content
        schema = {"type": "object", "properties": {"x": {"type": "string"}}}
        await vendor.complete(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
        loaded["streaming"] = set(sys.modules)
        clients = [made for made in gc.get_objects() if isinstance(made, (httpx2.AsyncClient, httpx2.Client))]
        assert not clients, clients
        if provider not in ("ollama", "azure"):
            await adapter.check_health(vendor.target())
            loaded["looking up"] = set(sys.modules)
        await adapter.aclose()
    for when, modules in loaded.items():
        print(when, *sorted({"openai", "anthropic", "google.genai", "ollama"} & modules))

asyncio.run(main(sys.argv[1]))
"""
LOOKS_UP_WITH = {"openai": "openai", "anthropic": "anthropic", "google": "google.genai"}


@pytest.mark.parametrize("provider", TRAITS)
def test_a_worker_that_streams_has_loaded_no_sdk(provider: str) -> None:
    """The look-up is there to show that an SDK would be seen."""
    run = subprocess.run(
        [sys.executable, "-c", STREAMS_ONCE, provider], capture_output=True, text=True, check=False, timeout=120
    )
    assert not run.returncode, run.stderr
    sdk = LOOKS_UP_WITH.get(provider)
    assert run.stdout.splitlines() == ["idle", "streaming", *([f"looking up {sdk}"] if sdk else [])]
