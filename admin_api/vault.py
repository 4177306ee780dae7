"""Keys enter Vault here, and never come back: this module writes, and the admin API's policy grants no read."""

import asyncio
from typing import Any

import hvac.exceptions

from contracts.providers import SealedKey
from runtime.vault import MOUNT, VaultSession, VaultUnavailable

_WRITE_TIMEOUT_S = 10
"""Of a login and a write together. A write that comes later still finds its check-and-set refused."""


class KeyMoved(Exception):
    """Vault holds another version than the database says, so that a check-and-set write was refused."""


class KeyVault:
    """The write-only side of the keys in Vault."""

    def __init__(self, session: VaultSession) -> None:
        self._session = session

    async def write(self, path: str, key: SealedKey, *, over_version: int | None) -> None:
        """Writes a sealed key as the next version of `path`.

        `over_version`: the version that it must replace, 0 for none; None: whatever is there. Raises KeyMoved,
        runtime.vault.VaultUnavailable, VaultDenied.
        """

        def put(client: Any) -> None:
            client.secrets.kv.v2.create_or_update_secret(
                path=path, secret=key.model_dump(), cas=over_version, mount_point=MOUNT
            )

        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await self._session.call(put)
        except TimeoutError as exc:
            raise VaultUnavailable("it does not answer in time") from exc
        except hvac.exceptions.InvalidRequest as exc:
            if over_version is not None and "check-and-set" in str(exc):
                raise KeyMoved(path) from exc
            raise VaultUnavailable("Vault refused the write as invalid") from exc
        except hvac.exceptions.InvalidPath as exc:
            raise VaultUnavailable(f"Vault has no KV v2 store mounted at {MOUNT}/") from exc

    async def ping(self) -> None:
        """Raises runtime.vault.VaultUnavailable, VaultDenied."""
        await self._session.start()
