"""Where an adapter connects, whatever a tenant names: checked on the address that is connected to."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from contracts.errors import ErrorCode, FleetError, UnsupportedFeature
from contracts.providers import Endpoint
from fleet.simulator import Simulator
from fleet.simulator.tcp import listening
from runtime.egress import Egress
from runtime.networks import Address, parse_networks
from tests.contract.adapters.vendor import LOCAL, PATIENT, TRAITS, Vendor
from tests.ports import free_port
from workers.providers import registry
from workers.providers.base import Target

ANYWHERE = parse_networks("0.0.0.0/0, ::/0")


class Names:
    """A resolver that answers differently each time, and the last answer from then on."""

    def __init__(self, *answers: str) -> None:
        self.asked: list[str] = []
        self._answers = [[ip_address(address) for address in answer.split()] for answer in answers]

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@asynccontextmanager
async def reaching(provider: str, simulator: Simulator, egress: Egress) -> AsyncGenerator[Vendor]:
    adapter = registry.load(provider, egress)
    try:
        yield Vendor(adapter, simulator)
    finally:
        await adapter.aclose()


def named(host: str, vendor: Vendor) -> str:
    """The simulator's base URL with another host."""
    parts = urlsplit(vendor.simulator.base_url(vendor.name))
    return parts._replace(netloc=f"{host}:{parts.port}").geturl()


def refused(error: FleetError, *, host: str) -> bool:
    """Whether it says so for good, names what the tenant named, and no address behind it."""
    assert "LLM_ALLOWED_PRIVATE_NETWORKS" in error.message
    assert host in error.message
    assert host == "127.0.0.1" or "127.0.0.1" not in error.message
    return error.code is ErrorCode.NO_PROVIDER and not error.retryable


@pytest.mark.parametrize("provider", TRAITS)
async def test_no_adapter_reaches_the_loopback_unless_it_is_allowed(provider: str, simulator: Simulator) -> None:
    async with reaching(provider, simulator, Egress()) as vendor:
        _, error = await vendor.fails()
        with pytest.raises(FleetError) as health:
            await vendor.adapter.check_health(vendor.target())
    assert refused(error, host="127.0.0.1")
    assert refused(health.value, host="127.0.0.1")
    assert not simulator.ledger.entries


@pytest.mark.parametrize("provider", TRAITS)
async def test_a_name_that_turns_to_another_address_is_refused(provider: str, simulator: Simulator) -> None:
    """The one address that is allowed stands for a public one."""
    egress = Egress(parse_networks("127.0.0.1"), resolve=Names("127.0.0.1", "127.0.0.2"))
    async with reaching(provider, simulator, egress) as vendor:
        target = vendor.target(base_url=named("rebind.example", vendor))
        await vendor.complete(target=target)
        await vendor.adapter.aclose()
        _, error = await vendor.fails(target=target)
    assert refused(error, host="rebind.example")
    assert len(simulator.ledger.entries) == 1


@pytest.mark.parametrize("provider", TRAITS)
async def test_a_name_is_connected_to_at_the_address_that_passed(provider: str, simulator: Simulator) -> None:
    """Were it resolved again to connect, the request would go nowhere."""
    names = Names("169.254.169.254 10.0.0.1 127.0.0.1", "127.0.0.3")
    async with reaching(provider, simulator, Egress(parse_networks("127.0.0.0/8"), resolve=names)) as vendor:
        await vendor.complete(target=vendor.target(base_url=named("vendor.example", vendor)))
        assert simulator.ledger.headers[-1]["host"] == urlsplit(named("vendor.example", vendor)).netloc
    assert names.asked == ["vendor.example"]


@pytest.mark.parametrize("provider", TRAITS)
async def test_the_metadata_service_is_refused_where_every_network_is_allowed(
    provider: str, simulator: Simulator
) -> None:
    async with reaching(provider, simulator, Egress(ANYWHERE)) as vendor:
        _, error = await vendor.fails(target=vendor.target(base_url="http://169.254.169.254/v1"))
    assert refused(error, host="169.254.169.254")


async def test_entra_id_is_asked_for_a_token_at_allowed_addresses_only(simulator: Simulator) -> None:
    credentials = {
        "tenant_id": "contoso.example",
        "client_id": "0a1b-2c3d",
        "client_secret": "a-secret",
        "authority": "https://login.example",
    }
    endpoint = Endpoint(base_url=simulator.url, auth="entra_id")
    target = Target(endpoint=endpoint, timeouts=PATIENT, key=SecretStr(json.dumps(credentials)))
    async with reaching("azure", simulator, Egress(resolve=Names("169.254.169.254"))) as vendor:
        _, error = await vendor.fails(target=target)
    assert refused(error, host="login.example")


@pytest.mark.parametrize("provider", TRAITS)
async def test_what_fails_at_a_private_address_does_not_show_it(provider: str, simulator: Simulator) -> None:
    egress = Egress(parse_networks("127.0.0.0/8"), resolve=Names("127.0.0.1"))
    async with reaching(provider, simulator, egress) as vendor:
        base_url = f"http://inside.example:{free_port()}"
        _, error = await vendor.fails(target=vendor.target(base_url=base_url))
    assert error.code is ErrorCode.PROVIDER_UNAVAILABLE
    assert "inside.example" in error.message
    assert "127.0.0.1" not in error.message


async def test_a_server_that_is_gone_is_tried_at_its_next_address(simulator: Simulator) -> None:
    egress = Egress(parse_networks("127.0.0.0/8"), resolve=Names("127.0.0.2 127.0.0.1"))
    async with reaching("openai", simulator, egress) as vendor:
        await vendor.complete(target=vendor.target(base_url=named("vendor.example", vendor)))
    assert len(simulator.ledger.entries) == 1


@pytest.mark.parametrize("provider", TRAITS)
async def test_an_image_by_its_url_is_the_vendors_to_fetch(provider: str, simulator: Simulator) -> None:
    visits: list[asyncio.StreamWriter] = []

    async def note(_: asyncio.StreamReader, visit: asyncio.StreamWriter) -> None:
        visits.append(visit)

    async with listening(note) as port, reaching(provider, simulator, LOCAL) as vendor:
        url = f"http://127.0.0.1:{port}/picture.png"
        content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
        with suppress(UnsupportedFeature):
            await vendor.complete(messages=[{"role": "user", "content": content}])
            assert url in json.dumps(vendor.body)
    assert visits == []
