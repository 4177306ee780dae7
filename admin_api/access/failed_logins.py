"""Failed logins, limited for each source address: guessing tokens leads nowhere and costs the database nothing."""

from collections import OrderedDict
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import ceil

from admin_api.http.problems import Problem
from admin_api.http.rate_limiter import RateLimiter

FAILURES_PER_MINUTE = 10
_KNOWN_TOKENS = 10_000
_IPV6_PREFIX_BITS = 64
"""A subscriber is given a network of this size, so all its addresses count as one source (RFC 6177)."""


class FailedLoginLimiter:
    """Counts failed logins for each source address, and remembers the tokens that logged in lately.

    A remembered token is let in from anywhere, so that nobody who shares an address with a guesser is locked out.
    Tokens are remembered by their hash. Each process counts for itself.
    """

    def __init__(self, failures: RateLimiter) -> None:
        self._failures = failures
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def check(self, source: str, token_hash: bytes) -> None:
        """Raises a 429 problem when too many logins from `source` failed and the token is not a remembered one."""
        quota = self._failures.peek(_network(source))
        if not quota.allowed and token_hash not in self._known:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many tokens from this address were not recognised",
                headers={"Retry-After": str(ceil(quota.retry_after_s))},
            )

    def succeeded(self, token_hash: bytes) -> None:
        """Remembers a token that logged in; beyond 10,000 the one that did so longest ago is forgotten."""
        self._known[token_hash] = None
        self._known.move_to_end(token_hash)
        if len(self._known) > _KNOWN_TOKENS:
            self._known.popitem(last=False)

    def failed(self, source: str, token_hash: bytes) -> None:
        """Counts a failed login, and forgets its token: one that was revoked is remembered no more."""
        self._known.pop(token_hash, None)
        self._failures.take(_network(source))


def source_of(peer: str | None) -> str:
    """The address of a caller as it is logged. A trusted proxy may have passed on anything: what is no address is
    `unknown`."""
    try:
        return str(ip_address(peer or ""))
    except ValueError:
        return "unknown"


def _network(source: str) -> str:
    """What counts as one source: an IPv4 address, or the network of an IPv6 subscriber."""
    try:
        address: IPv4Address | IPv6Address = ip_address(source)
    except ValueError:
        return source
    if isinstance(address, IPv4Address):
        return source
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else str(int(address) >> (128 - _IPV6_PREFIX_BITS))
