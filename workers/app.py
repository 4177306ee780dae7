"""The composition root of a worker pool."""

import asyncio
import os
import random
import secrets
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import version

from contracts.providers import WorkerPresence
from contracts.subjects import AUTO
from contracts.wire import utc_now
from runtime import broker, logs, probes, role
from runtime.egress import Egress
from runtime.jetstream.publishing import Publisher
from runtime.prices import refresh
from runtime.sealing import Keyring
from runtime.tasks import end
from runtime.vault import VaultSession
from workers import telemetry
from workers.clock import Clock
from workers.control.cancellations import Cancellations
from workers.control.rpc import Control
from workers.endpoints.admission import EndpointGate
from workers.endpoints.circuit_breaker import CircuitBreaker
from workers.endpoints.concurrency import ConcurrencyLimit
from workers.endpoints.configuration import Configuration
from workers.endpoints.keys import KeyStore
from workers.endpoints.load_balancing import LoadBalancer
from workers.endpoints.router import Router
from workers.intake.puller import Intake
from workers.intake.waiting_room import WaitingRoom
from workers.jetstream.presence import Presence
from workers.jetstream.server_memory import until_kept
from workers.providers import registry
from workers.providers.base import Prepares
from workers.quotas.budgets import Budgets
from workers.quotas.holds import Holds
from workers.quotas.orphaned_holds import OrphanedHolds
from workers.quotas.rate_limiter import RateLimiter
from workers.request.events import LiveStreams
from workers.request.execution import Execution
from workers.request.services import Services
from workers.settings import WorkerSettings

_RESOLVER_SLOTS = 64
_WAITING_PART = 4
"""Of the slots: what the requests of one tenant may hold while they wait."""


def main(providers: Sequence[str], *, concurrency: int | None = None) -> int:
    """Runs a worker for these providers until SIGTERM or SIGINT; returns the exit code."""

    async def start(stop: asyncio.Event) -> None:
        settings = WorkerSettings.model_validate({})
        logs.configure(settings)
        await run(settings, providers, stop=stop, concurrency=concurrency or settings.llm_worker_concurrency)

    return role.run(start)


async def run(
    settings: WorkerSettings,
    providers: Sequence[str],
    *,
    stop: asyncio.Event,
    concurrency: int,
    ready: asyncio.Event | None = None,
) -> None:
    """Works until `stop`; sets `ready` when requests are taken. Raises runtime.broker.Unreachable at start."""
    name = f"{'-'.join(providers)[:32]}-{socket.gethostname().split('.')[0][:16]}-{secrets.token_hex(3)}"
    inbox = f"_ROLE_worker_{'_'.join(providers)}"  # a pool's own: what it pulls arrives there
    clock = Clock()
    async with AsyncExitStack() as stack:
        egress = Egress(settings.llm_allowed_private_networks)
        adapters = {provider: registry.load(provider, egress) for provider in providers}
        for adapter in adapters.values():
            stack.push_async_callback(adapter.aclose)
            if isinstance(adapter, Prepares):
                preparing = asyncio.create_task(asyncio.to_thread(adapter.prepare), name="prepare adapter")
                stack.push_async_callback(end, preparing)
        nats = await stack.enter_async_context(broker.connect(settings, name=name, inbox_prefix=inbox))
        await broker.ensure_streams(nats, settings)
        vault = VaultSession(settings)
        stack.push_async_callback(vault.close)
        await vault.start()
        await stack.enter_async_context(refresh.kept_current(settings))

        config = Configuration(nats)
        router = Router(config, default_models=settings.default_models())
        keyring = Keyring.from_settings(settings)
        keys = KeyStore(vault, keyring, clock=clock.monotonic)
        cancellations = Cancellations(clock)
        live = LiveStreams(lambda: nats.reconnects, partial(until_kept, nats))
        nats.on_reconnect.append(live.reconnected)
        rng = random.Random()
        waiting = WaitingRoom(places=max(2, concurrency // _WAITING_PART), rng=rng)
        breaker = CircuitBreaker(nats, worker=name, clock=clock)
        slots = ConcurrencyLimit(nats, worker=name, clock=clock)
        publisher = Publisher(nats)
        holds = Holds(nats, publisher)
        budgets = Budgets(nats, publisher, holds, waiting=waiting, worker=name, clock=clock, rng=rng)
        sweeper = OrphanedHolds(nats, budgets, holds, worker=name, clock=clock)
        services = Services(
            worker=name,
            broker=nats,
            publisher=publisher,
            config=config,
            endpoints=EndpointGate(
                breaker=breaker, balance=LoadBalancer(rng), slots=slots, keys=keys, waiting=waiting, clock=clock
            ),
            keyring=keyring,
            router=router,
            cancellations=cancellations,
            live=live,
            admission=RateLimiter(nats, defaults=settings.default_limits(), clock=clock),
            budgets=budgets,
            waiting=waiting,
            clock=clock,
            rng=rng,
        )
        control = Control(
            broker=nats,
            router=router,
            keys=keys,
            cancellations=cancellations,
            adapters=adapters,
            clock=clock,
        )
        stack.push_async_callback(control.close)
        pools = {
            provider: Intake(
                nats,
                provider=provider,
                slots=concurrency,
                run=Execution(provider, adapter, services).run,
                interrupt=cancellations.interrupt_all,
                clock=clock,
            )
            for provider, adapter in adapters.items()
        }
        resolver = Intake(
            nats,
            provider=AUTO,
            slots=_RESOLVER_SLOTS,
            run=Execution(AUTO, None, services).run,
            interrupt=cancellations.interrupt_all,
            clock=clock,
        )
        for provider, intake in pools.items():
            telemetry.IN_FLIGHT.labels(provider).set_function(lambda intake=intake: intake.in_flight)
            telemetry.PARKED.labels(provider).set_function(lambda intake=intake: intake.parked)

        def describe() -> WorkerPresence:
            return WorkerPresence(
                name=name,
                providers=tuple(providers),
                host=socket.gethostname(),
                pid=os.getpid(),
                version=version("fleet"),
                started_at=started_at,
                concurrency=concurrency,
                in_flight=sum(intake.in_flight for intake in pools.values()),
                parked=sum(intake.parked for intake in pools.values()),
                draining=stop.is_set(),
            )

        started_at = utc_now().isoformat()
        checks = {
            "nats": lambda: nats.connected,
            "vault": lambda: vault.usable,
            "configuration": lambda: config.bucket.loaded,
            "accepting": lambda: not stop.is_set(),
        }
        await stack.enter_async_context(probes.serve(settings, checks))
        async with asyncio.TaskGroup() as background:
            watches = [
                background.create_task(bucket.run(), name="watch")
                for bucket in (config.bucket, breaker.bucket, slots.bucket, sweeper.bucket)
            ]
            await config.bucket.wait_until_loaded()
            refreshing = background.create_task(slots.refresh(), name="refresh slots")
            sweeping = background.create_task(sweeper.run(), name="sweep")
            await control.subscribe()
            presence = Presence(nats, worker=name)
            announcing = background.create_task(presence.announce(describe), name="presence")
            closed = background.create_task(_stop_when_closed(nats, stop), name="broker closed")
            vault_watch = background.create_task(vault.watch(), name="vault watch")
            repeating = background.create_task(live.repeat_after_reconnects(), name="repeat events")
            if ready is not None:
                ready.set()
            async with asyncio.TaskGroup() as intakes:
                for intake in (*pools.values(), resolver):
                    intakes.create_task(intake.serve(stop, grace_s=settings.llm_drain_grace_s), name="intake")
            await end(*watches, refreshing, sweeping, announcing, closed, vault_watch, repeating)
        if nats.connected:
            await presence.withdraw()


async def _stop_when_closed(nats: broker.Broker, stop: asyncio.Event) -> None:
    """A connection that is closed for good leaves nothing to do; the supervisor starts the process again."""
    await nats.closed.wait()
    stop.set()
