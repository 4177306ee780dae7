"""The keys of a provider: one by default, further ones by name. What is known of them here is never the key itself."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.http.problems import invalid
from admin_api.publishing.key_vault import KeyMoved, KeyVault
from contracts.providers import DEFAULT_KEY, KEYLESS, EntraCredentials, ProviderConfig, SealedKey, key_path
from contracts.subjects import Provider
from contracts.wire import Token
from runtime.networks import ForbiddenAddress, Network, check_base_url
from runtime.sealing import Keyring, fingerprint
from runtime.vault import MOUNT, VaultDenied, VaultUnavailable

log = logging.getLogger(__name__)

_MAX_KEY_LENGTH = 16_384
_MAX_KEYS = 64
_WRITES = 3
"""How often a key is written that somebody else, who re-seals, writes at the same time."""


def _one_line(key: SecretStr) -> SecretStr:
    value = key.get_secret_value()
    if not value or not value.isprintable() or value != value.strip():
        raise ValueError("must be one line of printable characters without blanks around it")
    if len(value) > _MAX_KEY_LENGTH:
        raise ValueError(f"must have at most {_MAX_KEY_LENGTH} characters")
    return key


def _further(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    if DEFAULT_KEY in keys:
        raise ValueError(f"the key {DEFAULT_KEY} is set with api_key")
    return keys


ApiKey = Annotated[SecretStr, AfterValidator(_one_line)]
NewKeys = Annotated[dict[Token, ApiKey], Field(max_length=_MAX_KEYS), AfterValidator(_further)]
KeyChanges = Annotated[dict[Token, ApiKey | None], Field(max_length=_MAX_KEYS), AfterValidator(_further)]


class KeyView(BaseModel):
    name: str
    fingerprint: str
    """The first 8 hex digits of the key's SHA-256."""
    version: int
    """Rises whenever the key is set."""


@dataclass(frozen=True, slots=True)
class GivenKeys:
    """What a request says of keys. A further key that is None goes; what is not named stays, as does the default one
    when it is None."""

    default: SecretStr | None
    more: Mapping[str, SecretStr | None]

    def set_now(self) -> dict[str, SecretStr]:
        """The keys that are set, by name."""
        default = {DEFAULT_KEY: self.default} if self.default else {}
        return default | {name: key for name, key in self.more.items() if key is not None}

    def removed(self) -> list[str]:
        """The names of the keys that go."""
        return [name for name, key in self.more.items() if key is None]


def views(row: Any) -> list[KeyView]:
    """What a row of `llm_providers` tells of its keys; the default key comes first."""
    default = []
    if row.key_version is not None:
        default = [KeyView(name=DEFAULT_KEY, fingerprint=row.key_fingerprint, version=row.key_version)]
    return default + [KeyView(name=name, **row.more_keys[name]) for name in sorted(row.more_keys)]


class ProviderKeys:
    """Checks the keys that come with a provider, and keeps them in Vault."""

    def __init__(self, vault: KeyVault, keyring: Keyring, *, allowed_networks: Sequence[Network]) -> None:
        """`allowed_networks`: private ones that the authority of Entra ID credentials may lie in."""
        self._vault = vault
        self._keyring = keyring
        self._allowed_networks = allowed_networks

    def check(self, given: GivenKeys, config: ProviderConfig, *, provider: Provider, old: Row[Any] | None) -> None:
        """Raises 422 when an endpoint would be without its key, or a key is not what its endpoint needs.

        `old`: the provider's row before the change; None when it is new.
        """
        set_now = given.set_now()
        known = {key.name for key in views(old)} if old is not None else set[str]()
        known = (known - set(given.removed())) | set_now.keys()
        for index, endpoint in enumerate(config.all_endpoints()):
            if endpoint.key in known:
                continue
            if endpoint.key != DEFAULT_KEY:
                raise invalid(f"config.endpoints.{index}.key", "names no key of this provider; set it with api_keys")
            if provider not in KEYLESS:
                raise invalid("api_key", f"is required for {provider}")
        if len(known) > _MAX_KEYS:
            raise invalid("api_keys", f"a provider has at most {_MAX_KEYS} keys")
        for endpoint in config.all_endpoints():
            if endpoint.auth == "entra_id" and endpoint.key in set_now:
                field = "api_key" if endpoint.key == DEFAULT_KEY else f"api_keys.{endpoint.key}"
                self._check_credentials(field, set_now[endpoint.key])

    async def store(
        self,
        connection: AsyncConnection,
        given: GivenKeys,
        *,
        tenant: str,
        provider: Provider,
        old: Row[Any] | None,
    ) -> dict[str, Any]:
        """Seals the keys, writes them to Vault, and returns the columns of `llm_providers` that tell of them.

        The transaction of `connection` must hold the tenant's lock. Keys that are removed lie in Vault until `forget`,
        but this already raises when Vault is away, so that nothing is removed then. Raises runtime.vault's errors.
        """
        columns: dict[str, Any] = {}
        more: dict[str, Any] = dict(old.more_keys) if old is not None else {}
        for name in given.removed():
            await self._vault.version(key_path(tenant=tenant, provider=provider, name=name))
            more.pop(name, None)
        for name, key in given.set_now().items():
            sealing = self._keyring.seal(key, tenant=tenant, provider=provider, name=name)
            version = _next_version(name, old)
            path = key_path(tenant=tenant, provider=provider, name=name)
            await self._write(connection, path, SealedKey(sealed=sealing, key_version=version))
            if name == DEFAULT_KEY:
                columns |= {
                    "vault_path": f"{MOUNT}/{path}",
                    "key_fingerprint": fingerprint(key),
                    "key_version": version,
                }
            else:
                more[name] = {"fingerprint": fingerprint(key), "version": version}
        if more != (old.more_keys if old is not None else {}):
            columns["more_keys"] = more
        return columns

    async def forget(self, given: GivenKeys, *, tenant: str, provider: Provider) -> None:
        """Deletes from Vault what a change took away. To be called once no worker is told of it any more."""
        for name in given.removed():
            path = key_path(tenant=tenant, provider=provider, name=name)
            try:
                await self._vault.delete(path)
            except (VaultUnavailable, VaultDenied) as exc:
                log.error("key_left_in_vault", extra={"path": f"{MOUNT}/{path}", "error": str(exc)})

    async def _write(self, connection: AsyncConnection, path: str, sealed: SealedKey) -> None:
        """Replaces what lies at `path`, unless another change came between.

        The tenant's lock is in PostgreSQL and the key in Vault, and a lock is lost with its connection. Therefore the
        order: first Vault's version is read, then PostgreSQL is asked for anything at all, which shows that the lock
        is still held, then the write names that version. Whoever takes the lock after it was lost finds another version
        of the key, or makes this write find one; whoever wrote before it was taken is no longer under way. Only
        re-sealing takes no lock, and makes another try necessary.
        """
        for _ in range(_WRITES):
            over = await self._vault.version(path)
            await connection.execute(text("SELECT 1"))
            try:
                return await self._vault.write(path, sealed, over_version=over)
            except KeyMoved:
                continue
        raise VaultUnavailable("somebody else writes this key at the same time")

    def _check_credentials(self, field: str, key: SecretStr) -> None:
        """Raises 422 unless `key` holds credentials of Entra ID with an authority that may be called."""
        try:
            credentials = EntraCredentials.model_validate_json(key.get_secret_value())
            check_base_url(credentials.authority, allowed=self._allowed_networks)
        except ForbiddenAddress as exc:
            raise invalid(field, f"its authority: {exc}") from exc
        except ValidationError:
            # Without its cause, which shows what was sent.
            raise invalid(
                field, "must be a JSON object with tenant_id, client_id and client_secret, for auth entra_id"
            ) from None


def _next_version(name: str, old: Row[Any] | None) -> int:
    """The version that a key gets when it is set.

    A further key takes the revision that its provider will have: a removed name that comes back never repeats a
    version, and no worker takes what it holds for the new key.
    """
    if old is None:
        return 1
    return (old.key_version or 0) + 1 if name == DEFAULT_KEY else old.revision + 1
