"""Newer prices than the bundled ones, for those who ask for them with LLM_PRICES_REFRESH_HOURS.

What is fetched is the catalogue that genai-prices publishes. When it cannot be had or read, prices stay as they are.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import _providers_from_raw  # pyright: ignore[reportPrivateUsage]

from runtime.prices import catalogue
from runtime.settings import PriceSettings
from runtime.tasks import end, every

log = logging.getLogger(__name__)

_HOUR_S = 3600
_TIMEOUT_S = 60
_MAX_BYTES = 64 * 1024 * 1024


class NotRefreshed(Exception):
    """The prices are those from before; the text says why."""


@asynccontextmanager
async def kept_current(settings: PriceSettings) -> AsyncGenerator[None]:
    """Fetches prices at once and every so often meanwhile, if the settings say so."""
    if not settings.llm_prices_refresh_hours:
        yield
        return
    failing = False

    async def fetch() -> None:
        """Logs the first failure of several in a row."""
        nonlocal failing
        try:
            await refresh(settings.llm_prices_url)
        except NotRefreshed as exc:
            if not failing:
                log.warning("prices_not_refreshed", extra={"error": str(exc), "used": catalogue.catalogue_version()})
            failing = True
        else:
            log.info("prices_refreshed", extra={"catalogue": catalogue.catalogue_version()})
            failing = False

    period_s = settings.llm_prices_refresh_hours * _HOUR_S
    keeping = every(period_s, fetch, log=log, failure_event="prices_not_refreshed")
    task = asyncio.create_task(keeping, name="refresh prices")
    try:
        yield
    finally:
        await end(task)


async def refresh(url: str) -> None:
    """Takes the catalogue that is published at `url`, from now on. Raises NotRefreshed."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            catalogue.use(await asyncio.to_thread(_parse, await _fetch(url)))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError, ValueError, TypeError, LookupError) as exc:
        raise NotRefreshed(f"no newer prices could be fetched: {type(exc).__name__}: {str(exc)[:200]}") from exc


async def _fetch(url: str) -> bytes:
    body = bytearray()
    async with httpx2.AsyncClient() as client, client.stream("GET", url) as response:
        response.raise_for_status()
        async for part in response.aiter_bytes():
            body += part
            if len(body) > _MAX_BYTES:
                raise ValueError(f"the catalogue is larger than {_MAX_BYTES} bytes")
    return bytes(body)


def _parse(body: bytes) -> DataSnapshot:
    """Raises ValueError, of which pydantic's errors are. Takes a second, so not on the event loop."""
    providers: Any = json.loads(body)
    if not isinstance(providers, list):
        raise ValueError("the catalogue is no list of providers")
    return DataSnapshot(_providers_from_raw(providers), from_auto_update=True)
