"""Which provider and model serve a request."""

from typing import Any

import pytest

from contracts.errors import NoProvider, UnknownModel
from contracts.providers import Endpoint, ProviderConfig, PublishedProvider, PublishedTenant
from contracts.subjects import Provider
from workers.endpoints.names import Candidate
from workers.endpoints.routing import Routes, endpoints_for

CATALOGUE = {"gpt-4o-mini": "openai", "claude-sonnet-4-5": "anthropic"}


def provider(kind: str, *, default: bool = False, **config: Any) -> PublishedProvider:
    return PublishedProvider(
        provider_id=kind,
        tenant="acme",
        provider_type=Provider(kind),
        is_default=default,
        revision=1,
        config=ProviderConfig(**config),
    )


def routes(*providers: PublishedProvider, **tenant: Any) -> Routes:
    return Routes(
        tenant=PublishedTenant(slug="acme", **tenant),
        providers={p.provider_type: p for p in providers},
        default_models={"openai": "gpt-current", "mock": "echo"},
        vendor_of=CATALOGUE.get,
    )


OPENAI, ANTHROPIC, MOCK = provider("openai"), provider("anthropic"), provider("mock", default=True)


@pytest.mark.parametrize(
    ("model", "pool", "expected"),
    [
        ("openai/gpt-x", None, "openai/gpt-x"),
        ("openai/org/model", None, "openai/org/model"),
        ("openai", None, "openai/gpt-current"),
        ("openai", "openai", "openai/gpt-current"),
        ("meta-llama/Llama-3", "openai", "openai/meta-llama/Llama-3"),
        ("gpt-4o-mini", None, "openai/gpt-4o-mini"),
        ("claude-sonnet-4-5", None, "anthropic/claude-sonnet-4-5"),
        ("gpt-4", None, "openai/gpt-4"),
        ("claude-3-sonnet", None, "anthropic/claude-3-sonnet"),
    ],
)
def test_resolves(model: str, pool: str | None, expected: str) -> None:
    assert [str(c) for c in routes(OPENAI, ANTHROPIC, MOCK).resolve(model, pool=pool)] == [expected]


def test_a_listed_model_goes_to_who_lists_it_and_the_default_first() -> None:
    one = provider("openai", models=("house-model",))
    other = provider("mock", models=("house-model",), default=True)

    assert routes(one).resolve("house-model", pool=None) == [Candidate("openai", "house-model")]
    assert routes(one, other).resolve("house-model", pool=None) == [Candidate("mock", "house-model")]


@pytest.mark.parametrize("model", ["no-such-model", "nothing/like-it"])
def test_a_model_that_nobody_offers_is_unknown(model: str) -> None:
    with pytest.raises(UnknownModel):
        routes(OPENAI, MOCK).resolve(model, pool=None)


def test_an_endpoint_that_lists_deployments_serves_those_models_only() -> None:
    config = ProviderConfig(
        endpoints=(
            Endpoint(name="east", base_url="https://east.example", deployments={"gpt-x": "my-x"}),
            Endpoint(name="west", base_url="https://west.example", deployments={"gpt-x": "x", "gpt-y": "y"}),
        )
    )
    azure = provider("azure", endpoints=config.endpoints)

    assert [e.name for e in endpoints_for(config, "gpt-x")] == ["east", "west"]
    assert [e.name for e in endpoints_for(config, "gpt-y")] == ["west"]
    assert routes(azure).resolve("gpt-y", pool=None) == [Candidate("azure", "gpt-y")]
    with pytest.raises(UnknownModel):
        routes(azure).resolve("azure/gpt-z", pool=None)


def test_a_model_outside_the_list_is_unknown() -> None:
    with pytest.raises(UnknownModel):
        routes(provider("openai", models=("gpt-a",))).resolve("openai/gpt-b", pool=None)


@pytest.mark.parametrize("model", ["openai/gpt-x", "gpt-4o-mini", "gpt-5-next"])
def test_a_vendor_that_the_tenant_has_not_is_no_provider(model: str) -> None:
    with pytest.raises(NoProvider):
        routes(MOCK).resolve(model, pool=None)


def test_an_alias_gives_all_its_targets_that_exist() -> None:
    known = routes(OPENAI, MOCK, aliases={"fast": ("openai/gpt-x", "google/gemini-x", "mock/echo")})

    assert [str(c) for c in known.resolve("fast", pool=None)] == ["openai/gpt-x", "mock/echo"]


def test_an_alias_of_nothing_is_no_provider() -> None:
    with pytest.raises(NoProvider):
        routes(MOCK, aliases={"fast": ("openai/gpt-x",)}).resolve("fast", pool=None)


def test_an_alias_of_itself_ends() -> None:
    with pytest.raises(NoProvider):
        routes(MOCK, aliases={"loop": ("loop",)}).resolve("loop", pool=None)


def test_the_requests_fallbacks_replace_the_tenants() -> None:
    known = routes(OPENAI, ANTHROPIC, MOCK, fallbacks=("mock/a",))

    of_request, _ = known.candidates("openai/x", pool="openai", fallbacks=["anthropic/y", "openai/x"])
    of_tenant, _ = known.candidates("openai/x", pool="openai", fallbacks=[])

    assert [str(c) for c in of_request] == ["openai/x", "anthropic/y"]
    assert [str(c) for c in of_tenant] == ["openai/x", "mock/a"]


def test_a_fallback_that_does_not_exist_is_left_out_and_told() -> None:
    fallbacks = ["google/g", "openai/y", "no-such-model"]

    found, left_out = routes(OPENAI).candidates("openai/x", pool="openai", fallbacks=fallbacks)

    assert [str(c) for c in found] == ["openai/x", "openai/y"]
    assert left_out == [
        "the fallback google/g was left out: tenant acme has no active provider google; "
        "add one with POST /api/v1/llm-providers",
        "the fallback no-such-model was left out: no provider of tenant acme offers the model 'no-such-model'",
    ]


def test_a_fallback_of_the_tenant_is_told_as_such() -> None:
    _, left_out = routes(OPENAI, fallbacks=("google/g",)).candidates("openai/x", pool="openai", fallbacks=[])

    assert [sentence.partition(":")[0] for sentence in left_out] == ["the tenant's fallback google/g was left out"]


def test_what_is_told_of_fallbacks_fits_into_a_header() -> None:
    _, left_out = routes(OPENAI, fallbacks=("x" * 256,) * 40).candidates("openai/x", pool="openai", fallbacks=[])

    assert sum(map(len, left_out)) <= 16 * 250
