"""What this worker knows of tenants and providers: a live copy of the KV bucket `llm_config`.

A watch keeps it current. Watchers go blind for many seconds after a server restart, so the bucket is watched anew
after each reconnect; a miss is looked up once directly before anything is declared unknown.
"""

import asyncio
import logging
from typing import TypeVar

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue
from pydantic import ValidationError

from contracts import subjects
from contracts.providers import PublishedProvider, PublishedTenant
from runtime.broker import Broker, Unreachable

log = logging.getLogger(__name__)

K = TypeVar("K")
P = TypeVar("P", PublishedTenant, PublishedProvider)

_FIRST_LOAD_S = 10.0
_RETRY_S = 1.0


class Configuration:
    """Read without waiting; kept current in the background by `watch`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._tenants: dict[str, PublishedTenant] = {}
        self._providers: dict[tuple[str, str], PublishedProvider] = {}
        self._loaded = asyncio.Event()
        self._kv: KeyValue | None = None
        self._watcher: KeyValue.KeyWatcher | None = None

    @property
    def loaded(self) -> bool:
        return self._loaded.is_set()

    async def wait_until_loaded(self) -> None:
        """Raises Unreachable when the bucket cannot be read."""
        try:
            await asyncio.wait_for(self._loaded.wait(), _FIRST_LOAD_S)
        except TimeoutError:
            raise Unreachable(
                f"the bucket {subjects.CONFIG_BUCKET} cannot be read; has this NATS user the right to it?"
            ) from None

    async def tenant(self, slug: str) -> PublishedTenant | None:
        if slug not in self._tenants:
            await self._look_up(subjects.config_key_of_tenant(slug))
        return self._tenants.get(slug)

    async def provider(self, tenant: str, provider: str) -> PublishedProvider | None:
        """The provider if it is active."""
        if (tenant, provider) not in self._providers:
            await self._look_up(subjects.config_key_of_provider(tenant, provider))
        found = self._providers.get((tenant, provider))
        return found if found and found.is_active else None

    def providers_of(self, tenant: str) -> dict[str, PublishedProvider]:
        """The active ones, by type."""
        return {p.provider_type: p for (of, _), p in self._providers.items() if of == tenant and p.is_active}

    async def watch(self) -> None:
        """Runs for ever: load everything, follow changes, start over after a reconnect."""

        self._broker.on_reconnect.append(self._start_over)
        while True:
            try:
                await self._watch_once()
            except (NatsError, JetStreamError, TimeoutError) as exc:
                log.warning("config_watch_failed", extra={"error": type(exc).__name__})
                await asyncio.sleep(_RETRY_S)

    async def _start_over(self) -> None:
        if self._watcher is not None:
            await self._watcher.stop()

    async def _watch_once(self) -> None:
        if self._kv is None:
            self._kv = await self._broker.client.jetstream().key_value(subjects.CONFIG_BUCKET)
        self._watcher = await self._kv.watchall()
        seen: set[str] | None = set()
        async for entry in self._watcher:
            if entry is None:
                self._forget_all_but(seen or set())
                self._loaded.set()
                seen = None
                continue
            if seen is not None:
                seen.add(entry.key)
            self._take(entry.key, entry.value if entry.operation is None else None)

    async def _look_up(self, key: str) -> None:
        if self._kv is None:
            return
        try:
            entry = await self._kv.get(key)
        except KeyNotFoundError:
            return
        except (NatsError, JetStreamError, TimeoutError) as exc:
            log.warning("config_lookup_failed", extra={"key": key, "error": type(exc).__name__})
            return
        self._take(key, entry.value)

    def _take(self, key: str, value: bytes | None) -> None:
        try:
            match key.split("."), value:
                case ["tenant", slug], None:
                    self._tenants.pop(slug, None)
                case ["tenant", slug], bytes():
                    _keep_newer(self._tenants, slug, PublishedTenant.model_validate_json(value, extra="ignore"))
                case ["provider", tenant, provider], None:
                    self._providers.pop((tenant, provider), None)
                case ["provider", tenant, provider], bytes():
                    _keep_newer(
                        self._providers,
                        (tenant, provider),
                        PublishedProvider.model_validate_json(value, extra="ignore"),
                    )
                case _:
                    log.warning("config_key_unknown", extra={"key": key})
        except ValidationError as exc:
            log.error("config_value_invalid", extra={"key": key, "errors": exc.error_count()})

    def _forget_all_but(self, seen: set[str]) -> None:
        """What was deleted while we did not watch."""
        for slug in [s for s in self._tenants if subjects.config_key_of_tenant(s) not in seen]:
            del self._tenants[slug]
        for tenant, kind in [k for k in self._providers if subjects.config_key_of_provider(*k) not in seen]:
            del self._providers[tenant, kind]


def _keep_newer(known: dict[K, P], key: K, found: P) -> None:
    """A direct look-up and the watch may overtake each other."""
    if key not in known or found.revision >= known[key].revision:
        known[key] = found
