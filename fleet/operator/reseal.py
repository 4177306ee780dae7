"""`fleet keys reseal`: every key in Vault sealed with the newest sealing key, while the fleet goes on.

A key is read, sealed anew and written with check-and-set over the version that was read, so a key that is set at the
same time wins. Its version of ours stays, so no worker takes it for another. Then the older versions in Vault are
destroyed: they hold the same key, sealed with a key that is about to be retired. Whatever was interrupted is done by
the next run, and several runs at once do no harm.
"""

from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import hvac.exceptions
from pydantic import ValidationError

from contracts.providers import DEFAULT_KEY, SealedKey
from runtime.sealing import Keyring, UnsealError
from runtime.settings import SealingSettings, VaultSettings
from runtime.vault import MOUNT, VaultSession

_WRITES = 5
"""How often a key is looked at again that somebody else writes at the same time."""


class ResealSettings(VaultSettings, SealingSettings):
    """The role `reseal` of Vault, and all sealing keys."""


class Outcome(StrEnum):
    RESEALED = "sealed anew"
    CURRENT = "sealed with the newest key already"
    GONE = "deleted meanwhile"
    FAILED = "not sealed anew"


@dataclass(frozen=True, slots=True)
class Resealed:
    """What became of the key at `path`. `why`: only when it failed."""

    path: str
    outcome: Outcome
    why: str = ""


async def run(settings: ResealSettings) -> tuple[Counter[Outcome], list[Resealed]]:
    """How many ended how, and those that failed. Raises runtime.broker.Unreachable, runtime.vault's errors."""
    vault = VaultSession(settings)
    keyring = Keyring.from_settings(settings)
    counts: Counter[Outcome] = Counter()
    failed: list[Resealed] = []
    try:
        await vault.start()
        async for path in _paths(vault):
            ended = await _reseal(vault, keyring, path)
            counts[ended.outcome] += 1
            if ended.outcome is Outcome.FAILED:
                failed.append(ended)
    finally:
        await vault.close()
    return counts, failed


async def _paths(vault: VaultSession, folder: str = "") -> AsyncGenerator[str]:
    """Of every key below `folder`, which ends with a slash or is the mount itself."""
    for name in await vault.call(lambda client: _names(client, folder)):
        if name.endswith("/"):
            async for path in _paths(vault, folder + name):
                yield path
        else:
            yield folder + name


def _names(client: Any, folder: str) -> list[str]:
    try:
        return client.secrets.kv.v2.list_secrets(path=folder, mount_point=MOUNT)["data"]["keys"]
    except hvac.exceptions.InvalidPath:
        return []


async def _reseal(vault: VaultSession, keyring: Keyring, path: str) -> Resealed:
    try:
        return Resealed(path, await vault.call(partial(_seal_anew, keyring, path)))
    except hvac.exceptions.InvalidPath:
        return Resealed(path, Outcome.GONE)
    except (UnsealError, _LeftAlone) as exc:
        return Resealed(path, Outcome.FAILED, str(exc))


def _seal_anew(keyring: Keyring, path: str, client: Any) -> Outcome:
    provider, tenant, name = _parts(path)
    for _ in range(_WRITES):
        key, version = _read(client, path)
        sealed = keyring.reseal(key.sealed, tenant=tenant, provider=provider, name=name)
        if sealed is not None:
            try:
                version = _write(client, path, key.model_copy(update={"sealed": sealed}), over_version=version)
            except hvac.exceptions.InvalidRequest:
                continue
        _destroy_before(client, path, version)
        return Outcome.CURRENT if sealed is None else Outcome.RESEALED
    raise _LeftAlone("somebody else writes it all the time")


def _read(client: Any, path: str) -> tuple[SealedKey, int]:
    """And Vault's number of it."""
    found = client.secrets.kv.v2.read_secret_version(path=path, mount_point=MOUNT, raise_on_deleted_version=True)
    try:
        return SealedKey.model_validate(found["data"]["data"]), found["data"]["metadata"]["version"]
    except ValidationError:
        raise _LeftAlone("what lies there is no sealed key") from None


def _write(client: Any, path: str, key: SealedKey, *, over_version: int) -> int:
    """Vault's number of what was written."""
    written = client.secrets.kv.v2.create_or_update_secret(
        path=path, secret=key.model_dump(), cas=over_version, mount_point=MOUNT
    )
    return written["data"]["version"]


def _destroy_before(client: Any, path: str, version: int) -> None:
    versions = client.secrets.kv.v2.read_secret_metadata(path=path, mount_point=MOUNT)["data"]["versions"]
    older = [int(number) for number, about in versions.items() if int(number) < version and not about["destroyed"]]
    if older:
        client.secrets.kv.v2.destroy_secret_versions(path=path, versions=older, mount_point=MOUNT)


def _parts(path: str) -> tuple[str, str, str]:
    """Provider, tenant and name."""
    match path.split("/"):
        case [provider, tenant]:
            return provider, tenant, DEFAULT_KEY
        case [provider, tenant, name]:
            return provider, tenant, name
        case _:
            raise _LeftAlone("no key of the fleet lies at such a path")


class _LeftAlone(Exception):
    """A key stays as it is. The message says why."""
