"""What workers know of tenants and providers: the values of the KV bucket `llm_config`. Never a key."""

import re
from datetime import date
from decimal import Decimal
from functools import cached_property
from ipaddress import IPv4Address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from contracts.requests import MAX_KEEP_S
from contracts.subjects import Provider
from contracts.usage import Money
from contracts.wire import Items, ModelName, StrictWireModel, Token, UtcTime, WireModel, optional

_LIKE_IPV4 = re.compile(r"^[0-9.]+$")


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http or https URL with a host")
    if _LIKE_IPV4.match(parts.hostname):
        IPv4Address(parts.hostname)
    if parts.port == 0:
        raise ValueError("must have a port from 1 to 65535")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must have no user, password, query or fragment")
    return url


BaseUrl = Annotated[str, StringConstraints(max_length=2048, pattern=r"^[\x21-\x7e]+$"), AfterValidator(_http_url)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
ServiceTier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_+-]{1,64}$")]
PricePerMillion = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=20, decimal_places=10)]


DEFAULT_KEY = "default"
"""The name of a provider's first, and mostly only, key."""
KEYLESS = frozenset({Provider.OLLAMA, Provider.MOCK})
"""Who may be called without any key."""
WITHOUT_COMMON_ADDRESS = frozenset({Provider.AZURE})
"""Whose customers have addresses of their own: each endpoint needs a `base_url`."""


class Endpoint(StrictWireModel):
    """One place where a provider can be called: a URL, and for Azure its deployments."""

    name: Token = "default"
    base_url: BaseUrl | None = optional()
    """Left out, it is the vendor's own address."""
    region: Token | None = optional()
    weight: Annotated[int, Field(ge=0, le=1000)] = 1
    api_version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$")] | None = optional()
    deployments: dict[ModelName, ModelName] | None = optional()
    auth: Literal["api_key", "entra_id"] = "api_key"
    key: Token = DEFAULT_KEY
    """Which of the provider's keys is used here; two endpoints with one URL and two keys share the load."""


def _https_unless_local(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("must be an https URL, because a secret is sent there")
    return url


class EntraCredentials(StrictWireModel):
    """The key of an Azure provider whose endpoints have `auth: entra_id`, as JSON text: an application's secret."""

    tenant_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$")]
    """The tenant in Entra ID, which is no tenant of the fleet."""
    client_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$")]
    client_secret: Annotated[SecretStr, Field(min_length=1, max_length=4096)]
    authority: Annotated[BaseUrl, AfterValidator(_https_unless_local)] = "https://login.microsoftonline.com"
    """Where tokens are asked for; national clouds have their own."""


class Timeouts(StrictWireModel):
    connect_s: Seconds = 10
    first_token_s: Seconds = 120
    idle_s: Seconds = 60
    """The longest time between two messages of a stream; a ping counts as one."""
    total_s: Seconds = 600


class ProviderConfig(StrictWireModel):
    """The `config` of a provider, as admins write it."""

    base_url: BaseUrl | None = optional()
    """Short for one endpoint."""
    endpoints: Items[Endpoint] = Field(default=(), max_length=64)
    models: Items[ModelName] = Field(default=(), max_length=1000)
    """What the provider serves; empty: whatever the vendor has."""
    default_model: ModelName | None = optional()
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = optional()
    timeouts: Timeouts = Timeouts()

    @model_validator(mode="after")
    def _endpoints_are_unambiguous(self) -> "ProviderConfig":
        if self.base_url and self.endpoints:
            raise ValueError("give base_url or endpoints, not both")
        names = [endpoint.name for endpoint in self.endpoints]
        if len(set(names)) != len(names):
            raise ValueError("endpoint names must differ")
        return self

    def all_endpoints(self) -> tuple[Endpoint, ...]:
        return self.endpoints or self._one_endpoint

    @cached_property
    def _one_endpoint(self) -> tuple[Endpoint, ...]:
        return (Endpoint(base_url=self.base_url),)


class PublishedProvider(WireModel):
    """A provider of a tenant; KV key `provider.<tenant>.<provider_type>`."""

    provider_id: str
    tenant: Token
    provider_type: Provider
    is_active: bool = True
    is_default: bool = False
    key_version: int | None = None
    """The version of the default key; null when the provider needs no key, or has none."""
    more_key_versions: dict[Token, int] = Field(default_factory=dict)
    """The versions of its other keys, by name."""
    revision: int
    """Rises with every change of the provider."""
    config: ProviderConfig = ProviderConfig()

    def key_versions(self) -> dict[str, int]:
        """The versions of all its keys, by name."""
        default = {} if self.key_version is None else {DEFAULT_KEY: self.key_version}
        return default | self.more_key_versions


class Limits(StrictWireModel):
    """The limits of one tenant across the fleet: null is the environment's default, 0 no limit."""

    requests_per_minute: Annotated[int, Field(ge=0)] | None = None
    requests_per_day: Annotated[int, Field(ge=0)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=0)] | None = None
    tokens_per_day: Annotated[int, Field(ge=0)] | None = None


class TokenPrices(StrictWireModel):
    """USD per million tokens."""

    input_mtok: PricePerMillion
    output_mtok: PricePerMillion
    cache_read_mtok: PricePerMillion | None = optional()
    """Null: input's rate holds."""
    cache_write_mtok: PricePerMillion | None = optional()
    """Null: input's rate holds."""
    cache_write_1h_mtok: PricePerMillion | None = optional()
    """The rate of what the vendor keeps for an hour; null: that of any other cache write."""
    reasoning_mtok: PricePerMillion | None = optional()
    """Null: output's rate holds."""


class LongContextPrices(TokenPrices):
    """The rates of all tokens of a call whose prompt is longer than `above_input_tokens`."""

    above_input_tokens: Annotated[int, Field(ge=1, lt=2**63)]


class TieredPrice(TokenPrices):
    long_context: tuple[LongContextPrices, ...] = Field(default=(), max_length=16, exclude_if=lambda tiers: not tiers)

    @model_validator(mode="after")
    def _thresholds_differ(self) -> "TieredPrice":
        thresholds = [tier.above_input_tokens for tier in self.long_context]
        if len(set(thresholds)) != len(thresholds):
            raise ValueError("above_input_tokens must differ")
        return self


class Price(TieredPrice):
    """A tenant's own price of a model. It holds for the vendor's standard service."""

    service_tiers: dict[ServiceTier, TieredPrice] = Field(
        default_factory=dict, max_length=16, exclude_if=lambda tiers: not tiers
    )
    """The rates of service tiers, by what the vendor says it served a call as: `flex`, `priority`, `batch`, `fast`."""


class BudgetStart(WireModel):
    """When a tenant was given its budget, so that what it had spent on that day counts."""

    day: date
    spent_usd: Money
    revision: Annotated[int, Field(ge=0)]
    """The tenant's revision with which the budget began; each of its budgets counts anew."""


class PublishedTenant(WireModel):
    """A tenant; KV key `tenant.<slug>`."""

    slug: Token
    limits: Limits = Limits()
    daily_budget_usd: Money | None = None
    """Null or 0: there is no budget."""
    budget_start: BudgetStart | None = None
    daily_cost_alert_usd: Money | None = None
    aliases: dict[str, tuple[ModelName, ...]] = Field(default_factory=dict)
    fallbacks: tuple[ModelName, ...] = ()
    prices: dict[str, Price] = Field(default_factory=dict)
    """The tenant's own prices, by `provider/model` or model."""
    max_keep_s: int | None = optional(ge=0, le=MAX_KEEP_S)
    """The longest time for which the ends of its requests are kept; 0: without their content. Null: a week."""
    revision: int = 0


class SealedKey(WireModel):
    """What lies in Vault at `llm/<key_path>`: the key, sealed before it entered Vault."""

    sealed: str
    key_version: Annotated[int, Field(ge=1)]


def key_path(*, tenant: str, provider: str, name: str = DEFAULT_KEY) -> str:
    """`<provider>/<tenant>` for the default key, `<provider>/<tenant>/<name>` for each further one."""
    return f"{provider}/{tenant}" if name == DEFAULT_KEY else f"{provider}/{tenant}/{name}"


StopKind = Literal["waits", "refused", "broken_off", "late"]
"""How a daily budget stopped a request: it waits until other calls give something back, it was refused, its answer was
broken off, or its deadline passed while it waited."""


class BudgetStop(WireModel):
    """A tenant whose daily budget stopped a request."""

    tenant: Token
    how: StopKind
    at: UtcTime


class WorkerPresence(WireModel):
    """KV `llm_health`, key `worker.<name>`: refreshed every few seconds, gone when the worker is."""

    name: Token
    providers: tuple[str, ...]
    host: str
    pid: int
    version: str
    started_at: str
    concurrency: int
    in_flight: int
    parked: int
    draining: bool = False
    budget_stops: tuple[BudgetStop, ...] | None = optional()
    """The last one of each tenant in the last two minutes, of a hundred tenants at most; absent: none."""
