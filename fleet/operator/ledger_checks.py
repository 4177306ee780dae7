"""The ledger checked, mended and priced anew, on DATABASE_URL: `fleet usage verify`, `rebuild` and `reprice`."""

import getpass
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.usage import plain_decimal
from fleet.terminal.tables import Column, Table, name, number
from migrations import open_migrated
from migrations.audit import Origin
from runtime.prices import refresh
from runtime.settings import DatabaseSettings, PriceSettings
from workers.usage import repricing, verification
from workers.usage.entries import Amounts
from workers.usage.verification import Difference, Period

_SHOWN = 100
"""How many rows that differ are shown; the others are counted."""
_DAY_TIMEOUT_S = 3600
"""The time limit of one statement, which is about one day, however many events that has."""


async def verify(period: Period, *, console: Console) -> bool:
    """Shows where roll-ups and events differ. Returns whether they agree."""
    async with _ledger() as engine:
        found = [differences async for _, differences in verification.verify(engine, period)]
    _show([difference for of_day in found for difference in of_day], console)
    wrong = sum(1 for of_day in found if of_day)
    console.print(f"{len(found) - wrong} days agree, {wrong} differ. Days whose events were dropped are not checked.")
    return not wrong


async def rebuild(period: Period, *, console: Console) -> None:
    """Makes the roll-ups what the events come to, and shows what was wrong."""
    async with _ledger() as engine:
        found = [differences async for _, differences in verification.rebuild(engine, period)]
    _show([difference for of_day in found for difference in of_day], console)
    mended = sum(1 for of_day in found if of_day)
    console.print(f"{mended} of {len(found)} days were mended. Days whose events were dropped stay as they are.")


async def reprice(period: Period, *, tenant: str | None, console: Console) -> None:
    """Prices what was booked anew, and shows what changed. The prices are those that workers would use now: fetched
    where LLM_PRICES_REFRESH_HOURS is set."""
    prices = PriceSettings()
    if prices.llm_prices_refresh_hours:
        await refresh.refresh(prices.llm_prices_url)
    try:  # who runs the command, for the audit log
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    origin = Origin(actor=f"operator:{user}", source=socket.gethostname())
    amounts = ("attempts", "USD before", "USD after", "unpriced before", "after")
    changed: list[list[str]] = []
    async with _ledger() as engine:
        async for done in repricing.reprice(engine, period, tenant=tenant, origin=origin):
            if done.events:
                costs = (plain_decimal(done.before), plain_decimal(done.after))
                unpriced = (str(done.unpriced_before), str(done.unpriced_after))
                changed.append([done.day.isoformat(), done.tenant, str(done.events), *costs, *unpriced])
    table = Table((Column("day"), name("tenant"), *map(number, amounts)), changed)
    console.print(table if changed else "No price changed.")


@asynccontextmanager
async def _ledger() -> AsyncGenerator[AsyncEngine]:
    """The ledger's database. Raises Unreachable, also when it has not the newest schema."""
    url = DatabaseSettings.model_validate({}).database_url
    async with open_migrated(url, application_name="fleet-usage", command_timeout_s=_DAY_TIMEOUT_S) as engine:
        yield engine


def _show(differences: Sequence[Difference], console: Console) -> None:
    """Prints a line for each amount that differs."""
    if not differences:
        return
    rows: list[tuple[str, ...]] = []
    for difference in differences[:_SHOWN]:
        key = " ".join(map(str, difference.key))
        for amount, held, summed in zip(Amounts._fields, difference.rolled_up, difference.of_events, strict=True):
            if held != summed:
                rows.append((difference.table, key, amount, str(held), str(summed)))
    columns = (Column("table"), name("row"), Column("amount"), number("rolled up"), number("events"))
    console.print(Table(columns, rows))
    if len(differences) > _SHOWN:
        console.print(f"and {len(differences) - _SHOWN} rows more")
