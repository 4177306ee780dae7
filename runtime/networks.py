"""Which addresses a URL of a tenant may reach: public ones, and the private ones that an operator allows.

Pure: names are not resolved here. Who connects asks `is_allowed` again about the address that a name resolved to, see
runtime.egress.
"""

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_LOOPBACK = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
"""RFC 8215: where its addresses lead, only the network's operator knows. Public to older versions of `ipaddress`."""
_METADATA = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # AWS, Azure, Google, Oracle, DigitalOcean, OpenStack, Hetzner
            "169.254.170.2",  # AWS: credentials of ECS tasks
            "169.254.170.23",  # AWS: credentials of EKS pods
            "fd00:ec2::254",  # AWS, by IPv6
            "fd00:ec2::23",  # AWS: credentials of EKS pods, by IPv6
            "fd20:ce::254",  # Google, by IPv6
            "168.63.129.16",  # Azure's WireServer: a public address that leads to the host
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle, the classic one
        ),
    )
)
"""Where a cloud hands its machines their credentials."""
_LEGACY_IPV4 = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}", re.IGNORECASE)
"""What resolvers still read as an IPv4 address: `127.1`, `2130706433`, `0x7f.0.0.1`, `0177.0.0.1`."""


class ForbiddenAddress(Exception):
    """A URL leads into a private network that is not allowed. The message names the host only, never its address."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"{host} is, or resolves to, a private, loopback, metadata or reserved address; "
            "an operator can allow its network with LLM_ALLOWED_PRIVATE_NETWORKS"
        )


def parse_networks(text: str) -> tuple[Network, ...]:
    """Comma-separated CIDRs; a bare address is a network of one. Raises ValueError."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def check_base_url(url: str, *, allowed: Sequence[Network]) -> None:
    """Raises ForbiddenAddress when the URL's host is a literal address, or localhost, outside of what is allowed."""
    host = urlsplit(url).hostname or ""
    addresses = literal_addresses(host)
    if addresses and not any(is_allowed(address, allowed=allowed) for address in addresses):
        raise ForbiddenAddress(host)


def is_allowed(address: Address, *, allowed: Sequence[Network]) -> bool:
    """Whether a tenant may have this address called. A metadata service must be allowed by its own address."""
    inner = _embedded(address)
    if inner in _METADATA:
        return any(network.num_addresses == 1 and inner in network for network in allowed)
    is_local = isinstance(inner, IPv6Address) and (inner.is_site_local or inner in _LOCAL_NAT64)
    if inner.is_global and not (inner.is_multicast or inner.is_reserved or is_local):
        return True
    return any(inner in network or address in network for network in allowed)


def literal_addresses(host: str) -> tuple[Address, ...]:
    """The addresses that a host stands for without asking a resolver; none for a name."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return _LOOPBACK
    try:
        return (ip_address(name),)
    except ValueError:
        pass
    if not _LEGACY_IPV4.fullmatch(name):
        return ()
    try:
        return (IPv4Address(socket.inet_aton(name)),)
    except OSError:
        return ()


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address carries, where it is one that leads there."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour or address
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address
