"""Vendor keys: read from Vault, unsealed in memory, held for minutes, never written anywhere."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hvac.exceptions
from pydantic import SecretStr, ValidationError

from contracts.errors import KeyUnavailable
from contracts.providers import DEFAULT_KEY, SealedKey, key_path
from runtime.sealing import Keyring, UnsealError
from runtime.vault import MOUNT, VaultDenied, VaultSession, VaultUnavailable

log = logging.getLogger(__name__)

FRESH_S = 300.0
USABLE_S = 3600.0
"""How long a cached key goes on while Vault is down."""


@dataclass(frozen=True, slots=True)
class _Where:
    provider: str
    tenant: str
    name: str

    def __str__(self) -> str:
        return key_path(provider=self.provider, tenant=self.tenant, name=self.name)


@dataclass(frozen=True, slots=True)
class HeldKey:
    secret: SecretStr
    key_version: int
    read_at: float


class KeyStore:
    """The keys of this pool's provider, by tenant and name. Concurrent asks for one key make one read."""

    def __init__(self, vault: VaultSession, keyring: Keyring, *, clock: Callable[[], float]) -> None:
        self._vault = vault
        self._keyring = keyring
        self._clock = clock
        self._held: dict[_Where, HeldKey] = {}
        self._reads: dict[_Where, asyncio.Task[HeldKey]] = {}

    async def get(self, *, tenant: str, provider: str, key_version: int, name: str = DEFAULT_KEY) -> HeldKey:
        """The key, at least as new as `key_version`. Raises KeyUnavailable."""
        where = _Where(provider, tenant, name)
        held = self._held.get(where)
        if held and held.key_version >= key_version and self._clock() - held.read_at < FRESH_S:
            return held
        try:
            return await self._read(where)
        except KeyUnavailable:
            if held and held.key_version >= key_version and self._clock() - held.read_at < USABLE_S:
                log.warning("key_from_cache", extra={"provider": provider, "tenant": tenant, "key": name})
                return held
            raise

    async def read_anew(self, *, tenant: str, provider: str, name: str = DEFAULT_KEY) -> HeldKey:
        """After the vendor refused the key: what Vault holds now. Raises KeyUnavailable."""
        return await self._read(_Where(provider, tenant, name))

    async def _read(self, where: _Where) -> HeldKey:
        if (task := self._reads.get(where)) is None:
            task = asyncio.create_task(self._read_once(where), name=f"key {where}")
            self._reads[where] = task
            task.add_done_callback(lambda done: self._finished(where, done))
        return await asyncio.shield(task)

    def _finished(self, where: _Where, task: asyncio.Task[HeldKey]) -> None:
        del self._reads[where]
        if not task.cancelled() and task.exception() is None:
            self._held[where] = task.result()

    async def _read_once(self, where: _Where) -> HeldKey:
        def read(client: Any) -> Any:
            return client.secrets.kv.v2.read_secret_version(
                path=str(where), mount_point=MOUNT, raise_on_deleted_version=True
            )

        try:
            answer = await self._vault.call(read)
            sealed = SealedKey.model_validate(answer["data"]["data"])
            secret = self._keyring.unseal(sealed.sealed, tenant=where.tenant, provider=where.provider, name=where.name)
        except hvac.exceptions.InvalidPath:
            raise KeyUnavailable(
                f"no key for {where} in Vault; add one with POST /api/v1/llm-providers", provider=where.provider
            ) from None
        except (VaultUnavailable, VaultDenied, UnsealError) as exc:
            raise KeyUnavailable(f"the key for {where} cannot be read: {exc}", provider=where.provider) from exc
        except (ValidationError, KeyError, TypeError):
            raise KeyUnavailable(
                f"what lies in Vault for {where} is no sealed key; set it with PUT /api/v1/llm-providers",
                provider=where.provider,
            ) from None
        return HeldKey(secret, sealed.key_version, self._clock())
