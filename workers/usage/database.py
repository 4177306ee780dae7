"""Whether PostgreSQL can be used right now, as readiness and the consumer need to know it."""

import asyncio
import logging

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from migrations.engine import address, check
from runtime.backoff import exponential_s
from runtime.broker import Unreachable
from runtime.tasks import every

log = logging.getLogger(__name__)

_EVERY_S = 2.0
_FIRST_RETRY_S = 0.1
_TIMEOUT_S = 10.0


class DatabaseHealth:
    """Asks PostgreSQL now and then, and says whether its last question was answered."""

    def __init__(self, engine: AsyncEngine, url: SecretStr) -> None:
        self.usable = True
        self._engine = engine
        self._url = url

    async def watch(self) -> None:
        """Asks every two seconds, so that `usable` is what readiness should show. Runs for ever."""
        await every(_EVERY_S, self._ask, log=log, failure_event="database_watch_failed")

    async def wait_until_usable(self) -> None:
        """Asks with a growing pause until it answers."""
        failures = 0
        while True:
            await self._ask()
            if self.usable:
                return
            failures += 1
            await asyncio.sleep(exponential_s(_FIRST_RETRY_S, failures=failures, longest_s=_EVERY_S))

    async def _ask(self) -> None:
        """Asks PostgreSQL, and logs when the answer is another one than the last time."""
        error: str | None = None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await check(self._engine, self._url)
        except (Unreachable, TimeoutError) as exc:
            error = str(exc) or "no answer in time"
        except Exception:
            self.usable = False
            raise
        if self.usable and error is not None:
            log.warning("database_unusable", extra={"server": address(self._url), "error": error})
        elif error is None and not self.usable:
            log.info("database_usable", extra={"server": address(self._url)})
        self.usable = error is None
