"""Unit tests reach nothing outside their own process: a socket that is connected or bound fails the test."""

import socket
from typing import NoReturn

import pytest


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: socket.socket, address: object) -> NoReturn:
        raise AssertionError(f"a unit test opens a socket ({address}); it belongs to tests/integration")

    for call in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(socket.socket, call, refuse)
