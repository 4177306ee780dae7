"""The usage consumer as a process: settings, connections, probes, and a clean end."""

import asyncio
import logging
from contextlib import AsyncExitStack

from migrations import open_migrated
from runtime import broker, logs, probes, role
from runtime.broker import Unreachable
from runtime.tasks import end
from workers.clock import Clock
from workers.endpoints.configuration import Configuration
from workers.usage import backlog, retention
from workers.usage.abandoned import AbandonedCalls
from workers.usage.alerts.budget_stops import BudgetStops
from workers.usage.alerts.circuits import Circuits
from workers.usage.alerts.evaluator import Evaluator
from workers.usage.consumer import UsageConsumer
from workers.usage.database import DatabaseHealth
from workers.usage.ledger import Ledger
from workers.usage.settings import UsageSettings

log = logging.getLogger(__name__)

NAME = "fleet-usage"
INBOX_PREFIX = "_ROLE_usage"


def main(*, retention_days: int | None = None) -> int:
    """Runs the usage consumer until SIGTERM or SIGINT. Returns the exit code.

    `retention_days` goes before the environment's; without it the environment decides.
    """

    async def with_environment(stop: asyncio.Event) -> None:
        given = {} if retention_days is None else {"llm_usage_retention_days": retention_days}
        settings = UsageSettings.model_validate(given)  # the rest is from the environment
        logs.configure(settings)
        await run(settings, stop=stop)

    return role.run(with_environment)


async def run(settings: UsageSettings, *, stop: asyncio.Event, ready: asyncio.Event | None = None) -> None:
    """Books until `stop` is set. Raises Unreachable when it cannot start or NATS refuses it for good."""
    clock = Clock()
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(broker.connect(settings, name=NAME, inbox_prefix=INBOX_PREFIX))
        await broker.ensure_streams(nats, settings)
        engine = await stack.enter_async_context(open_migrated(settings.database_url, application_name=NAME))
        health = DatabaseHealth(engine, settings.database_url)
        checks = {"nats": lambda: nats.connected, "database": lambda: health.usable}
        await stack.enter_async_context(probes.serve(settings, checks))
        ledger = Ledger(engine)
        consumer = UsageConsumer(nats, ledger, health, clock=clock)
        await consumer.start()
        config = Configuration(nats)
        abandoned = AbandonedCalls(nats, ledger, config, health, grace_s=settings.llm_attempt_grace_s, clock=clock)
        circuits = Circuits(nats)
        stops = BudgetStops(nats)
        evaluator = Evaluator(engine, circuits, settings.thresholds(), clock=clock, stops=stops)
        role.is_set_up()  # without it a batch takes a third longer
        log.info("usage_consumer_started")
        if ready:
            ready.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(consumer.run(), name="usage-consumer")
            days = retention.keep(engine, retention_days=settings.llm_usage_retention_days)
            jobs = [
                tasks.create_task(health.watch(), name="database-watch"),
                tasks.create_task(backlog.watch(nats.client), name="usage-backlog"),
                tasks.create_task(days, name="usage-retention"),
                tasks.create_task(circuits.watch(), name="circuits-watch"),
                tasks.create_task(stops.watch(), name="budget-stops-watch"),
                tasks.create_task(config.bucket.run(), name="configuration-watch"),
                tasks.create_task(abandoned.run(), name="abandoned-calls"),
                tasks.create_task(evaluator.keep_evaluating(), name="alerts"),
            ]
            await role.first_of(stop.wait(), nats.closed.wait())
            await end(*jobs)
            consumer.stop()
        if nats.closed.is_set():
            raise Unreachable(f"NATS at {broker.address(settings.nats_url)} closed the connection for good")
    log.info("usage_consumer_stopped")
