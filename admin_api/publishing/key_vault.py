"""Keys enter Vault here, and never come back: this module writes, and the admin API's policy grants no read."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import hvac.exceptions

from contracts.providers import SealedKey
from runtime.vault import MOUNT, VaultSession, VaultUnavailable

_TIMEOUT_S = 10
"""For a login and a call together. A write that arrives after that still finds its check-and-set refused where somebody
has written in the meantime."""

T = TypeVar("T")


class KeyMoved(Exception):
    """A check-and-set write was refused, because somebody else wrote in between."""


class KeyVault:
    """The write-only side of the keys in Vault."""

    def __init__(self, session: VaultSession) -> None:
        self._session = session

    async def version(self, path: str) -> int:
        """Vault's number of what lies at `path`; 0: nothing. Raises runtime.vault.VaultUnavailable, VaultDenied."""

        def read(client: Any) -> Any:
            return client.secrets.kv.v2.read_secret_metadata(path=path, mount_point=MOUNT)

        try:
            return (await self._in_time(read))["data"]["current_version"]
        except hvac.exceptions.InvalidPath:
            return 0

    async def write(self, path: str, key: SealedKey, *, over_version: int) -> None:
        """Writes a sealed key in place of version `over_version` of `path`.

        Raises KeyMoved when that is no longer what lies there, runtime.vault.VaultUnavailable, VaultDenied.
        """

        def put(client: Any) -> None:
            client.secrets.kv.v2.create_or_update_secret(
                path=path, secret=key.model_dump(), cas=over_version, mount_point=MOUNT
            )

        try:
            await self._in_time(put)
        except hvac.exceptions.InvalidRequest as exc:
            # Vault and OpenBao answer 400 to this and to every other request that is invalid: only the text tells.
            if "check-and-set" in str(exc):
                raise KeyMoved(path) from exc
            raise VaultUnavailable("Vault refused the write as invalid") from exc
        except hvac.exceptions.InvalidPath as exc:
            raise VaultUnavailable(f"Vault has no KV v2 store mounted at {MOUNT}/") from exc

    async def delete(self, path: str) -> None:
        """Deletes every version. Raises runtime.vault.VaultUnavailable, VaultDenied."""

        def remove(client: Any) -> None:
            client.secrets.kv.v2.delete_metadata_and_all_versions(path=path, mount_point=MOUNT)

        await self._in_time(remove)

    async def ping(self) -> None:
        """Raises runtime.broker.Unreachable when Vault cannot be used right now."""
        await self._session.start()

    async def _in_time(self, use: Callable[[Any], T]) -> T:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._session.call(use)
        except TimeoutError as exc:
            raise VaultUnavailable("it does not answer in time") from exc
