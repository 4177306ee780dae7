"""The connection to NATS that every role keeps: found at start or given up with one clear line, kept for good after.

nats-py's own reconnect loop runs for ever with a bounded wait; callbacks tell whoever needs to act (watch anew,
ask anew, change readiness).
"""

import asyncio
import logging
import math
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client as Nats
from nats.aio.transport import TcpTransport

from contracts import jetstream_codes, streams
from contracts.nats_connect import Connection, NoServer, address, connect_to_any
from contracts.wire import reason
from runtime.settings import BrokerSettings

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5
RECONNECT_WAIT_S = 0.5
REQUEST_TIMEOUT_S = 10
_CLUSTER_S, _PEERS_AGAIN_S = 30.0, 0.5
_PENDING_BYTES = 64 * 1024 * 1024
TOGETHER_S = 0.002
"""What may wait leaves so long after the last write at the latest. A server that gets five messages in one write needs
half the processor time for each, of fifty a tenth (nats-server 2.15)."""
_BACKLOG_BYTES = 1024 * 1024
"""A server that is so far behind is waited for."""
_HEADER_BYTES = 128 * 1024
"""Of more headers than that, the first are read. No stored message has more than 64 KiB (nats-server 2.15); of those
that are not stored an agent may send 8 MB, and short ones took 0.7 s to read."""
_HEADER_LINES = 128
"""Of more lines than that, the first and the last ones are read: the last ones are those that the server adds to what
it has stored. 16,000 lines fit into 64 KiB, and took 5 ms to read."""
_FIRST_LINES, _LAST_LINES = 64, 30


class Unreachable(Exception):
    """A server that a role needs does not answer. The message names its address."""


class TlsMissing(nats.errors.Error):
    """A server that must be spoken to by TLS offers none, or somebody on the way says so."""


class Headers(dict[str, str]):
    """The headers of a message that were read, and how many bytes all of them took on the wire."""

    def __init__(self, read: Mapping[str, str], *, size: int) -> None:
        super().__init__(read)
        self.size = size


class BrokerConnection(Connection):
    """nats-py takes the server's word for whether it wants TLS, and would tell anybody who it is."""

    def __init__(self, *, by_tls: bool, header_bytes: int = _HEADER_BYTES) -> None:
        super().__init__()
        self._by_tls = by_tls
        self._header_bytes = header_bytes
        self._flush_is_due = self._flush_comes = False
        """Whether there is a write at the end of this turn of the event loop, or a little later."""
        self._flushed_at = -math.inf
        self.is_behind = False
        """The server takes less than is published; `until_sent` waits for it."""

    def say(self, subject: str, payload: bytes, header: bytes = b"", *, soon: bool = True) -> None:
        """Publishes behind all that was published before, without a task that is woken for it. What is said in one turn
        of the event loop leaves in one write at its end. `header` is a whole block of headers, or none.

        Not `soon`: it may wait until TOGETHER_S after the last write, so that one takes more of what is said
        meanwhile; each write wakes the server.

        The caller answers for `subject`. Raises nats.errors.Error when the connection is closed for good, or too much
        waits for a new one.
        """
        if header:
            size = len(header)
            command = b"HPUB %b %d %d\r\n%b%b\r\n" % (subject.encode(), size, size + len(payload), header, payload)
        else:
            command = b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload)
        if not self.is_connected:
            if self.is_closed:
                raise nats.errors.ConnectionClosedError
            if self._pending_data_size + len(command) > self._max_pending_size:
                raise nats.errors.OutboundBufferLimitError
        self._pending.append(command)
        self._pending_data_size += len(command)
        if soon:
            self._flush_at_end_of_turn()
        elif not (self._flush_is_due or self._flush_comes):
            loop = asyncio.get_running_loop()
            next_write_at = self._flushed_at + TOGETHER_S
            if loop.time() >= next_write_at:
                self._flush_at_end_of_turn()
            else:
                self._flush_comes = True
                loop.call_at(next_write_at, self._flush_late)

    def _flush_at_end_of_turn(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        """What nats-py publishes leaves like all else: it would wake a task for each write."""
        if force_flush or not self.is_connected:
            return await super()._flush_pending(force_flush)
        self._flush_at_end_of_turn()
        return None

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        """Behind all that was published before: the answer says that the server has it."""
        self._flush()
        await super()._send_ping(future)

    async def until_sent(self) -> None:
        """Returns when little of what was published is left here, or there is no connection."""
        if self.is_connected and self._transport is not None:
            with suppress(OSError):
                await self._transport.drain()
        self.is_behind = False

    def _flush_late(self) -> None:
        self._flush_comes = False
        self._flush()

    def _flush(self) -> None:
        """Writes what waits. What waits without a connection is written by nats-py when there is one again."""
        self._flush_is_due = False
        self._flushed_at = asyncio.get_running_loop().time()
        if self._pending and self.is_connected and self._transport is not None:
            pending, self._pending, self._pending_data_size = self._pending, [], 0
            self._transport.write(b"".join(pending))
            if isinstance(self._transport, TcpTransport) and self._transport._io_writer is not None:  # pyright: ignore[reportPrivateUsage] - nats-py does not tell how much waits
                unsent = self._transport._io_writer.transport.get_write_buffer_size()  # pyright: ignore[reportPrivateUsage]
                self.is_behind = unsent > _BACKLOG_BYTES

    def _connect_command(self) -> bytes:
        if self._by_tls and not self._server_info.get("tls_required"):
            raise TlsMissing("the server offers no TLS")
        return super()._connect_command()

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """Agents write headers, too, as many as they like; for those that it cannot read nats-py would give the
        connection up."""
        if not headers:
            return None
        size = len(headers)
        if headers.count(b"\r\n") > _HEADER_LINES:
            first = headers.split(b"\r\n", _FIRST_LINES)[:_FIRST_LINES]
            # Two more, because the empty line at the end is two pieces.
            last = headers.rsplit(b"\r\n", _LAST_LINES + 2)[1:]
            headers = b"\r\n".join([*first, *last])
        if len(headers) > self._header_bytes:
            headers = headers[: headers.rfind(b"\r\n", 0, self._header_bytes)] + b"\r\n\r\n"
        try:
            read = await super()._process_headers(headers)
        except (UnicodeDecodeError, IndexError):
            read = self._parse_header_lines(headers.partition(b"\r\n")[2])
        return None if read is None else Headers(read, size=size)


def message_bytes(data: bytes, headers: Mapping[str, str]) -> int:
    """The size of a message, with its headers; of those that came from the server all count, read or not."""
    if isinstance(headers, Headers):
        return len(data) + headers.size
    return len(data) + sum(len(name) + len(value) for name, value in headers.items())


class Broker:
    """A NATS connection, its state as readiness sees it, and who wants to know of a reconnect."""

    def __init__(self, client: Nats) -> None:
        self.client = client
        self.on_reconnect: list[Callable[[], Awaitable[None]]] = []
        """Called after each reconnect, all at the same time; see `reconnected`."""
        self.closed = asyncio.Event()
        """Set when the client gave up for good, as it does when the server refuses its credentials."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self.client.is_connected

    @property
    def server_id(self) -> str:
        """The id of the server that is or was connected to; it has another one after it was started anew."""
        return self._server.get("server_id", "")

    @property
    def in_cluster(self) -> bool:
        """Whether the server is one of several, so that the others still know what it knew when it is gone."""
        return bool(self._server.get("cluster"))

    @property
    def reconnects(self) -> int:
        """How often the connection was made anew; what was said on another one may have been lost."""
        return self.client.stats["reconnects"]

    def say(self, subject: str, payload: bytes, *, header: bytes = b"", soon: bool = True) -> None:
        """Publishes without waiting; see `BrokerConnection.say`."""
        self._connection.say(subject, payload, header, soon=soon)

    def backlog(self) -> Awaitable[None] | None:
        """What to wait for before more is published, because the server takes less than is said; None: nothing."""
        connection = self._connection
        return connection.until_sent() if connection.is_behind else None

    async def reconnected(self) -> None:
        """Calls everybody in `on_reconnect`, each in a task of its own, and returns when all of them are done.

        So a slow one delays no other one. One that fails is logged, and disturbs neither
        the others nor the connection: nats-py (2.16) takes an error of its callback for a lost connection, and makes
        another one. When the connection is lost again meanwhile, nats-py cancels what still runs here.

        The tasks begin in the order of registration, each running up to its first `await` before the next one begins,
        and nothing depends on more than that:

        - The registers of the circuit breaker and of the concurrency limit forget the sequences of a server that may
          have been started anew, and await nothing. So the slots that are said again after it, and the watches of the
          buckets, which start over here as well, meet entries that are news.
        - The live streams, the admin API's repair of streams and its publisher of the configuration set an event and
          do their work elsewhere.
        - The feed of cancels only wakes its own task. Until that hears cancels again, a request that starts reads those
          of its tenant from the stream.
        """
        async with asyncio.TaskGroup() as tasks:
            for callback in self.on_reconnect:
                name = getattr(callback, "__qualname__", repr(callback))
                tasks.create_task(_after_reconnect(callback, name=name), name=f"reconnected {name}")

    @property
    def _connection(self) -> BrokerConnection:
        if not isinstance(self.client, BrokerConnection):
            raise TypeError("only a connection that `connect` made can say what is not awaited")
        return self.client

    @property
    def _server(self) -> dict[str, Any]:
        """What the server said of itself when the connection was made; nats-py has no public name for all of it."""
        return self.client._server_info  # pyright: ignore[reportPrivateUsage]

    async def request(self, subject: str, payload: bytes) -> bytes:
        """A request to the JetStream API; what `contracts.streams.ensure` needs."""
        return (await self.client.request(subject, payload, timeout=REQUEST_TIMEOUT_S)).data


async def _after_reconnect(callback: Callable[[], Awaitable[None]], *, name: str) -> None:
    try:
        await callback()
    except (OSError, nats.errors.Error, TimeoutError) as exc:
        log.warning("after_reconnect_failed", extra={"callback": name, "error": reason(exc)})
    except Exception:  # the top of a task
        log.exception("after_reconnect_failed", extra={"callback": name})


@asynccontextmanager
async def connect(
    settings: BrokerSettings, *, name: str, inbox_prefix: str, header_bytes: int = _HEADER_BYTES
) -> AsyncGenerator[Broker]:
    """Connects once, or raises Unreachable; afterwards reconnects for ever. Drained at exit.

    Of the headers of a message the first `header_bytes` are read.
    """
    by_tls = settings.nats_by_tls
    broker = Broker(BrokerConnection(by_tls=by_tls, header_bytes=header_bytes))
    where = address(settings.nats_url)

    def another_try() -> BrokerConnection:
        broker.client = BrokerConnection(by_tls=by_tls, header_bytes=header_bytes)
        return broker.client

    async def on_error(exc: Exception) -> None:
        log.warning("nats_error", extra={"error": reason(exc)})

    async def on_disconnect() -> None:
        if not broker.client.is_closed:
            log.warning("nats_disconnected", extra={"server": where})

    async def on_reconnect() -> None:
        log.info("nats_reconnected", extra={"server": where})
        await broker.reconnected()

    async def on_closed() -> None:
        broker.closed.set()

    options: dict[str, Any] = {
        "name": name,
        "dont_randomize": True,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "reconnect_time_wait": RECONNECT_WAIT_S,
        "max_reconnect_attempts": -1,
        "ping_interval": 10,
        "max_outstanding_pings": 2,
        "pending_size": _PENDING_BYTES,
        "inbox_prefix": settings.nats_inbox_prefix or inbox_prefix,
        "disconnected_cb": on_disconnect,
        "reconnected_cb": on_reconnect,
        "closed_cb": on_closed,
        **login(settings),
    }
    try:
        servers = [url.strip() for url in settings.nats_url.split(",")]
        await connect_to_any(another_try, servers, error_cb=on_error, **options)
    except NoServer as exc:
        raise Unreachable(str(exc)) from exc
    broker.closed.clear()  # a try that failed has set it
    try:
        yield broker
    finally:
        if broker.client.is_connected:
            await broker.client.drain()
        else:
            with suppress(OSError):
                await broker.client.close()


async def ensure_streams(broker: Broker, settings: BrokerSettings) -> None:
    """Every role calls this at start. Raises Unreachable, contracts.streams.StreamMismatch or JetStreamError.

    The nodes of a cluster that was just started have to find each other first, and while it elects a leader it does
    not answer. It gets half a minute for either.
    """
    give_up = time.monotonic() + _CLUSTER_S
    while True:
        try:
            return await streams.ensure(broker.request, settings.sizes())
        except streams.JetStreamError as exc:
            if exc.err_code != jetstream_codes.NO_PEERS or time.monotonic() > give_up:
                raise
        except (nats.errors.NoRespondersError, nats.errors.TimeoutError) as exc:
            is_electing = broker.in_cluster and isinstance(exc, nats.errors.TimeoutError)
            if is_electing and time.monotonic() <= give_up:
                log.warning("jetstream_unanswered", extra={"error": reason(exc)})
                continue  # the time that it was waited for is pause enough
            raise Unreachable(
                f"NATS at {address(settings.nats_url)} does not answer for JetStream: {reason(exc)}; "
                "is JetStream on, and has this user the right to it?"
            ) from exc
        await asyncio.sleep(_PEERS_AGAIN_S)


def login(settings: BrokerSettings) -> dict[str, Any]:
    """The options of nats-py that say who we are, and by which certificates."""
    options: dict[str, Any] = {}
    if settings.nats_creds:
        options["user_credentials"] = settings.nats_creds
    elif settings.nats_nkey_seed_file:
        options["nkeys_seed"] = settings.nats_nkey_seed_file
    elif settings.nats_user:
        options["user"] = settings.nats_user
        options["password"] = settings.nats_password.get_secret_value() if settings.nats_password else ""
    if settings.nats_by_tls:
        options["tls"] = ssl.create_default_context(cafile=settings.nats_cacert)
    if settings.nats_tls_cert:
        options["tls"].load_cert_chain(settings.nats_tls_cert, settings.nats_tls_key)
    return options
