"""The keys of a provider: one by default, further ones by name. What is known of them here is never the key itself."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.control_plane import ControlPlane
from admin_api.http.problems import invalid
from admin_api.publishing.key_vault import KeyMoved
from contracts.providers import DEFAULT_KEY, KEYLESS, EntraCredentials, ProviderConfig, SealedKey, key_path
from contracts.subjects import Provider
from contracts.wire import Token
from runtime.networks import ForbiddenAddress, Network, check_base_url
from runtime.sealing import fingerprint
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
    """What a request says of keys. None: the key goes; what is not named stays."""

    default: SecretStr | None
    more: Mapping[str, SecretStr | None]

    def set_now(self) -> dict[str, SecretStr]:
        """By name."""
        default = {DEFAULT_KEY: self.default} if self.default else {}
        return default | {name: key for name, key in self.more.items() if key is not None}

    def removed(self) -> list[str]:
        return [name for name, key in self.more.items() if key is None]


def views(row: Any) -> list[KeyView]:
    """Of a row of `llm_providers`; the default key comes first."""
    default = []
    if row.key_version is not None:
        default = [KeyView(name=DEFAULT_KEY, fingerprint=row.key_fingerprint, version=row.key_version)]
    return default + [KeyView(name=name, **row.more_keys[name]) for name in sorted(row.more_keys)]


def check(
    given: GivenKeys,
    config: ProviderConfig,
    *,
    provider: Provider,
    old: Row[Any] | None,
    allowed: Sequence[Network],
) -> None:
    """Raises 422 when an endpoint would be without its key, or a key is not what its endpoint needs."""
    known = {key.name for key in views(old)} if old is not None else set[str]()
    known = (known - set(given.removed())) | given.set_now().keys()
    for place, endpoint in enumerate(config.all_endpoints()):
        if endpoint.key in known:
            continue
        if endpoint.key != DEFAULT_KEY:
            raise invalid(f"config.endpoints.{place}.key", "names no key of this provider; set it with api_keys")
        if provider not in KEYLESS:
            raise invalid("api_key", f"is required for {provider}")
    if len(known) > _MAX_KEYS:
        raise invalid("api_keys", f"a provider has at most {_MAX_KEYS} keys")
    set_now = given.set_now()
    for endpoint in config.all_endpoints():
        if endpoint.auth == "entra_id" and endpoint.key in set_now:
            field = "api_key" if endpoint.key == DEFAULT_KEY else f"api_keys.{endpoint.key}"
            _check_credentials(field, set_now[endpoint.key], allowed)


async def store(
    plane: ControlPlane,
    connection: AsyncConnection,
    given: GivenKeys,
    *,
    tenant: str,
    provider: Provider,
    old: Row[Any] | None,
) -> dict[str, Any]:
    """Seals the keys, writes them to Vault, and returns the columns that tell of them. What goes lies there until
    `forget`; raises runtime.vault's errors when it could not be deleted either."""
    columns: dict[str, Any] = {}
    more: dict[str, Any] = dict(old.more_keys) if old is not None else {}
    for name in given.removed():
        await plane.vault.version(key_path(tenant=tenant, provider=provider, name=name))
        more.pop(name, None)
    for name, key in given.set_now().items():
        sealing = plane.keyring.seal(key, tenant=tenant, provider=provider, name=name)
        version = _next_version(name, old)
        path = key_path(tenant=tenant, provider=provider, name=name)
        await _write(plane, connection, path, SealedKey(sealed=sealing, key_version=version))
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


async def forget(plane: ControlPlane, given: GivenKeys, *, tenant: str, provider: Provider) -> None:
    """Deletes from Vault what a change took away, once no worker is told of it any more."""
    for path in (key_path(tenant=tenant, provider=provider, name=name) for name in given.removed()):
        try:
            await plane.vault.delete(path)
        except (VaultUnavailable, VaultDenied) as exc:
            log.error("key_left_in_vault", extra={"path": f"{MOUNT}/{path}", "error": str(exc)})


def _next_version(name: str, old: Row[Any] | None) -> int:
    """A further key takes the revision that its provider will have: a removed name that comes back never repeats one,
    and no worker takes what it holds for the new key."""
    if old is None:
        return 1
    return (old.key_version or 0) + 1 if name == DEFAULT_KEY else old.revision + 1


async def _write(plane: ControlPlane, connection: AsyncConnection, path: str, sealed: SealedKey) -> None:
    """Replaces what lies at `path`, unless another change came between.

    This transaction holds the tenant's lock, as the answer in between shows: whoever writes after it was lost finds
    Vault's version another, and whoever wrote before is no longer under way. Only re-sealing takes no lock.
    """
    for _ in range(_WRITES):
        over = await plane.vault.version(path)
        await connection.execute(text("SELECT 1"))
        try:
            return await plane.vault.write(path, sealed, over_version=over)
        except KeyMoved:
            continue
    raise VaultUnavailable("somebody else writes this key at the same time")


def _check_credentials(field: str, key: SecretStr, allowed: Sequence[Network]) -> None:
    try:
        check_base_url(EntraCredentials.model_validate_json(key.get_secret_value()).authority, allowed=allowed)
    except ForbiddenAddress as exc:
        raise invalid(field, f"its authority: {exc}") from exc
    except ValidationError:
        raise invalid(
            field, "must be a JSON object with tenant_id, client_id and client_secret, for auth entra_id"
        ) from None
