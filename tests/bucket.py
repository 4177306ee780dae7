"""A key-value bucket without a server, which answers as nats-server 2.15.1 does."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import nats.errors

from runtime.broker import Broker

MARKER = b""


class Bucket:
    """Stands for the connection and for the stream `KV_llm_health` behind it. Nobody is told of changes."""

    def __init__(self) -> None:
        self.on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self.client = self
        self.last: dict[str, tuple[int, bytes]] = {}
        self.sequence = 0
        self.headers: list[dict[str, str]] = []
        self.refusal: dict[str, Any] | None = None
        self.is_silent = False

    async def request(self, subject: str, value: bytes, *, timeout: float, headers: dict[str, str]) -> Any:
        if self.is_silent:
            raise nats.errors.TimeoutError
        return type("Answer", (), {"data": json.dumps(self._answer(subject, value, headers)).encode()})

    async def publish(self, subject: str, value: bytes, *, headers: dict[str, str]) -> None:
        if self.is_silent:
            raise nats.errors.ConnectionClosedError
        self._answer(subject, value, headers)

    def _answer(self, subject: str, value: bytes, headers: dict[str, str]) -> dict[str, Any]:
        self.headers.append(headers)
        if self.refusal is not None:
            return {"error": self.refusal, "seq": 0}
        last, _ = self.last.get(subject, (0, b""))
        expected = headers.get("Nats-Expected-Last-Subject-Sequence")
        if expected is not None and int(expected) != last:
            wrong = {"code": 400, "err_code": 10071, "description": f"wrong last sequence: {last}"}
            return {"error": wrong, "seq": 0}
        self.sequence += 1
        self.last[subject] = (self.sequence, value)
        return {"stream": "KV_llm_health", "seq": self.sequence}

    @property
    def broker(self) -> Broker:
        return cast(Broker, self)

    def expire(self, key: str) -> None:
        """The entry's TTL is over: a marker has taken its place."""
        self.sequence += 1
        self.last[f"$KV.llm_health.{key}"] = (self.sequence, MARKER)

    def forget(self, key: str) -> None:
        """The marker is gone, too."""
        del self.last[f"$KV.llm_health.{key}"]

    def value(self, key: str) -> bytes:
        return self.last[f"$KV.llm_health.{key}"][1]
