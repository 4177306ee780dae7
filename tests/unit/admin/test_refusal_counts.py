"""A flood of refusals costs one row of bounded size."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.access.refusal_counts import RefusalCounter
from admin_api.database import DatabaseUnavailable


class NoDatabase:
    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        raise DatabaseUnavailable("PostgreSQL does not answer")
        yield


async def test_tells_twenty_apart_and_counts_the_others(caplog: pytest.LogCaptureFixture) -> None:
    database: Any = NoDatabase()
    counter = RefusalCounter(database)
    for number in range(100):
        counter.add(HTTPStatus.UNAUTHORIZED, f"198.51.100.{number}")
    counter.add(HTTPStatus.UNAUTHORIZED, "198.51.100.0")

    await counter.record()

    counts = caplog.records[0].__dict__["counts"]["401"]
    assert (len(counts), counts["others"], counts["198.51.100.0"]) == (21, 80, 2)


async def test_writes_nothing_when_nothing_was_refused(caplog: pytest.LogCaptureFixture) -> None:
    database: Any = NoDatabase()

    await RefusalCounter(database).record()

    assert caplog.records == []
