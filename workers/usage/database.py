"""Whether PostgreSQL can be used right now, as readiness and the consumer need to know it."""

import asyncio
import logging

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from migrations import is_current
from migrations.engine import address, check
from runtime.broker import Unreachable

log = logging.getLogger(__name__)

_INTERVAL_S = 2.0
_FIRST_RETRY_S = 0.1
_TIMEOUT_S = 10.0


class Database:
    """The way to PostgreSQL, and whether its last question was answered."""

    def __init__(self, engine: AsyncEngine, url: SecretStr) -> None:
        self.engine = engine
        self.usable = True
        self._url = url

    async def watch(self) -> None:
        """Asks now and then, for readiness. Runs for ever."""
        while True:
            await self._ask()
            await asyncio.sleep(_INTERVAL_S)

    async def wait_until_usable(self) -> None:
        """Asks with a growing pause until it answers."""
        pause_s = _FIRST_RETRY_S
        while not await self._ask():
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _INTERVAL_S)

    async def require_schema(self) -> None:
        """Raises Unreachable when the tables of this version are missing."""
        async with self.engine.connect() as connection:
            if not await is_current(connection):
                raise Unreachable(
                    f"the database at {address(self._url)} lacks this version's tables; run: fleet migrate"
                )

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await check(self.engine, self._url)
        except (Unreachable, TimeoutError) as exc:
            self._became(usable=False, error=str(exc) or "no answer in time")
        else:
            self._became(usable=True)
        return self.usable

    def _became(self, *, usable: bool, error: str = "") -> None:
        if self.usable and not usable:
            log.warning("database_unusable", extra={"server": address(self._url), "error": error})
        elif usable and not self.usable:
            log.info("database_usable", extra={"server": address(self._url)})
        self.usable = usable
