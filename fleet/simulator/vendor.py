"""What a vendor's wire format gives to the server, which does the pacing, the faults and the ledger for all of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fleet.simulator.script import Script


@dataclass(frozen=True, slots=True)
class HttpRequest:
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Ask:
    """A completion that is asked for."""

    model: str
    stream: bool
    body: dict[str, Any]
    key: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream. What is output is paced and counted; the rest leaves with what is before it."""

    data: bytes
    is_output: bool = True


@dataclass(frozen=True, slots=True)
class Stated:
    """The tokens that an answer states."""

    input_tokens: int
    output_tokens: int


class Vendor(Protocol):
    name: str
    prefix: str
    """What a base URL ends with."""
    ping: bytes

    def answer(self, request: HttpRequest) -> HttpAnswer | Ask | None:
        """A lookup's answer, a completion to be scripted, or None: not this vendor's path."""
        ...

    def frames(self, ask: Ask, script: Script) -> Iterator[Frame]: ...

    def whole(self, ask: Ask, script: Script) -> bytes: ...

    def error(self, ask: Ask, script: Script) -> HttpAnswer: ...

    def error_frame(self, ask: Ask, script: Script) -> bytes: ...

    def stated(self, ask: Ask, script: Script) -> Stated | None: ...

    def stream_headers(self) -> Mapping[str, str]: ...
