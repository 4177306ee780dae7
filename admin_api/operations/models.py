"""The models that tenants can ask for: what their active providers offer, and their aliases.

A provider whose configuration names its models is believed; any other one is asked for, through a worker of its pool.
A pool that gives no answer is named in `unavailable`, and the rest is shown.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, PlainSerializer, TypeAdapter
from sqlalchemy import Row, select

from admin_api.access.principals import Principal
from admin_api.database import Database
from admin_api.http.pagination import Page, Paging, decode, encode
from admin_api.http.problems import Problem
from admin_api.operations.worker_rpc import WorkerRpc
from admin_api.publishing import worker_config
from contracts import subjects
from contracts.providers import ProviderConfig, PublishedTenant
from contracts.rpc import ModelInfo, Models, Refusal
from contracts.subjects import Provider, RpcMethod
from contracts.usage import PriceSource, plain_decimal
from contracts.wire import utc_now
from migrations.schema import llm_providers, tenants
from runtime.prices import catalogue

_ALIASES = ""
"""Stands for the provider in the sort key of an alias: before every provider."""
_END = "~"
"""Stands for the provider in a sort key after every provider of a tenant."""

_ANSWER: TypeAdapter[Models | Refusal] = TypeAdapter(Models | Refusal)

Usd = Annotated[Decimal, PlainSerializer(plain_decimal)]
SortKey = tuple[str, str, str]
"""The tenant, provider and id of an entry: the order of the list, and what a cursor holds."""


class ModelPrice(BaseModel):
    """USD per million tokens, of short prompts where long ones cost more, at the vendor's standard service."""

    input_mtok: Usd
    output_mtok: Usd | None
    """Null: there is none by token, as for embeddings."""
    source: PriceSource


class ModelEntry(BaseModel):
    tenant: str
    provider: str | None
    """Null: an alias."""
    id: str
    context_window: int | None = None
    price: ModelPrice | None = None
    """Null: no price is known, which is not the same as free."""
    targets: list[str] | None = None
    """The models that an alias stands for, in the order in which they are tried; null: it is no alias."""

    @property
    def sort_key(self) -> SortKey:
        return self.tenant, self.provider or _ALIASES, self.id


class Unavailable(BaseModel):
    """A provider whose models nobody could tell."""

    tenant: str
    provider: str
    reason: str


class ModelPage(Page[ModelEntry]):
    unavailable: list[Unavailable]


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """Which models are wanted; a field that is None wants any."""

    tenant: str | None = None
    provider: Provider | None = None


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some tenants with their active providers, as they are configured."""

    tenants: Sequence[Row[Any]]
    providers: Sequence[Row[Any]]
    more: bool


class ModelList:
    """Lists the models that tenants can ask for, some tenants at a time."""

    def __init__(
        self, database: Database, workers: WorkerRpc, *, tenants_at_once: int = 10, ask_for_s: float = 8.0
    ) -> None:
        """`ask_for_s`: after this time no further tenants are asked for, and the page ends early."""
        self._database = database
        self._workers = workers
        self._tenants_at_once = tenants_at_once
        self._ask_for_s = ask_for_s

    async def page(self, wanted: ModelFilter, *, caller: Principal, paging: Paging) -> ModelPage:
        """Those of the wanted models that the caller sees: by tenant, provider and id, a tenant's aliases first.

        A page may have fewer than `limit` entries and still a `next`. Raises 403, 422.
        """
        wanted = replace(wanted, tenant=caller.scope(wanted.tenant))
        after: SortKey = ("", "", "")
        if paging.cursor is not None:
            tenant, provider, model = decode(paging.cursor, str, str, str)
            after = (tenant, provider, model)
        items: list[ModelEntry] = []
        missing: list[Unavailable] = []
        give_up_at = asyncio.get_running_loop().time() + self._ask_for_s
        while True:
            batch = await self._read(wanted, after)
            entries, silent = await self._entries(batch, wanted, after)
            items += entries
            missing += silent
            if len(items) > paging.limit:
                items = items[: paging.limit]
                shown = [one for one in missing if (one.tenant, one.provider, "") <= items[-1].sort_key]
                return ModelPage(items=items, next=encode(*items[-1].sort_key), unavailable=shown)
            if not batch.more:
                return ModelPage(items=items, next=None, unavailable=missing)
            after = (batch.tenants[-1].slug, _END, "")
            if asyncio.get_running_loop().time() > give_up_at:
                return ModelPage(items=items, next=encode(*after), unavailable=missing)

    async def _read(self, wanted: ModelFilter, after: SortKey) -> _Batch:
        of_tenants = (
            select(tenants).where(tenants.c.slug >= after[0]).order_by(tenants.c.slug).limit(self._tenants_at_once + 1)
        )
        if wanted.tenant is not None:
            of_tenants = of_tenants.where(tenants.c.slug == wanted.tenant)
        async with self._database.transaction() as connection:
            found = (await connection.execute(of_tenants)).all()
            slugs = [row.slug for row in found[: self._tenants_at_once]]
            of_providers = select(llm_providers).where(llm_providers.c.tenant.in_(slugs), llm_providers.c.is_active)
            if wanted.provider is not None:
                of_providers = of_providers.where(llm_providers.c.provider_type == wanted.provider)
            providers = (await connection.execute(of_providers)).all()
        return _Batch(found[: self._tenants_at_once], providers, more=len(found) > self._tenants_at_once)

    async def _entries(
        self, batch: _Batch, wanted: ModelFilter, after: SortKey
    ) -> tuple[list[ModelEntry], list[Unavailable]]:
        """The batch's entries in order, and who could not tell theirs. Only what comes after `after` is asked for. When
        a provider was asked for, only those aliases are shown that have a target there."""
        rows = [row for row in batch.providers if (row.tenant, row.provider_type) >= after[:2]]
        answers = await asyncio.gather(*(self._models_of(row) for row in rows))
        known = {row.slug: worker_config.tenant(row) or PublishedTenant(slug=row.slug) for row in batch.tenants}
        entries = [
            ModelEntry(tenant=tenant.slug, provider=None, id=alias, targets=list(targets))
            for tenant in known.values()
            for alias, targets in tenant.aliases.items()
            if wanted.provider is None or any(target.partition("/")[0] == wanted.provider for target in targets)
        ]
        silent: list[Unavailable] = []
        for row, answer in zip(rows, answers, strict=True):
            if isinstance(answer, str):
                silent.append(Unavailable(tenant=row.tenant, provider=row.provider_type, reason=answer))
            else:
                models = {model.id: model for model in answer}.values()
                entries += [_entry(model, row.provider_type, known[row.tenant]) for model in models]
        in_order = sorted((entry for entry in entries if entry.sort_key > after), key=lambda entry: entry.sort_key)
        unseen = [one for one in silent if (one.tenant, one.provider, "") > after]
        return in_order, sorted(unseen, key=lambda one: (one.tenant, one.provider))

    async def _models_of(self, row: Row[Any]) -> Sequence[ModelInfo] | str:
        """The models of a provider, or why nobody could tell them."""
        provider = worker_config.provider(row)
        if provider is None:
            return "this version cannot read its configuration"
        if (named := offered(provider.config)) is not None:
            return [ModelInfo(id=model) for model in named]
        subject = subjects.rpc(provider.provider_type, RpcMethod.MODELS, provider.tenant)
        try:
            answer = await self._workers.ask(subject, b"", answers=_ANSWER)
        except Problem as problem:
            return problem.detail
        match answer:
            case Models():
                return answer.models
            case Refusal():
                return answer.error.message


def offered(config: ProviderConfig) -> list[str] | None:
    """The models that a configuration names; None: whatever the vendor has."""
    endpoints = config.all_endpoints()
    deployed = [model for endpoint in endpoints for model in endpoint.deployments or ()]
    takes_any = any(endpoint.deployments is None for endpoint in endpoints)
    if config.models:
        return [model for model in config.models if takes_any or model in deployed]
    return None if takes_any else list(dict.fromkeys(deployed))


def _entry(model: ModelInfo, provider: str, tenant: PublishedTenant) -> ModelEntry:
    """A model as the list shows it, with the price at which the tenant's usage of it is counted now."""
    prices, source = catalogue.find_prices(provider, model.id, at=utc_now(), overrides=tenant.prices)
    price = None
    if prices is not None:
        price = ModelPrice(input_mtok=prices.base.input, output_mtok=prices.base.output, source=source)
    return ModelEntry(
        tenant=tenant.slug,
        provider=provider,
        id=model.id,
        context_window=model.context_window or catalogue.context_window(provider, model.id),
        price=price,
    )
