"""How a server of NATS is named in messages."""

import pytest

from contracts.nats_connect import address


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://127.0.0.1:4222", "127.0.0.1:4222"),
        ("tls://nats.example", "nats.example:4222"),
        ("nats.example:7222", "nats.example:7222"),
        ("nats://acme:2468@nats.example:1, nats://other:2", "nats.example:1, other:2"),
        ("nats://acme:2468#x@nats.example:1", "nats.example:1"),
        ("nats://acme:2468/x@nats.example:1", "nats.example:1"),
        ("nats://acme:2468?x@nats.example:1", "nats.example:1"),
        ("nats://s3cret#token@nats.example:1", "nats.example:1"),
        ("nats://acme:24@68@nats.example:1", "nats.example:1"),
        ("nats://acme:2468@nats.example:port", "nats.example:port"),
    ],
)
def test_a_server_is_named_without_its_credentials(url: str, shown: str) -> None:
    assert address(url) == shown
