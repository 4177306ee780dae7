"""Resolving what a request or a question names to what is configured now, in one place for both."""

from collections.abc import Mapping

from contracts.errors import NoProvider, UnknownTenant
from contracts.providers import PublishedProvider, PublishedTenant
from contracts.requests import CompletionRequest
from contracts.subjects import AUTO
from runtime.prices.catalogue import provider_of_model
from workers.endpoints.configuration import Configuration
from workers.endpoints.names import Candidate
from workers.endpoints.routing import PROVIDERS, Routes


class Router:
    def __init__(self, config: Configuration, *, default_models: Mapping[str, str]) -> None:
        """`default_models`: by provider, for who names only the provider."""
        self._config = config
        self._default_models = default_models

    async def tenant(self, slug: str) -> PublishedTenant:
        """Raises UnknownTenant."""
        tenant = await self._config.tenant(slug)
        if tenant is None:
            raise UnknownTenant(f"there is no tenant {slug}; add it with POST /api/v1/tenants")
        return tenant

    async def provider(self, tenant: str, provider: str) -> PublishedProvider:
        """Raises NoProvider when the tenant has none that is active."""
        configured = await self._config.provider(tenant, provider)
        if configured is None:
            raise NoProvider(
                f"tenant {tenant} has no active provider {provider}; add one with POST /api/v1/llm-providers"
            )
        return configured

    async def candidates(
        self, request: CompletionRequest, *, tenant: PublishedTenant, pool: str
    ) -> tuple[list[Candidate], list[str]]:
        """What may serve the request, in order, and a sentence for each fallback that was left out.

        `pool` is the provider in the request's subject, or `auto`. Raises UnknownModel or NoProvider for the model that
        the request names first.
        """
        named = (request.model, *(request.fallbacks or tenant.fallbacks))
        for prefix in {model.partition("/")[0]: None for model in named}:
            if prefix in PROVIDERS:
                await self._config.provider(tenant.slug, prefix)  # a miss is looked up before it counts
        providers = self._config.providers_of(tenant.slug)
        routes = Routes(tenant, providers, default_models=self._default_models, vendor_of=provider_of_model)
        return routes.candidates(request.model, pool=None if pool == AUTO else pool, fallbacks=request.fallbacks)

    def model(self, named: str, *, tenant: PublishedTenant, configured: PublishedProvider) -> str:
        """The provider's own name of a model that a question to this provider names.

        Raises UnknownModel or NoProvider.
        """
        provider = configured.provider_type
        routes = Routes(
            tenant, {provider: configured}, default_models=self._default_models, vendor_of=provider_of_model
        )
        return next(c for c in routes.resolve(named, pool=provider) if c.provider == provider).model
