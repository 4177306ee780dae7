"""What a vendor's format implements. The server does the pacing, the faults and the ledger for all of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fleet.simulator.request_body import BadBody
from fleet.simulator.script import Script


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that was read whole. `path` is unquoted, `query` is not; the names of `headers` are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer that is sent whole."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Ask:
    """A completion that is asked for. `key` and `request_id` are None when the request has none."""

    model: str
    stream: bool
    body: dict[str, Any]
    key: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of a stream. Output is paced and counted; anything else leaves together with what is before it."""

    data: bytes
    is_output: bool = True


@dataclass(frozen=True, slots=True)
class Stated:
    """The tokens that an answer states, as the vendor counts them."""

    input_tokens: int
    output_tokens: int


class Vendor(Protocol):
    """One vendor's format."""

    name: str
    prefix: str
    """What follows the simulator's address in a base URL for this vendor."""
    ping: bytes
    """A sign of life within a stream."""

    def answer(self, request: HttpRequest) -> HttpAnswer | Ask | None:
        """An answer where no script is needed, as for models or a refused key; an Ask for a completion, which its
        script decides; None when the path is not this vendor's. Raises BadBody."""
        ...

    def bad_request(self, fault: BadBody) -> HttpAnswer:
        """The 400 that the vendor sends for such a body."""
        ...

    def frames(self, ask: Ask, script: Script) -> Iterator[Frame]:
        """The events of a streamed completion."""
        ...

    def whole(self, ask: Ask, script: Script) -> bytes:
        """The body of a completion that is not streamed."""
        ...

    def error(self, ask: Ask, script: Script) -> HttpAnswer:
        """The answer that the script's `error` or `status` stands for."""
        ...

    def error_frame(self, ask: Ask, script: Script) -> bytes:
        """The same error as an event within a stream."""
        ...

    def stated(self, ask: Ask, script: Script) -> Stated | None:
        """The usage that the answer states; None when it states none."""
        ...

    def stream_headers(self) -> Mapping[str, str]:
        """The headers of a streamed completion."""
        ...
