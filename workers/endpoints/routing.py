"""Which provider and model serve a request, in order; and which endpoint of a provider."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from contracts.errors import NoProvider, UnknownModel
from contracts.providers import Endpoint, ProviderConfig, PublishedProvider, PublishedTenant
from contracts.subjects import Provider
from workers.endpoints.names import Candidate
from workers.providers.registry import vendor_named_by

PROVIDERS = frozenset(p.value for p in Provider)
"""What a model's name may begin with to say whose it is."""
_SENTENCE_CHARS, _MOST_SENTENCES = 250, 16
"""Bounds of the sentences that say why fallbacks were left out: they travel in a header, and NATS bounds those."""


@dataclass(frozen=True, slots=True)
class Routes:
    """What a tenant can reach."""

    tenant: PublishedTenant
    providers: Mapping[str, PublishedProvider]
    """The active ones, by type."""
    default_models: Mapping[str, str]
    """The model of each provider for requests that name only the provider."""
    vendor_of: Callable[[str], str | None]
    """Which vendor the price catalogue lists a model under."""

    def candidates(
        self, model: str, *, pool: str | None, fallbacks: Sequence[str]
    ) -> tuple[list[Candidate], list[str]]:
        """The request's own model first, then its fallbacks, else the tenant's; and why a fallback was left out.

        `pool` is the provider in the request's subject, None for `auto`. Raises UnknownModel or NoProvider for the
        first choice; fallbacks that cannot be resolved are left out, with a sentence each.
        """
        found = self.resolve(model, pool=pool)
        left_out: list[str] = []
        whose = "the" if fallbacks else "the tenant's"
        for fallback in fallbacks or self.tenant.fallbacks:
            try:
                found += self.resolve(fallback, pool=None)
            except (UnknownModel, NoProvider) as exc:
                left_out.append(f"{whose} fallback {fallback[:80]} was left out: {exc.message}"[:_SENTENCE_CHARS])
        return list(dict.fromkeys(found)), left_out[:_MOST_SENTENCES]

    def resolve(self, model: str, *, pool: str | None) -> list[Candidate]:
        """One candidate, or for an alias each of its targets that the tenant has.

        An alias among the targets of an alias is not followed. Raises UnknownModel or NoProvider.
        """
        if model not in self.tenant.aliases:
            return [self._target(model, pool=pool)]
        found: list[Candidate] = []
        for target in self.tenant.aliases[model]:
            with suppress(UnknownModel, NoProvider):  # targets that the tenant has not are left out
                found.append(self._target(target, pool=None))
        if not found:
            raise NoProvider(f"no target of the alias {model!r} of tenant {self.tenant.slug} is configured")
        return found

    def _target(self, model: str, *, pool: str | None) -> Candidate:
        """What a name stands for that is no alias: the provider is named in it, or is the pool's, or is looked for."""
        prefix, _, rest = model.partition("/")
        if prefix in PROVIDERS:
            return self._of_provider(prefix, rest)
        if pool is not None:
            return self._of_provider(pool, model)
        offering = sorted(
            (
                p
                for p in self.providers.values()
                if model in p.config.models or any(model in (e.deployments or {}) for e in p.config.endpoints)
            ),
            key=lambda p: (not p.is_default, p.provider_type),
        )
        if offering:
            return Candidate(offering[0].provider_type, model)
        vendor = self.vendor_of(model) or vendor_named_by(model)
        if vendor is None:
            raise UnknownModel(f"no provider of tenant {self.tenant.slug} offers the model {model!r}")
        return self._of_provider(vendor, model)

    def _of_provider(self, provider: str, model: str) -> Candidate:
        configured = self.providers.get(provider)
        if configured is None:
            raise NoProvider(
                f"tenant {self.tenant.slug} has no active provider {provider}; add one with POST /api/v1/llm-providers"
            )
        config = configured.config
        model = model or config.default_model or self.default_models.get(provider) or next(iter(config.models), "")
        if not model:
            raise UnknownModel(f"{provider} of tenant {self.tenant.slug} has no default model; name one")
        if (config.models and model not in config.models) or not endpoints_for(config, model):
            raise UnknownModel(f"{provider} of tenant {self.tenant.slug} does not offer the model {model!r}")
        return Candidate(provider, model)


def endpoints_for(config: ProviderConfig, model: str) -> list[Endpoint]:
    """Those that can be asked for the model; an endpoint that lists deployments has only those."""
    return [e for e in config.all_endpoints() if e.deployments is None or model in e.deployments]
