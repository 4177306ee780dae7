"""The rows of any source, read as keys. Keys that an older system sealed with Fernet are opened here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from pydantic import SecretStr, ValidationError

from contracts.providers import Endpoint
from contracts.subjects import Provider

_FERNET_BEGINS = "gAAAAA"

COLUMNS = {
    "provider": ("provider_type", "provider", "vendor", "type"),
    "key": ("api_key", "key", "api_key_encrypted", "encrypted_api_key", "encrypted_key", "secret", "token"),
    "tenant": ("tenant", "tenant_slug", "tenant_id", "organization"),
    "base_url": ("base_url", "endpoint", "url", "api_base"),
    "api_version": ("api_version",),
    "region": ("region",),
    "active": ("is_active", "active", "enabled"),
}
"""The names of each column that are recognised, unless the operator names it."""
_PROVIDERS = {
    "azure_openai": Provider.AZURE,
    "azureopenai": Provider.AZURE,
    "claude": Provider.ANTHROPIC,
    "gemini": Provider.GOOGLE,
    "google_ai": Provider.GOOGLE,
    **{provider.value: provider for provider in Provider},
}
_NO = ("0", "f", "false", "n", "no", "off")


class Unreadable(Exception):
    """A source, or one of its keys, cannot be read. The message holds no part of a key."""


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key, and where it was found (`origin`). `tenant` is None when the source names none; `endpoint` is what the
    source says of where the key is used."""

    origin: str
    provider: Provider
    secret: SecretStr
    tenant: str | None = None
    endpoint: Endpoint = field(default_factory=Endpoint)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row that holds no key which can be imported, and why."""

    origin: str
    why: str


Found = FoundKey | Unusable


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read a source."""

    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    """From a name in COLUMNS to the source's own, where that is none of those that are recognised."""
    fernet: MultiFernet | None = None
    """Opens keys that are sealed; None when the operator named no Fernet key."""


def fernet_of(keys: SecretStr) -> MultiFernet:
    """The Fernet keys in a text, separated by commas, the newest first. Raises Unreadable."""
    try:
        return MultiFernet([Fernet(key.strip()) for key in keys.get_secret_value().split(",") if key.strip()])
    except ValueError:
        raise Unreadable("a Fernet key must be URL-safe base64 of 32 bytes") from None


def columns_of(given: Sequence[str]) -> dict[str, str]:
    """The pairs of `ours=theirs` as a mapping. Raises Unreadable."""
    pairs = dict(pair.split("=", 1) for pair in given if "=" in pair)
    if len(pairs) != len(given) or pairs.keys() - COLUMNS.keys():
        raise Unreadable(f"--column must read like key=encrypted_key; ours are {', '.join(COLUMNS)}")
    return pairs


def of_rows(rows: Sequence[Mapping[str, Any]], reading: Reading, *, name: str) -> list[Found]:
    """Reads rows of named columns. `name` is the source's, for the origin that is printed."""
    found: list[Found] = []
    for number, row in enumerate(rows, start=1):
        fields: dict[str, str | None] = {}
        for ours, recognised in COLUMNS.items():
            names = (reading.columns[ours],) if ours in reading.columns else recognised
            value = next((row[theirs] for theirs in names if row.get(theirs) not in (None, "")), None)
            if isinstance(value, (bytes, bytearray, memoryview)):
                value = bytes(value).decode(errors="replace")
            fields[ours] = None if value is None else str(value).strip()
        found.append(of_fields(fields, f"{name} {number}", reading))
    return found


def of_fields(row: Mapping[str, str | None], origin: str, reading: Reading) -> Found:
    """Reads one row, given by the names in COLUMNS."""
    if (row.get("active") or "yes").lower() in _NO:
        return Unusable(origin, "it is marked as inactive")
    provider = _PROVIDERS.get((row.get("provider") or "").lower().replace("-", "_"))
    if provider is None:
        return Unusable(origin, "it names no provider that there is an adapter for")
    key = row.get("key")
    if not key:
        return Unusable(origin, f"it holds no key for {provider}")
    fields = {name: row[name] for name in ("base_url", "api_version", "region") if row.get(name)}
    try:
        secret = _opened(key, reading.fernet)
        if provider is Provider.AZURE and secret.get_secret_value().startswith("{"):
            fields["auth"] = "entra_id"
        return FoundKey(origin, provider, secret, row.get("tenant"), Endpoint.model_validate(fields))
    except Unreadable as exc:
        return Unusable(origin, str(exc))
    except ValidationError as exc:
        return Unusable(origin, f"its {exc.errors(include_input=False)[0]['loc'][0]} is not valid")


def _opened(key: str, fernet: MultiFernet | None) -> SecretStr:
    """The key, opened if it is sealed. Raises Unreadable."""
    if not key.startswith(_FERNET_BEGINS):
        return SecretStr(key)
    if fernet is None:
        raise Unreadable("it is sealed with Fernet; name the variable that holds its key with --fernet-key-env")
    try:
        return SecretStr(fernet.decrypt(key).decode())
    except (InvalidToken, UnicodeDecodeError):
        raise Unreadable("no Fernet key that was given opens it") from None
