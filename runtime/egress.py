"""HTTP to addresses that tenants name: vendors, identity providers, webhooks. Guarded where a connection is made.

A name is resolved, each of its addresses is judged (runtime.networks), and the connection goes to an address that
passed, so that a name which resolves differently a moment later leads nowhere else. The name stays what TLS and the
`Host` header show. Redirects are not followed, and no proxy is taken from the environment: it would do the connecting.

Whoever answers may be hostile: what is read of a response is bounded in each piece (runtime.paced_stream,
runtime.content_coding), in all, and in its share of the event loop (runtime.fair_queue).
"""

import asyncio
import logging
import os
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

import httpcore2
import httpx2

from runtime.content_coding import ACCEPTED, UndecodableBody, unpacked, window_bits
from runtime.fair_queue import FairQueue, Flow
from runtime.networks import Address, ForbiddenAddress, Network, is_allowed
from runtime.paced_stream import MAX_UNREAD_BYTES, PacedStream

log = logging.getLogger(__name__)

STAGGER_S = 0.25
"""RFC 8305: when an address has not answered for so long, the next one is tried beside it."""
MAX_CONNECTIONS = 1000
MAX_IDLE_CONNECTIONS = 100
IDLE_CONNECTION_S = 30
MAX_BODY_BYTES = 8 * 1024**2
"""Of a body that is read as a whole: a list of models, a count of tokens. The longest lists have 1 MB and grow."""
MAX_ERROR_BYTES = 64 * 1024
"""Of the body of an error; what is longer is cut. A long message may stand before the code that decides what follows,
where a server shows the prompt that it refuses."""
CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "latin1", "windows-1252"})
"""What bodies may say they are written in. Some of Python's codecs take minutes for what others read at once
(`punycode`); whatever else is said, a body is read as UTF-8."""

_NAMED_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w.:-]{1,40})""", re.IGNORECASE)
_CONTENT_TYPE_CHARS = 256
"""Of a longer Content-Type the rest is not looked at: Python's parser of it takes a minute for 128 KiB, and raises."""

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
"""The addresses of a host's name. Raises OSError when it has none."""
C = TypeVar("C")
P = TypeVar("P", bound=asyncio.Protocol)


class NotConnected(Exception):
    """There is no connection to a host; says why, without an address behind its name."""


class Egress:
    """Makes HTTP clients that reach public addresses, and those private ones that an operator allows."""

    def __init__(self, allowed: Sequence[Network] = (), *, resolve: Resolve | None = None) -> None:
        self.tls = httpx2.create_ssl_context()
        """Shared, because each one takes some 30 ms and 1 MB."""
        self.tls.set_alpn_protocols(["http/1.1"])
        self._allowed = allowed
        self._resolve = resolve or resolved
        self._turns = FairQueue()
        self._network = GuardedNetwork(allowed, resolve=self._resolve, turns=self._turns)

    def client(
        self,
        *,
        base_url: str = "",
        headers: Mapping[str, str] | None = None,
        timeout: httpx2.Timeout | float | None = None,
        tenant: str = "",
    ) -> httpx2.AsyncClient:
        """Its requests raise ForbiddenAddress besides what httpx2 raises, or an error of an SDK that it is a cause of.

        `timeout` None: the caller bounds the whole call. `tenant`: who has chosen the address, and shares the event
        loop with others.
        """
        return httpx2.AsyncClient(
            base_url=base_url,
            headers={"Accept-Encoding": ACCEPTED, **(headers or {})},
            timeout=timeout,
            transport=_Transport(self.tls, self._network.of(tenant)),
            follow_redirects=False,
            trust_env=False,
        )

    async def connect(self, protocol: Callable[[], P], host: str, port: int, *, tls: bool, timeout_s: float) -> P:
        """A protocol that is connected to an allowed address of the host: the first one that answers. With `tls` the
        server has shown a certificate for the host.

        `host` is a name in ASCII, or an address without brackets. Raises ForbiddenAddress, NotConnected.
        """
        try:
            async with asyncio.timeout(timeout_s):
                addresses = permitted(host, await self._resolve(host, port), allowed=self._allowed)
                connected = await _first_to_connect(partial(_connected, port=port), addresses, close=_close)
                return await _begun(protocol, connected, tls=self.tls if tls else None, host=host)
        except TimeoutError:
            raise NotConnected(f"no connection within {timeout_s:g} s") from None
        except OSError as exc:
            raise NotConnected(_reason(exc)) from None

    def flow(self, tenant: str) -> Flow:
        """A share of the event loop for what is done with a reply for `tenant`, beyond reading it."""
        return Flow(self._turns, tenant)


class GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to allowed addresses only, and reads at a pace that leaves the event loop to others."""

    def __init__(self, allowed: Sequence[Network], *, resolve: Resolve, turns: FairQueue, tenant: str = "") -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._turns = turns
        self._tenant = tenant
        self._network: httpcore2.AsyncNetworkBackend = httpcore2.AnyIOBackend()  # pyright: ignore[reportAttributeAccessIssue] - it declares a stand-in, too

    def of(self, tenant: str) -> "GuardedNetwork":
        """The same for connections of a tenant."""
        return GuardedNetwork(self._allowed, resolve=self._resolve, turns=self._turns, tenant=tenant)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """The first connection to an allowed address of the host, within `timeout` seconds; None waits without end.

        Raises ForbiddenAddress, httpcore2.ConnectError, httpcore2.ConnectTimeout.
        """

        async def connect(address: Address) -> httpcore2.AsyncNetworkStream:
            return await self._network.connect_tcp(
                str(address), port, local_address=local_address, socket_options=socket_options
            )

        try:
            async with asyncio.timeout(timeout):
                addresses = permitted(host, await self._resolve(host, port), allowed=self._allowed)
                made = await _first_to_connect(connect, addresses, close=httpcore2.AsyncNetworkStream.aclose)
        except TimeoutError:
            raise httpcore2.ConnectTimeout(f"no connection within {timeout} s") from None
        except (OSError, httpcore2.ConnectError) as exc:
            raise httpcore2.ConnectError(_reason(exc)) from None
        return PacedStream(made, Flow(self._turns, self._tenant))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def permitted(host: str, addresses: Sequence[Address], *, allowed: Sequence[Network]) -> list[Address]:
    """Those of a host's addresses that may be called. Raises ForbiddenAddress when there is none."""
    passed = [address for address in addresses if is_allowed(address, allowed=allowed)]
    if not passed:
        log.warning("address_refused", extra={"host": host, "addresses": [str(address) for address in addresses]})
        raise ForbiddenAddress(host)
    return passed


def forbidden_address(exc: BaseException | None) -> ForbiddenAddress | None:
    """The ForbiddenAddress that an SDK's connection error was raised from; None when the cause is another one."""
    while exc is not None and not isinstance(exc, ForbiddenAddress):
        exc = exc.__cause__
    return exc


async def resolved(host: str, port: int) -> Sequence[Address]:
    """The addresses that the system's resolver gives, in its order."""
    try:
        return [ip_address(host)]
    except ValueError:
        pass
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return addresses_of(found)


def addresses_of(found: Iterable[tuple[Any, Any, Any, Any, tuple[Any, ...]]]) -> list[Address]:
    """What `getaddrinfo` answered, each address once."""
    return list(dict.fromkeys(ip_address(sockaddr[0]) for *_, sockaddr in found))


class _Transport(httpx2.AsyncHTTPTransport):
    """httpx2's own, with connections of ours: it has no argument for them, its pool has."""

    def __init__(self, tls: ssl.SSLContext, network: httpcore2.AsyncNetworkBackend) -> None:
        super().__init__(verify=tls, trust_env=False)
        # httpcore2 (2.16.2) has no argument for it.
        httpcore2.AsyncHTTP11Connection.MAX_INCOMPLETE_EVENT_SIZE = MAX_UNREAD_BYTES  # pyright: ignore[reportAttributeAccessIssue] - it is no constant by its name alone
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=IDLE_CONNECTION_S,
            network_backend=network,
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        made = await super().handle_async_request(request)
        response = _Response(made.status_code, headers=made.headers, stream=made.stream, extensions=made.extensions)
        connection = made.extensions.get("network_stream")
        if isinstance(connection, PacedStream):
            connection.head_ended()
            response.flow = connection.flow
        return response


class _Response(httpx2.Response):
    """Has a bounded body. Whoever answers may never end."""

    flow: Flow | None = None

    async def aread(self) -> bytes:
        """The whole body; of an error its beginning. Raises httpx2.ReadError when it is longer than MAX_BODY_BYTES."""
        if not hasattr(self, "_content"):
            body = bytearray()
            async with aclosing(self.aiter_bytes()) as pieces:
                async for piece in pieces:
                    body += piece
                    if self.is_error and len(body) >= MAX_ERROR_BYTES:
                        break
                    if len(body) > MAX_BODY_BYTES:
                        raise httpx2.ReadError(f"an answer of more than {MAX_BODY_BYTES} bytes", request=self.request)
            self._content = bytes(body[:MAX_ERROR_BYTES] if self.is_error else body)
        return self._content

    async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncGenerator[bytes]:
        """The body as it arrives, without its content coding. `chunk_size` is for a body that was read before."""
        if hasattr(self, "_content"):
            async for part in super().aiter_bytes(chunk_size):
                yield part
            return
        try:
            bits = window_bits(self.headers.get("content-encoding", ""))
            async with aclosing(self.aiter_raw()) as parts:
                if bits is None:
                    async for part in parts:
                        yield part
                else:
                    async with aclosing(unpacked(parts, bits, self.flow)) as pieces:
                        async for piece in pieces:
                            yield piece
        except UndecodableBody as exc:
            raise httpx2.DecodingError(str(exc), request=self.request) from exc

    @property
    def charset_encoding(self) -> str | None:
        return charset_of(self.headers.get("content-type", ""))


def charset_of(content_type: str) -> str | None:
    """The charset that a Content-Type names, where that is one that may be named."""
    named = _NAMED_CHARSET.search(content_type[:_CONTENT_TYPE_CHARS])
    return named[1].lower() if named and named[1].lower() in CHARSETS else None


async def _first_to_connect(
    connect: Callable[[Address], Coroutine[Any, Any, C]],
    addresses: Sequence[Address],
    *,
    close: Callable[[C], Awaitable[None]],
) -> C:
    """The connection that is made first; another address is tried when one failed or takes long.

    Raises what the last one raised.
    """
    waiting = list(reversed(addresses))
    trying: set[asyncio.Task[C]] = set()
    try:
        while True:
            if waiting:
                trying.add(asyncio.create_task(connect(waiting.pop()), name="connect"))
            stagger_s = STAGGER_S if waiting else None
            done, _ = await asyncio.wait(trying, timeout=stagger_s, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                trying.remove(attempt)
                if attempt.exception() is None or not (trying or waiting):
                    return attempt.result()
    finally:
        for attempt in trying:
            attempt.cancel()
        # One that has connected in spite of it would stay open.
        for made in await asyncio.gather(*trying, return_exceptions=True):
            if not isinstance(made, BaseException):
                await close(made)


async def _connected(address: Address, *, port: int) -> socket.socket:
    connecting = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connecting, (str(address), port))
    except BaseException:
        connecting.close()
        raise
    return connecting


async def _close(connected: socket.socket) -> None:
    connected.close()


async def _begun(protocol: Callable[[], P], connected: socket.socket, *, tls: ssl.SSLContext | None, host: str) -> P:
    """The protocol, with what is connected. The certificate of a server is checked for `host`, which is shown to it
    (SNI) when it is a name."""
    try:
        _, made = await asyncio.get_running_loop().create_connection(
            protocol, sock=connected, ssl=tls, server_hostname=host.rstrip(".") if tls else None
        )
    except BaseException:
        connected.close()
        raise
    return made


def _reason(exc: BaseException) -> str:
    """Why there is no connection, without the address: it may be one inside a network."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    if isinstance(exc, socket.gaierror):
        return "the name cannot be resolved"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed: {(exc.reason or 'it was broken off').replace('_', ' ').lower()}"
    return os.strerror(exc.errno) if isinstance(exc, OSError) and exc.errno else "the connection failed"
