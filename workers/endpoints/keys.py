"""Vendor keys: read from Vault, unsealed in memory, held for minutes, never written anywhere."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hvac.exceptions
from pydantic import SecretStr, ValidationError

from contracts.errors import KeyUnavailable
from contracts.providers import DEFAULT_KEY, KEYLESS, PublishedProvider, SealedKey, key_path
from runtime.sealing import Keyring, UnsealError
from runtime.vault import MOUNT, VaultDenied, VaultSession, VaultUnavailable

log = logging.getLogger(__name__)

FRESH_S = 300.0
"""How long a key goes unasked for; then it is read again, while requests go on with the one that is held."""
USABLE_S = 3600.0
"""How long a key goes on while Vault is down."""


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

    async def of(self, configured: PublishedProvider, name: str) -> HeldKey | None:
        """The key of that name; None when the provider is called without one. Raises KeyUnavailable."""
        version = configured.key_versions().get(name)
        if version is not None:
            return await self.get(
                tenant=configured.tenant, provider=configured.provider_type, key_version=version, name=name
            )
        if name == DEFAULT_KEY and configured.provider_type in KEYLESS:
            return None
        raise KeyUnavailable(
            f"{configured.provider_type} of tenant {configured.tenant} has no key {name}; "
            f"set one with PUT /api/v1/llm-providers/{configured.provider_id}",
            provider=configured.provider_type,
        )

    async def get(self, *, tenant: str, provider: str, key_version: int, name: str = DEFAULT_KEY) -> HeldKey:
        """The key, in that version or a later one if Vault has it, else as Vault has it. Raises KeyUnavailable."""
        where = _Where(provider, tenant, name)
        held = self._held.get(where)
        if held and held.key_version >= key_version and (age_s := self._clock() - held.read_at) < USABLE_S:
            if age_s >= FRESH_S:
                # Nobody waits for it: a Vault that does not answer must not slow down what can go on without it.
                if self._vault.usable:
                    self._start_reading(where)
                else:
                    log.warning("key_from_cache", extra={"key": str(where)})
            return held
        held = await self.read_anew(tenant=tenant, provider=provider, name=name)
        if held.key_version < key_version:
            # What was already being read may be from before the change that the caller knows of.
            held = await self.read_anew(tenant=tenant, provider=provider, name=name)
        return held

    async def read_anew(self, *, tenant: str, provider: str, name: str = DEFAULT_KEY) -> HeldKey:
        """What Vault holds, read after this or by a read that is under way. Raises KeyUnavailable."""
        # Shielded, because others may be waiting for the same read when this request is interrupted.
        return await asyncio.shield(self._start_reading(_Where(provider, tenant, name)))

    def _start_reading(self, where: _Where) -> asyncio.Task[HeldKey]:
        if (task := self._reads.get(where)) is None:
            task = asyncio.create_task(self._read_once(where), name=f"key {where}")
            self._reads[where] = task
            task.add_done_callback(lambda done: self._finished(where, done))
        return task

    def _finished(self, where: _Where, task: asyncio.Task[HeldKey]) -> None:
        del self._reads[where]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.warning("key_not_read", extra={"key": str(where), "error": str(error)})
            return
        self._held.pop(where, None)
        self._held[where] = task.result()
        # Those that were read last stand last; the first ones are asked for by nobody any more.
        while self._held:
            where, held = next(iter(self._held.items()))
            if self._clock() - held.read_at < USABLE_S:
                return
            del self._held[where]

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
            self._held.pop(where, None)
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
