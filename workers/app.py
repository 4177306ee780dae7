"""The composition root of a worker pool."""

import asyncio
import os
import random
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

from contracts.providers import WorkerPresence
from contracts.subjects import AUTO
from contracts.wire import utc_now
from runtime import broker, logs, probes, role
from runtime.broker import Broker
from runtime.egress import Egress
from runtime.jetstream.storage import Storage
from runtime.prices import refresh
from runtime.sealing import Keyring
from runtime.tasks import end
from runtime.vault import VaultSession
from workers import telemetry
from workers.clock import Clock
from workers.control.cancel_feed import CancelFeed, stored_cancels
from workers.control.cancellations import Cancellations
from workers.control.questions import Questions
from workers.control.rpc import Rpc
from workers.endpoints.admission import EndpointGate
from workers.endpoints.circuit_breaker import CircuitBreaker
from workers.endpoints.concurrency import ConcurrencyLimit
from workers.endpoints.configuration import Configuration
from workers.endpoints.keys import KeyStore
from workers.endpoints.load_balancing import LoadBalancer
from workers.endpoints.router import Router
from workers.intake.backlog import Backlog, bound_of
from workers.intake.puller import Intake, shares_of_bytes
from workers.intake.waiting_room import WaitingRoom
from workers.jetstream import stored_events
from workers.jetstream.presence import Presence
from workers.jetstream.reply_publisher import ReplyPublisher
from workers.jetstream.reply_shares import ReplyShares, share_of
from workers.jetstream.server_memory import replies_kept_since, until_kept
from workers.providers import registry
from workers.providers.base import Provider
from workers.quotas.budgets import Budgets
from workers.quotas.holds import Holds
from workers.quotas.orphaned_holds import OrphanedHolds
from workers.quotas.rate_limiter import RateLimiter
from workers.request.attempts import AttemptRunner
from workers.request.ending import Ending
from workers.request.execution import Execution
from workers.request.handover import Handovers
from workers.request.journal import Journal
from workers.request.live_streams import AGENTS_ARE_BACK_S, REPUBLISHED_S, LiveStreams
from workers.request.results import Results
from workers.request.settlement import Settlement
from workers.request.takeover import Takeover
from workers.settings import WorkerSettings

_RESOLVER_SLOTS = 64
_QUESTION_HEADER_BYTES = 4096
"""Of longer headers on the questions' connection nothing is read; nobody needs them."""
_WAITING_PART = 4
"""The requests of one tenant may hold this part of the slots while they wait."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the workers of a fleet give each other after a server was started anew. Tests shorten it."""

    republished_s: float = REPUBLISHED_S
    agents_are_back_s: float = AGENTS_ARE_BACK_S


NORMAL_TIMING = Timing()


@dataclass(frozen=True, slots=True)
class Worker:
    """The parts of a worker that run by themselves, wired by `build`."""

    name: str
    config: Configuration
    breaker: CircuitBreaker
    slots: ConcurrencyLimit
    orphaned_holds: OrphanedHolds
    budgets: Budgets
    shares: ReplyShares
    backlog: Backlog
    storage: Storage
    live: LiveStreams
    cancellations: Cancellations
    cancel_feed: CancelFeed
    questions: Questions
    pools: Mapping[str, Intake]
    """The intake of each provider whose requests this worker takes."""
    resolver: Intake
    """The pool of `auto`, whose requests name no provider."""


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
    timing: Timing = NORMAL_TIMING,
) -> None:
    """Works until `stop`; sets `ready` when requests are taken. Raises runtime.broker.Unreachable at start."""
    name = f"{'-'.join(providers)[:32]}-{socket.gethostname().split('.')[0][:16]}-{secrets.token_hex(3)}"
    inbox = f"_ROLE_worker_{'_'.join(providers)}"  # a pool's own: what it pulls arrives there
    async with AsyncExitStack() as stack:
        adapters = _open_adapters(settings, providers, stack)
        nats = await stack.enter_async_context(broker.connect(settings, name=name, inbox_prefix=inbox))
        asked = await stack.enter_async_context(
            broker.connect(settings, name=f"{name}-questions", inbox_prefix=inbox, header_bytes=_QUESTION_HEADER_BYTES)
        )
        await broker.ensure_streams(nats, settings)
        vault = VaultSession(settings)
        stack.push_async_callback(vault.close)
        await vault.start()
        await stack.enter_async_context(refresh.kept_current(settings))
        worker = build(
            settings,
            name=name,
            nats=nats,
            asked=asked,
            vault=vault,
            adapters=adapters,
            concurrency=concurrency,
            timing=timing,
        )
        stack.push_async_callback(worker.cancellations.close)
        stack.push_async_callback(worker.questions.close)
        checks = {
            "nats": lambda: nats.connected and asked.connected,
            "storage": lambda: worker.storage.has_room,
            "vault": lambda: vault.usable,
            "configuration": lambda: worker.config.bucket.loaded,
            "accepting": lambda: not stop.is_set(),
        }
        await stack.enter_async_context(probes.serve(settings, checks))
        presence = Presence(nats, worker=name)
        describe = _describing(worker, concurrency=concurrency, stop=stop)
        async with asyncio.TaskGroup() as group:
            watched = (
                worker.config,
                worker.breaker,
                worker.slots,
                worker.orphaned_holds,
                worker.shares,
                worker.backlog,
            )
            running = [group.create_task(part.bucket.run(), name="watch") for part in watched]
            running.append(group.create_task(worker.cancel_feed.run(), name="hear cancels"))
            await worker.config.bucket.wait_until_loaded()
            await worker.cancel_feed.wait_until_heard()
            await worker.questions.subscribe()
            background: dict[str, Coroutine[Any, Any, None]] = {
                "refresh slots": worker.slots.refresh(),
                "settle orphaned holds": worker.orphaned_holds.run(),
                "release idle holds": worker.budgets.tend(),
                "repeat events": worker.live.repeat_after_reconnects(),
                "announce stored replies": worker.shares.look(),
                "purge replies": worker.shares.purge(),
                "tell what waits": worker.backlog.tell(),
                "presence": presence.announce(describe),
                "vault watch": vault.watch(),
                "questions": worker.questions.run(),
                "broker closed": _stop_when_closed(nats, stop),
                "questions closed": _stop_when_closed(asked, stop),
            }
            running += [group.create_task(work, name=title) for title, work in background.items()]
            role.is_set_up()
            if ready is not None:
                ready.set()
            async with asyncio.TaskGroup() as intakes:
                for intake in (*worker.pools.values(), worker.resolver):
                    intakes.create_task(intake.serve(stop, grace_s=settings.llm_drain_grace_s), name="intake")
            await end(*running)
        if nats.connected:
            await presence.withdraw()


def build(
    settings: WorkerSettings,
    *,
    name: str,
    nats: Broker,
    asked: Broker,
    vault: VaultSession,
    adapters: Mapping[str, Provider],
    concurrency: int,
    timing: Timing,
) -> Worker:
    """Wires a worker's parts. Nothing of it runs yet. `asked` is the connection that questions come on."""
    clock, rng = Clock(), random.Random()
    shares = ReplyShares(nats, worker=name, share=share_of(settings.sizes().max_reply_bytes), clock=clock)
    publisher = ReplyPublisher(nats, shares)
    keyring = Keyring.from_settings(settings)
    keys = KeyStore(vault, keyring, clock=clock.monotonic)
    config = Configuration(nats)
    router = Router(config, default_models=settings.default_models())
    waiting = WaitingRoom(places=max(2, concurrency // _WAITING_PART), rng=rng)
    breaker = CircuitBreaker(nats, worker=name, clock=clock)
    slots = ConcurrencyLimit(nats, worker=name, clock=clock)
    endpoints = EndpointGate(
        breaker=breaker, balance=LoadBalancer(rng), slots=slots, keys=keys, waiting=waiting, clock=clock
    )
    holds = Holds(nats, publisher)
    budgets = Budgets(nats, publisher, holds, waiting=waiting, worker=name, clock=clock, rng=rng)
    limiter = RateLimiter(nats, defaults=settings.default_limits(), clock=clock)
    journal = Journal(nats, publisher, worker=name)
    results = Results(nats, publisher, usual_s=settings.llm_result_retention_s)
    settlement = Settlement(budgets=budgets, limiter=limiter, config=config, publisher=publisher, clock=clock)
    held_bytes = shares_of_bytes(settings.llm_worker_requests_mib * 1024**2)
    backlog = Backlog(nats, worker=name, bound=bound_of(settings.sizes().max_queue_bytes), clock=clock)
    cancellations = Cancellations(clock, read_stored=partial(stored_cancels, nats))
    live = LiveStreams(
        reconnects=lambda: nats.reconnects,
        until_kept=partial(until_kept, nats),
        replies=publisher,
        backlog=nats.backlog,
        agents_are_back_s=timing.agents_are_back_s,
    )
    nats.on_reconnect.append(live.reconnected)

    def attempts(adapter: Provider) -> AttemptRunner:
        return AttemptRunner(
            adapter,
            router=router,
            endpoints=endpoints,
            budgets=budgets,
            settlement=settlement,
            journal=journal,
            worker=name,
            max_event_bytes=lambda: nats.client.max_payload,
            backlog=nats.backlog,
            clock=clock,
        )

    def pool(provider: str, attempts: AttemptRunner | None, *, slots: int) -> Intake:
        handovers = Handovers(provider, publisher=publisher, keyring=keyring, may_wait=backlog.has_room, clock=clock)
        execution = Execution(
            provider,
            attempts=attempts,
            takeover=Takeover(
                provider,
                read_events=partial(stored_events.events, nats),
                read_last=partial(stored_events.last, nats),
                read_journal=journal.read,
                read_memory=partial(replies_kept_since, nats),
                settlement=settlement,
                clock=clock,
                republished_s=timing.republished_s,
            ),
            ending=Ending(provider, settlement=settlement, results=results, handovers=handovers, publisher=publisher),
            results=results,
            budgets=budgets,
            handovers=handovers,
            router=router,
            endpoints=endpoints,
            limiter=limiter,
            waiting=waiting,
            cancellations=cancellations,
            live=live,
            publisher=publisher,
            clock=clock,
            rng=rng,
        )
        return Intake(
            nats,
            provider=provider,
            slots=slots,
            held_bytes=held_bytes,
            backlog=backlog,
            run=execution.run,
            refuse=execution.refuse_to_wait,
            interrupt=cancellations.interrupt_all,
            clock=clock,
        )

    return Worker(
        name=name,
        config=config,
        breaker=breaker,
        slots=slots,
        budgets=budgets,
        orphaned_holds=OrphanedHolds(nats, budgets, holds, worker=name, clock=clock),
        shares=shares,
        backlog=backlog,
        storage=publisher.storage,
        live=live,
        cancellations=cancellations,
        cancel_feed=CancelFeed(nats, cancellations, clock=clock),
        questions=Questions(
            asked,
            Rpc(router=router, keys=keys, adapters=adapters, clock=clock),
            providers=adapters,
            tenants=lambda: config.slugs,
            clock=clock,
        ),
        pools={
            provider: pool(provider, attempts(adapter), slots=concurrency) for provider, adapter in adapters.items()
        },
        resolver=pool(AUTO, None, slots=_RESOLVER_SLOTS),
    )


def _open_adapters(settings: WorkerSettings, providers: Sequence[str], stack: AsyncExitStack) -> dict[str, Provider]:
    egress = Egress(settings.llm_allowed_private_networks)
    adapters = {provider: registry.load(provider, egress) for provider in providers}
    for adapter in adapters.values():
        stack.push_async_callback(adapter.aclose)
    return adapters


def _describing(worker: Worker, *, concurrency: int, stop: asyncio.Event) -> Callable[[], WorkerPresence]:
    """Sets the gauges of how much the worker has to do, and returns what describes the worker to the fleet."""
    for provider, intake in worker.pools.items():
        telemetry.IN_FLIGHT.labels(provider).set_function(lambda intake=intake: intake.in_flight)
        telemetry.PARKED.labels(provider).set_function(lambda intake=intake: intake.parked)
        telemetry.WAITING_BYTES.labels(provider).set_function(partial(worker.backlog.bytes_of, provider))
    started_at = utc_now().isoformat()

    def describe() -> WorkerPresence:
        return WorkerPresence(
            name=worker.name,
            providers=tuple(worker.pools),
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version("fleet"),
            started_at=started_at,
            concurrency=concurrency,
            in_flight=sum(intake.in_flight for intake in worker.pools.values()),
            parked=sum(intake.parked for intake in worker.pools.values()),
            draining=stop.is_set(),
            budget_stops=worker.budgets.stops.recent() or None,
        )

    return describe


async def _stop_when_closed(nats: Broker, stop: asyncio.Event) -> None:
    """A connection that is closed for good leaves nothing to do; the supervisor starts the process again."""
    await nats.closed.wait()
    stop.set()
