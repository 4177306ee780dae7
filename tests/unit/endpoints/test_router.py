"""What is configured, as requests and questions find it."""

import pytest

from contracts.errors import NoProvider, UnknownModel, UnknownTenant
from contracts.providers import ProviderConfig, PublishedProvider, PublishedTenant
from contracts.subjects import Provider
from tests.memory import ECHO, MemoryConfiguration, request
from workers.endpoints.router import Router

ACME = PublishedTenant(slug="acme", aliases={"fast": ("openai/gpt-4o", "mock/echo")})
MOCK = PublishedProvider(
    provider_id="p",
    tenant="acme",
    provider_type=Provider.MOCK,
    revision=1,
    config=ProviderConfig.model_validate({"models": ["echo"]}),
)


def router(tenant: PublishedTenant = ACME) -> Router:
    return Router(MemoryConfiguration(tenant, MOCK), default_models={})


async def test_what_is_not_there_is_named_with_the_way_to_add_it() -> None:
    assert await router().tenant("acme") == ACME
    assert await router().provider("acme", "mock") == MOCK
    with pytest.raises(UnknownTenant, match="no tenant nobody; add it with POST"):
        await router().tenant("nobody")
    with pytest.raises(NoProvider, match="no active provider openai; add one with POST"):
        await router().provider("acme", "openai")


@pytest.mark.parametrize(
    ("model", "fallbacks", "pool", "left_out"),
    [
        ("mock/echo", (), "mock", 0),
        ("echo", (), "mock", 0),
        ("echo", (), "auto", 0),
        ("fast", (), "auto", 0),
        ("mock/echo", ("openai/gpt-4o",), "mock", 1),
    ],
)
async def test_a_request_has_the_candidates_that_are_configured(
    model: str, fallbacks: tuple[str, ...], pool: str, left_out: int
) -> None:
    asked = request(model=model, fallbacks=fallbacks)

    candidates, sentences = await router().candidates(asked, tenant=ACME, pool=pool)

    assert (candidates, len(sentences)) == ([ECHO], left_out)


@pytest.mark.parametrize("named", ["mock/echo", "echo", "fast"])
def test_a_question_to_a_provider_names_one_of_its_models(named: str) -> None:
    assert router().model(named, tenant=ACME, configured=MOCK) == "echo"


def test_a_question_about_a_model_that_is_not_offered_is_refused() -> None:
    with pytest.raises(UnknownModel):
        router().model("mock/other", tenant=ACME, configured=MOCK)
