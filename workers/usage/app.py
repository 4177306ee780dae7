"""The usage consumer as a process: settings, connections, probes, and a clean end."""

import asyncio
import gc
import logging
from contextlib import AsyncExitStack

from migrations import open_migrated
from runtime import broker, logs, probes, role
from runtime.broker import Unreachable
from runtime.tasks import end
from workers.clock import Clock
from workers.usage import backlog, retention
from workers.usage.alerts.circuits import Circuits
from workers.usage.alerts.evaluator import Evaluator
from workers.usage.consumer import UsageConsumer
from workers.usage.database import DatabaseHealth
from workers.usage.ledger import Ledger
from workers.usage.settings import UsageSettings

log = logging.getLogger(__name__)

NAME = "fleet-usage"
INBOX_PREFIX = "_ROLE_usage"
_COLLECTED = 20_000, 10, 50
"""Objects of a batch, and more, before they are looked through."""


def main(*, retention_days: int | None = None) -> int:
    """Runs the usage consumer until SIGTERM or SIGINT. Returns the exit code.

    `retention_days` None: as the environment says.
    """

    async def with_environment(stop: asyncio.Event) -> None:
        given = {} if retention_days is None else {"llm_usage_retention_days": retention_days}
        settings = UsageSettings.model_validate(given)  # the rest is from the environment
        logs.configure(settings)
        await run(settings, stop=stop)

    return role.run(with_environment)


async def run(settings: UsageSettings, *, stop: asyncio.Event, ready: asyncio.Event | None = None) -> None:
    """Books until `stop` is set. Raises Unreachable when it cannot start or NATS refuses it for good."""
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(broker.connect(settings, name=NAME, inbox_prefix=INBOX_PREFIX))
        await broker.ensure_streams(nats, settings)
        engine = await stack.enter_async_context(open_migrated(settings.database_url, application_name=NAME))
        database = DatabaseHealth(engine, settings.database_url)
        checks = {"nats": lambda: nats.connected, "database": lambda: database.usable}
        await stack.enter_async_context(probes.serve(settings, checks))
        consumer = UsageConsumer(nats.client, Ledger(engine), database)
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        # Each batch makes many objects without cycles, and the collector would look through them again and again, and
        # through all that the imports made: a third slower.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECTED)
        log.info("usage_consumer_started")
        if ready:
            ready.set()
        async with asyncio.TaskGroup() as tasks:
            circuits = Circuits(nats)
            alerts = Evaluator(engine, circuits, settings.thresholds(), clock=Clock())
            days = retention.keep(engine, retention_days=settings.llm_usage_retention_days)
            jobs = [
                tasks.create_task(database.watch(), name="database-watch"),
                tasks.create_task(backlog.watch(nats.client), name="usage-backlog"),
                tasks.create_task(days, name="usage-retention"),
                tasks.create_task(circuits.watch(), name="circuits-watch"),
                tasks.create_task(alerts.keep_evaluating(), name="alerts"),
            ]
            await role.first_of(stop.wait(), nats.closed.wait())
            await end(*jobs)
        if nats.closed.is_set():
            raise Unreachable(f"NATS at {broker.address(settings.nats_url)} closed the connection for good")
    log.info("usage_consumer_stopped")
