"""Following a key-value bucket: everything that is in it, then every change.

Watchers go blind for many seconds after a server restart, so the bucket is watched anew after each reconnect, and
whoever follows is told what was there: what is missing was deleted meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue

from runtime.broker import Broker, Unreachable

log = logging.getLogger(__name__)

_FIRST_LOAD_S = 10.0
_RETRY_S = 1.0

Take = Callable[[str, bytes | None, int], None]
"""A key, its value or None when it is gone, and its revision (the sequence of its message)."""


class BucketWatch:
    """Tells `take` of each entry whose key matches `keys`, and of each change; see the head of this file.

    `forget_all_but` gets the keys that were there whenever the whole bucket was read: any other one is gone.
    """

    def __init__(
        self,
        broker: Broker,
        bucket: str,
        *,
        take: Take,
        forget_all_but: Callable[[set[str]], None],
        keys: str = ">",
    ) -> None:
        self._broker = broker
        self._bucket = bucket
        self._keys = keys
        self._take = take
        self._forget_all_but = forget_all_but
        self._loaded = asyncio.Event()
        self._kv: KeyValue | None = None
        self._watcher: KeyValue.KeyWatcher | None = None

    @property
    def loaded(self) -> bool:
        """Whether the whole bucket was read once."""
        return self._loaded.is_set()

    async def wait_until_loaded(self) -> None:
        """Returns when the whole bucket was read once. Raises Unreachable when that takes more than ten seconds."""
        try:
            async with asyncio.timeout(_FIRST_LOAD_S):
                await self._loaded.wait()
        except TimeoutError:
            raise Unreachable(
                f"the bucket {self._bucket} cannot be read; has this NATS user the right to it?"
            ) from None

    async def run(self) -> None:
        """Runs for ever: load everything, follow changes, start over after a reconnect."""
        self._broker.on_reconnect.append(self._start_over)
        while True:
            try:
                await self._watch_once()
            except (NatsError, JetStreamError, TimeoutError) as exc:
                log.warning("bucket_watch_failed", extra={"bucket": self._bucket, "error": type(exc).__name__})
                await asyncio.sleep(_RETRY_S)

    async def look_up(self, key: str) -> None:
        """Takes the key's value now, if there is one and the bucket answers."""
        if self._kv is None:
            return
        try:
            entry = await self._kv.get(key)
        except KeyNotFoundError:
            return
        except (NatsError, JetStreamError, TimeoutError) as exc:
            log.warning("bucket_lookup_failed", extra={"key": key, "error": type(exc).__name__})
            return
        self._take(key, entry.value, entry.revision or 0)

    async def _start_over(self) -> None:
        if self._watcher is not None:
            await self._watcher.stop()

    async def _watch_once(self) -> None:
        if self._kv is None:
            self._kv = await self._broker.client.jetstream().key_value(self._bucket)
        self._watcher = await self._kv.watch(self._keys)
        seen: set[str] | None = set()
        async for entry in self._watcher:
            if entry is None:
                self._forget_all_but(seen or set())
                self._loaded.set()
                seen = None
                continue
            value = entry.value if entry.operation is None else None
            if seen is not None and value is not None:
                seen.add(entry.key)
            self._take(entry.key, value, entry.revision or 0)
