"""Which literal addresses a provider's base_url may name."""

from ipaddress import ip_address

import pytest

from runtime.networks import ForbiddenAddress, check_base_url, is_allowed, literal_addresses, parse_networks


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.8.9.10",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "0x7f000001",
        "0177.0.0.1",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[fd00::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[2002:7f00:1::]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[::127.0.0.1]",
        "[2001::7f00:1]",
        "[2002:a9fe:a9fe::]",
        "[fd00:ec2::254]",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.2.1",
        "198.18.0.1",
    ],
)
def test_refuses_private_addresses_however_they_are_written(host: str) -> None:
    with pytest.raises(ForbiddenAddress, match="LLM_ALLOWED_PRIVATE_NETWORKS"):
        check_base_url(f"https://{host}:8443/v1", allowed=())


@pytest.mark.parametrize(
    "host",
    [
        "api.openai.com",
        "8.8.8.8",
        "[2606:4700::1111]",
        "[64:ff9b::808:808]",
        "my-ollama",
        "10.example.com",
        "1.2.3.4.5",
    ],
)
def test_lets_public_addresses_and_names_pass(host: str) -> None:
    check_base_url(f"https://{host}/v1", allowed=())


@pytest.mark.parametrize(
    ("host", "networks"),
    [
        ("127.0.0.1", "127.0.0.0/8"),
        ("localhost", "127.0.0.0/8"),
        ("localhost", "::1/128"),
        ("192.168.1.20", "10.0.0.0/8, 192.168.1.0/24"),
        ("192.168.1.20", "192.168.1.20"),
        ("[fd00::5]", "fd00::/8"),
        ("[::ffff:127.0.0.1]", "127.0.0.0/8"),
    ],
)
def test_lets_private_addresses_of_allowed_networks_pass(host: str, networks: str) -> None:
    check_base_url(f"http://{host}:11434", allowed=parse_networks(networks))


METADATA = ("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "fd00:ec2::254")


@pytest.mark.parametrize("address", [*METADATA, "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"])
@pytest.mark.parametrize("networks", ["", "0.0.0.0/0,::/0", "169.254.0.0/16,168.63.129.0/24", "169.254.169.252/30"])
def test_a_network_that_is_allowed_does_not_allow_its_metadata_service(address: str, networks: str) -> None:
    assert not is_allowed(ip_address(address), allowed=parse_networks(networks))


@pytest.mark.parametrize("address", METADATA)
def test_a_metadata_service_is_allowed_by_its_own_address(address: str) -> None:
    assert is_allowed(ip_address(address), allowed=parse_networks(address))


def test_an_allowed_network_allows_nothing_else() -> None:
    with pytest.raises(ForbiddenAddress):
        check_base_url("http://192.168.2.1", allowed=parse_networks("192.168.1.0/24"))


def test_a_name_stands_for_no_literal_address() -> None:
    assert literal_addresses("internal.example.com") == ()


def test_judges_resolved_addresses_too() -> None:
    assert not is_allowed(ip_address("10.0.0.1"), allowed=())
    assert is_allowed(ip_address("10.0.0.1"), allowed=parse_networks("10.0.0.0/8"))


@pytest.mark.parametrize("text", ["10.0.0.1/8", "everything", "10.0.0.0/33"])
def test_refuses_networks_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_networks(text)


def test_no_networks_are_none() -> None:
    assert parse_networks(" , ") == ()
