"""`fleet keys reseal`: every key in Vault sealed with the newest sealing key, while the fleet goes on.

A key is read, sealed anew and written with check-and-set over the version that was read, so a key that is set at the
same time wins. The version inside `SealedKey` stays, so no worker takes it for another key. Then the older versions in
Vault are destroyed: they hold the same key, sealed with a key that is about to be retired. Whatever was interrupted is
done by the next run, and several runs at once do no harm.
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
"""How often a key is tried that somebody else writes at the same time."""


class ResealSettings(VaultSettings, SealingSettings):
    """How to log in to Vault as the role `reseal`, and all sealing keys."""


class ResealOutcome(StrEnum):
    """What became of a key, in the words that the command prints."""

    RESEALED = "sealed anew"
    CURRENT = "sealed with the newest key already"
    GONE = "deleted meanwhile"
    FAILED = "not sealed anew"


@dataclass(frozen=True, slots=True)
class NotResealed:
    """The key at `path` stays as it is."""

    path: str
    why: str


class _LeftAlone(Exception):
    """A key stays as it is. The message says why."""


async def run(settings: ResealSettings) -> tuple[Counter[ResealOutcome], list[NotResealed]]:
    """Seals every key anew. Returns how many ended how, and those that failed. Raises Unreachable, and the errors of
    runtime.vault."""
    vault = VaultSession(settings)
    keyring = Keyring.from_settings(settings)
    counts: Counter[ResealOutcome] = Counter()
    failed: list[NotResealed] = []
    try:
        await vault.start()
        async for path in _paths(vault):
            try:
                outcome = await vault.call(partial(_seal_anew, keyring, path))
            except hvac.exceptions.InvalidPath:
                outcome = ResealOutcome.GONE
            except (UnsealError, _LeftAlone) as exc:
                outcome = ResealOutcome.FAILED
                failed.append(NotResealed(path, str(exc)))
            counts[outcome] += 1
    finally:
        await vault.close()
    return counts, failed


async def _paths(vault: VaultSession, folder: str = "") -> AsyncGenerator[str]:
    """The path of every key below `folder`, which ends with a slash, or is empty for the mount itself."""

    def names(client: Any) -> list[str]:
        try:
            return client.secrets.kv.v2.list_secrets(path=folder, mount_point=MOUNT)["data"]["keys"]
        except hvac.exceptions.InvalidPath:
            return []  # Vault's answer for a folder without keys

    for name in await vault.call(names):
        if name.endswith("/"):
            async for path in _paths(vault, folder + name):
                yield path
        else:
            yield folder + name


def _seal_anew(keyring: Keyring, path: str, client: Any) -> ResealOutcome:
    """Runs in a thread, as everything that asks hvac. Raises UnsealError, _LeftAlone, and InvalidPath of hvac when the
    key is gone."""
    match path.split("/"):
        case [provider, tenant]:
            name = DEFAULT_KEY
        case [provider, tenant, name]:
            pass
        case _:
            raise _LeftAlone("no key of the fleet lies at such a path")
    kv = client.secrets.kv.v2
    for _ in range(_WRITES):
        found = kv.read_secret_version(path=path, mount_point=MOUNT, raise_on_deleted_version=True)
        try:
            key, version = SealedKey.model_validate(found["data"]["data"]), found["data"]["metadata"]["version"]
        except ValidationError:
            raise _LeftAlone("what lies there is no sealed key") from None
        sealed = keyring.reseal(key.sealed, tenant=tenant, provider=provider, name=name)
        if sealed is not None:
            anew = key.model_copy(update={"sealed": sealed}).model_dump()
            try:
                written = kv.create_or_update_secret(path=path, secret=anew, cas=version, mount_point=MOUNT)
            except hvac.exceptions.InvalidRequest:
                continue  # somebody else was quicker
            version = written["data"]["version"]
        # What came before is sealed with a key that is about to be retired.
        versions = kv.read_secret_metadata(path=path, mount_point=MOUNT)["data"]["versions"]
        older = [int(number) for number, about in versions.items() if int(number) < version and not about["destroyed"]]
        if older:
            kv.destroy_secret_versions(path=path, versions=older, mount_point=MOUNT)
        return ResealOutcome.CURRENT if sealed is None else ResealOutcome.RESEALED
    raise _LeftAlone("somebody else writes it all the time")
