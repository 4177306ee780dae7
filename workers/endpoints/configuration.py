"""What this worker knows of tenants and providers: a live copy of the KV bucket `llm_config`.

A watch keeps it current; a miss is looked up once directly before anything is declared unknown.
"""

import logging
from collections.abc import Collection
from typing import TypeVar

from contracts import subjects
from contracts.providers import PublishedProvider, PublishedTenant
from runtime.broker import Broker
from runtime.buckets import BucketWatch

log = logging.getLogger(__name__)

K = TypeVar("K")
P = TypeVar("P", PublishedTenant, PublishedProvider)


class Configuration:
    """Read without waiting; kept current in the background by its `bucket`."""

    def __init__(self, broker: Broker) -> None:
        self._tenants: dict[str, PublishedTenant] = {}
        self._providers: dict[tuple[str, str], PublishedProvider] = {}
        self.bucket = BucketWatch(broker, subjects.CONFIG_BUCKET, take=self._take, forget_all_but=self._forget_all_but)

    @property
    def slugs(self) -> Collection[str]:
        """Of the tenants that are known without a look-up."""
        return self._tenants.keys()

    async def tenant(self, slug: str) -> PublishedTenant | None:
        if slug not in self._tenants:
            await self.bucket.look_up(subjects.config_key_of_tenant(slug))
        return self._tenants.get(slug)

    async def provider(self, tenant: str, provider: str) -> PublishedProvider | None:
        """The provider if it is active."""
        if (tenant, provider) not in self._providers:
            await self.bucket.look_up(subjects.config_key_of_provider(tenant, provider))
        found = self._providers.get((tenant, provider))
        return found if found and found.is_active else None

    def providers_of(self, tenant: str) -> dict[str, PublishedProvider]:
        """The active ones, by type."""
        return {p.provider_type: p for (of, _), p in self._providers.items() if of == tenant and p.is_active}

    def _take(self, key: str, value: bytes | None, _: int) -> None:
        try:
            match key.split("."), value:
                case ["tenant", slug], None:
                    self._tenants.pop(slug, None)
                case ["tenant", slug], bytes():
                    tenant = PublishedTenant.model_validate_json(value, extra="ignore")
                    _check_place(key, subjects.config_key_of_tenant(tenant.slug))
                    _keep_newer(self._tenants, slug, tenant)
                case ["provider", slug, kind], None:
                    self._providers.pop((slug, kind), None)
                case ["provider", slug, kind], bytes():
                    provider = PublishedProvider.model_validate_json(value, extra="ignore")
                    _check_place(key, subjects.config_key_of_provider(provider.tenant, provider.provider_type))
                    _keep_newer(self._providers, (slug, kind), provider)
                case _:
                    log.warning("config_key_unknown", extra={"key": key})
        except ValueError as exc:
            log.error("config_value_invalid", extra={"key": key, "error": type(exc).__name__})

    def _forget_all_but(self, seen: set[str]) -> None:
        """What was deleted while we did not watch."""
        for slug in [s for s in self._tenants if subjects.config_key_of_tenant(s) not in seen]:
            del self._tenants[slug]
        for tenant, kind in [k for k in self._providers if subjects.config_key_of_provider(*k) not in seen]:
            del self._providers[tenant, kind]


def _check_place(key: str, place: str) -> None:
    """Raises ValueError for what is another's."""
    if key != place:
        raise ValueError(f"{key} holds what belongs to {place}")


def _keep_newer(known: dict[K, P], key: K, found: P) -> None:
    """A direct look-up and the watch may overtake each other."""
    if key not in known or found.revision >= known[key].revision:
        known[key] = found
