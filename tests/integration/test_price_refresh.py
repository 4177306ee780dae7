"""Prices are fetched only when that is asked for, and a server that has none changes nothing."""

import json
import logging
from collections.abc import AsyncGenerator, Generator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from aiohttp import web
from genai_prices import data_snapshot

from contracts.usage import Usage
from runtime.prices import catalogue, refresh
from runtime.prices.pricing import price
from runtime.settings import PriceSettings
from tests.patience import until
from tests.web import serving

NEVER_IN_THIS_TEST_H = 100.0
OFTEN_H = 0.05 / 3600


def published(**prices: object) -> list[dict[str, object]]:
    """A catalogue with one model for each vendor that has prices."""
    return [
        {
            "id": vendor,
            "name": vendor,
            "api_pattern": f"https://{vendor}",
            "models": [
                {"id": "m", "match": {"equals": "m"}, "prices": {"output_mtok": 1, "input_mtok": 0.15, **prices}}
            ],
        }
        for vendor in ("openai", "anthropic", "google", "azure")
    ]


class Site:
    """Where the catalogue is published."""

    def __init__(self) -> None:
        self.says: object = published()
        self.status = 200
        self.asked = 0
        self.url = ""

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(text=json.dumps(self.says), status=self.status)


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
    made = Site()
    app = web.Application()
    app.router.add_get("/data.json", made.answer)
    async with serving(app) as port:
        made.url = f"http://127.0.0.1:{port}/data.json"
        yield made


@pytest.fixture(autouse=True)
def bundled() -> Generator[None]:
    before = data_snapshot.get_snapshot()
    yield
    catalogue.use(before)


def settings(site: Site, *, every_h: float) -> PriceSettings:
    return PriceSettings(llm_prices_refresh_hours=every_h, llm_prices_url=site.url)


def cost(model: str = "m") -> Decimal | None:
    usage = Usage(input_tokens=1_000_000)
    return price(usage, provider="openai", model=model, at=datetime(2026, 11, 1, tzinfo=UTC), overrides={}).amount


async def test_nothing_is_fetched_unasked(site: Site) -> None:
    async with refresh.kept_current(settings(site, every_h=0)):
        assert cost("gpt-4o") == Decimal("2.5")
    assert site.asked == 0
    assert PriceSettings().llm_prices_refresh_hours == 0


async def test_what_was_fetched_is_the_price_from_then_on_and_says_so(site: Site) -> None:
    assert cost() is None

    async with refresh.kept_current(settings(site, every_h=NEVER_IN_THIS_TEST_H)):
        await until(lambda: cost() == Decimal("0.15"))

    assert cost("gpt-4o") is None
    assert " of 20" in catalogue.catalogue_version()


async def test_prices_are_fetched_again_and_again(site: Site) -> None:
    async with refresh.kept_current(settings(site, every_h=OFTEN_H)):
        await until(lambda: cost() == Decimal("0.15"))
        site.says = published(input_mtok=7)
        await until(lambda: cost() == Decimal(7))


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (500, []),
        (200, {"no": "list"}),
        (200, []),
        (200, published()[:2]),
        (200, published(input_mtok="none")),
        (200, [7]),
        (404, published()),
    ],
)
async def test_a_catalogue_that_cannot_be_read_changes_nothing(site: Site, status: int, says: object) -> None:
    site.status, site.says = status, says

    with pytest.raises(refresh.NotRefreshed):
        await refresh.refresh(site.url)

    assert cost("gpt-4o") == Decimal("2.5")
    assert " of " not in catalogue.catalogue_version()


async def test_a_failure_is_told_once_until_it_is_over(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="runtime.prices.refresh")
    site.status = 503

    async with refresh.kept_current(settings(site, every_h=OFTEN_H)):
        await until(lambda: site.asked > 3)
        site.status = 200
        await until(lambda: cost() is not None)
        site.status = 503
        asked = site.asked
        await until(lambda: site.asked > asked + 3)

    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["prices_not_refreshed", "prices_not_refreshed"]
    assert cost() == Decimal("0.15")
