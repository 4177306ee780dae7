"""Settings that several roles share, read from the environment as the contract names them."""

import base64
import binascii
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from contracts.streams import Sizes
from contracts.wire import errors_in_one_line
from runtime.networks import Network, parse_networks


class RoleSettings(BaseSettings):
    """The base of each role's settings. Empty variables count as not set."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", populate_by_name=True)


class BrokerSettings(RoleSettings):
    nats_url: str = "nats://127.0.0.1:4222"
    """Several servers of a cluster are separated by commas."""
    nats_user: str | None = None
    nats_password: SecretStr | None = None
    nats_creds: str | None = None
    """Path of a credentials file, in place of user and password."""
    nats_nkey_seed_file: str | None = None
    """Path of an nkey's seed, in place of user and password."""
    nats_cacert: str | None = None
    """Path of the certificate authority, for a TLS server that the system does not trust."""
    nats_tls_cert: str | None = None
    """Path of our own certificate, for a server that wants one."""
    nats_tls_key: str | None = None
    """Path of its key, when the certificate's file does not hold it."""
    nats_inbox_prefix: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]+$")
    """What this user may subscribe for answers; each role has a default of its own."""
    llm_stream_replicas: Annotated[int, Field(ge=1, le=5)] = 1
    llm_queue_limit_per_tenant: Annotated[int, Field(ge=1)] = 1_250
    llm_stream_disk_gb: Annotated[int, Field(ge=14)] = 16
    """GiB that all streams may take on a NATS server's disk: three eighths of it for requests, three sixteenths each
    for usage records and for the ends of requests."""

    @field_validator("nats_url")
    @classmethod
    def _has_hosts(cls, url: str) -> str:
        servers = [server.strip() for server in url.split(",")]
        try:
            hosts = [urlsplit(server if "://" in server else f"nats://{server}").hostname for server in servers]
        except ValueError:
            hosts = [None]
        if not all(hosts):
            raise ValueError("must be the address of a server, like nats://127.0.0.1:4222, or several with commas")
        return url

    @property
    def nats_by_tls(self) -> bool:
        """Whether nothing may be said to the server but by TLS."""
        return bool(self.nats_cacert or self.nats_tls_cert or "tls://" in self.nats_url)

    def sizes(self) -> Sizes:
        """What `contracts.streams.ensure` makes streams by."""
        disk_bytes = self.llm_stream_disk_gb * 1024**3
        return Sizes(
            replicas=self.llm_stream_replicas,
            queue_limit_per_tenant=self.llm_queue_limit_per_tenant,
            max_queue_bytes=disk_bytes * 3 // 8,
            max_usage_bytes=disk_bytes * 3 // 16,
            max_result_bytes=disk_bytes * 3 // 16,
        )


class ProbeSettings(RoleSettings):
    llm_http_host: str = "127.0.0.1"
    llm_http_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Where /healthz, /readyz and /metrics answer; 0 takes a free port and logs it."""


class LogSettings(RoleSettings):
    llm_log_format: Annotated[str, Field(pattern="^(json|plain)$")] = "json"
    llm_log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"


class NetworkSettings(RoleSettings):
    llm_allowed_private_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    """What URLs of tenants may reach although it is no public address: comma-separated CIDRs."""

    @field_validator("llm_allowed_private_networks", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return parse_networks(value) if isinstance(value, str) else value


class PriceSettings(RoleSettings):
    llm_prices_refresh_hours: Annotated[float, Field(ge=0, le=8760)] = 0
    """How often newer prices are fetched; 0: never, the bundled ones are used."""
    llm_prices_url: str = (
        "https://raw.githubusercontent.com/pydantic/genai-prices/refs/heads/main/prices/new_data/v2/data.json"
    )
    """Where: what genai-prices publishes, or a copy of it."""


class DatabaseSettings(RoleSettings):
    database_url: SecretStr

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("DATABASE_URL must start with postgresql://")
        return url


class VaultSettings(RoleSettings):
    vault_addr: str = "http://127.0.0.1:8200"
    vault_role_id: str | None = None
    vault_secret_id: SecretStr | None = None
    vault_k8s_role: str | None = None
    """In place of an AppRole: the role of Vault's Kubernetes auth method that our service account may have."""
    vault_k8s_mount: str = "kubernetes"
    vault_k8s_token_path: str = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105
    """The service account's token; read at each login, because Kubernetes replaces it."""
    vault_token: SecretStr | None = None
    vault_namespace: str | None = None
    vault_cacert: str | None = None

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.vault_role_id and self.vault_k8s_role:
            raise ValueError("VAULT_ROLE_ID and VAULT_K8S_ROLE exclude each other")
        return self


class SealingSettings(RoleSettings):
    """The keys that seal vendor keys: base64 of 32 bytes each, the first one seals."""

    llm_encryption_key: Annotated[SecretStr, Field(validate_default=True)] = SecretStr("")
    llm_encryption_key_previous: Annotated[tuple[SecretStr, ...], NoDecode] = ()

    @field_validator("llm_encryption_key_previous", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("llm_encryption_key", "llm_encryption_key_previous")
    @classmethod
    def _are_32_bytes(cls, value: SecretStr | tuple[SecretStr, ...]) -> SecretStr | tuple[SecretStr, ...]:
        for key in value if isinstance(value, tuple) else (value,):
            decode_key(key)
        return value


def explain(exc: ValidationError) -> str:
    """Which settings are missing or wrong, and why, on one line and without their values."""
    return errors_in_one_line(exc, name=str.upper, missing="is not set")


def decode_key(key: SecretStr) -> bytes:
    """The 32 bytes of a sealing key. Raises ValueError without repeating the key."""
    text = key.get_secret_value().strip()
    try:
        raw = base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise ValueError("must be base64 of 32 bytes; make one with: fleet keys generate")
    return raw
