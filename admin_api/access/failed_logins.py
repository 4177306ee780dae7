"""Callers who are not recognised: slowed down, so that guessing leads nowhere and costs the database nothing."""

from collections import OrderedDict
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import ceil

from admin_api.http.problems import Problem
from admin_api.http.rate_limiter import Pace

FAILURES_PER_MINUTE = 10
_KNOWN_TOKENS = 10_000
_IPV6_PREFIX_BITS = 64
"""What one subscriber is given."""


class Strangers:
    """Failures for each source address, and the tokens that were recognised lately: those come in from anywhere, so
    nobody locks others out who share an address.

    Each process counts for itself.
    """

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace(limit=FAILURES_PER_MINUTE)
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def check(self, source: str, token: bytes) -> None:
        """Raises a 429 problem when too many failures came from there. `token`: the hash of the presented one."""
        turn = self._pace.look(_network(source))
        if not turn.granted and token not in self._known:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many tokens from this address were not recognised",
                headers={"Retry-After": str(ceil(turn.wait_s))},
            )

    def recognised(self, token: bytes) -> None:
        self._known[token] = None
        self._known.move_to_end(token)
        if len(self._known) > _KNOWN_TOKENS:
            self._known.popitem(last=False)

    def refused(self, source: str, token: bytes) -> None:
        self._known.pop(token, None)
        self._pace.take(_network(source))


def source_of(peer: str | None) -> str:
    """The address of a caller as it is logged; a proxy that is trusted may have passed on anything."""
    try:
        return str(ip_address(peer or ""))
    except ValueError:
        return "unknown"


def _network(source: str) -> str:
    try:
        address: IPv4Address | IPv6Address = ip_address(source)
    except ValueError:
        return source
    if isinstance(address, IPv4Address):
        return source
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else str(int(address) >> (128 - _IPV6_PREFIX_BITS))
