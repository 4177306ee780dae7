"""The first connection to NATS, for the roles and the thin client alike: each server is tried once.

This is the only module of the contracts that imports nats-py (docs/decisions/0016-one-way-to-connect.md).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import NO_RESPONDERS_STATUS, Srv
from nats.aio.client import Client as Nats
from nats.js.api import Header

from contracts.wire import reason

N = TypeVar("N", bound="Connection")
OnError = Callable[[Exception], Awaitable[None]]

_CLOSE_S = 1.0


class NoServer(Exception):
    """No server can be used. The message says of each one why, and repeats no credentials."""


class Connection(Nats):
    """nats-py's client, but it leaves no socket open."""

    async def _connect_to_server(self, s: Srv) -> None:
        # nats-py 2.16 forgets the connection of a try that failed, and with it the socket.
        if self._transport is not None:
            self._transport.close()
        await super()._connect_to_server(s)


async def connect_to_any(
    make: Callable[[], N],
    servers: Sequence[str],
    *,
    error_cb: OnError,
    prepare: Callable[[N], Awaitable[None]] | None = None,
    **options: Any,
) -> N:
    """A connection to the first server that can be used. When it is lost, it is made anew to any of them, for ever.

    `make` gives a client for each try. `prepare` is what else must succeed for a server to count as usable. `error_cb`
    and `options` are nats-py's. Raises NoServer.
    """
    failures: list[str] = []
    for turn, server in enumerate(servers):
        client = make()
        try:
            await _try([*servers[turn:], *servers[:turn]], client=client, error_cb=error_cb, options=options)
            if prepare is not None:
                await prepare(client)
        except Exception as exc:  # noqa: BLE001 - bad addresses and logins raise what they like
            # Errors of other kinds may repeat an address with its password, or a seed.
            why = reason(exc) if isinstance(exc, OSError | nats.errors.Error) else type(exc).__name__
            failures.append(f"{address(server)}: {why}")
            # nats-py leaves the socket open, and asserts where nothing was begun that could be closed.
            with suppress(OSError, TimeoutError, AssertionError):
                async with asyncio.timeout(_CLOSE_S):
                    await client.close()
        else:
            client.options["allow_reconnect"] = True
            client.options["max_reconnect_attempts"] = options.get("max_reconnect_attempts", -1)
            return client
    raise NoServer(f"NATS cannot be used at {'; '.join(failures)}")


async def first_answer(client: Nats, subject: str, question: bytes, *, within_s: float, again_s: float = 2.0) -> bytes:
    """Asks, and asks again after `again_s`, then after twice that pause and so on; the first answer to any counts.

    A server (2.15) that reads its configuration anew, as it does for a new tenant, forgets who may answer what was
    asked before, and drops the answer. Raises nats.errors.Error, such as NoRespondersError and TimeoutError.
    """
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    pause_s, left_s = again_s, within_s
    try:
        while left_s > 0:
            await client.publish(subject, question, reply=inbox)
            with suppress(nats.errors.TimeoutError):
                answer = await answers.next_msg(timeout=min(pause_s, left_s))
                if answer.headers and answer.headers.get(Header.STATUS) == NO_RESPONDERS_STATUS:
                    raise nats.errors.NoRespondersError
                return answer.data
            left_s -= pause_s
            pause_s *= 2
        raise nats.errors.TimeoutError
    finally:
        with suppress(nats.errors.Error):
            await answers.unsubscribe()


async def _try(servers: list[str], *, client: Connection, error_cb: OnError, options: dict[str, Any]) -> None:
    """Connects to the first of the servers. Raises what it is refused for."""
    refusals: list[Exception] = []

    async def on_error(exc: Exception) -> None:
        if client.options.get("allow_reconnect"):
            await error_cb(exc)
        else:
            refusals.append(exc)

    # Where it may reconnect, nats-py goes round its servers for ever already here; so it may only once it is connected.
    once: dict[str, Any] = {**options, "allow_reconnect": False, "max_reconnect_attempts": 1}
    try:
        await client.connect(servers, error_cb=on_error, **once)
    except (OSError, nats.errors.Error, TimeoutError) as exc:
        # It often says no more than that there is no server; what the server said went to the callback.
        raise refusals[-1] if refusals else exc from None


def address(url: str) -> str:
    """Host and port of each server in a list with commas, never its credentials."""
    places: list[str] = []
    for server in url.split(","):
        # Not by urlsplit: it takes a `#`, `/` or `?` in a password for the end of the host.
        place = server.strip().rpartition("://")[2].rpartition("@")[2]
        try:
            parts = urlsplit(f"nats://{place}")
            places.append(f"{parts.hostname}:{parts.port or 4222}")
        except ValueError:
            places.append(place)
    return ", ".join(places)
