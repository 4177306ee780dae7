"""The composition root of the admin API: puts it together, and runs it."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from starlette.middleware import Middleware
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from admin_api.access.authentication_middleware import AuthenticationMiddleware
from admin_api.access.authenticator import Authenticator
from admin_api.access.failed_logins import FAILURES_PER_MINUTE, FailedLoginLimiter
from admin_api.access.jwks import KeySet
from admin_api.access.oidc import IssuerAuthenticator
from admin_api.access.refusal_counts import RefusalCounter
from admin_api.audit import retention
from admin_api.configuration.provider_keys import ProviderKeys
from admin_api.configuration.webhooks import reseal as reseal_webhooks
from admin_api.database import Database, open_database
from admin_api.dependencies import AllowedNetworks, provide
from admin_api.http import problems
from admin_api.http.framing import StrictHttp
from admin_api.http.middleware import RequestContextMiddleware, RequestMetrics
from admin_api.http.rate_limiter import RateLimiter
from admin_api.notices import metrics as notice_metrics
from admin_api.notices.delivery import Channel, Sender
from admin_api.notices.dispatcher import NoticeDispatcher
from admin_api.notices.mail import MailSender
from admin_api.notices.stream import StreamSender
from admin_api.notices.webhook import WebhookSender
from admin_api.operations.dead_letter_stream import DeadLetterStream
from admin_api.operations.models import ModelList
from admin_api.operations.worker_rpc import WorkerRpc
from admin_api.publishing import stream_repair
from admin_api.publishing.config_publisher import ConfigPublisher
from admin_api.publishing.key_vault import KeyVault
from admin_api.routes import (
    alerts,
    audit,
    dead_letters,
    fleet,
    models,
    probes,
    providers,
    tenants,
    tokens,
    usage,
    webhooks,
)
from admin_api.settings import AdminSettings
from runtime import broker, logs, role
from runtime.broker import Broker, Unreachable
from runtime.egress import Egress
from runtime.jetstream.queue_guard import QueueGuard
from runtime.jetstream.results_guard import ResultsGuard
from runtime.listener import listen
from runtime.prices import refresh
from runtime.sealing import Keyring
from runtime.tasks import end
from runtime.vault import VaultSession

log = logging.getLogger(__name__)

_DESCRIPTION = (
    "Tenants, providers, keys, models, usage, alerts, webhooks, tokens, the audit log and dead letters of an LLM "
    "worker fleet. Errors are RFC 9457 problem details."
)
_GRACE_S = 8


def main() -> int:
    """Runs the admin API until SIGTERM or SIGINT; returns the exit code."""
    return role.run(serve)


async def serve(stop: asyncio.Event) -> None:
    """Runs until `stop` is set. Raises Unreachable when a server that it needs is missing."""
    settings = AdminSettings()  # pyright: ignore[reportCallIssue] - from the environment
    logs.configure(settings)
    async with AsyncExitStack() as stack:
        listener = listen(settings.llm_http_host, settings.llm_http_port)
        stack.callback(listener.close)
        await stack.enter_async_context(refresh.kept_current(settings))
        admin = await stack.enter_async_context(open_admin_api(settings))
        server = _Server(admin.app)
        host, port = listener.getsockname()[:2]
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.serve([listener]), name="http")
            log.info("admin_listening", extra={"host": host, "port": port})
            await role.first_of(stop.wait(), admin.broker.closed.wait(), asyncio.shield(running))
            server.should_exit = True
    if not stop.is_set():
        raise Unreachable(f"NATS at {broker.address(settings.nats_url)} refuses this user for good")


@dataclass(frozen=True, slots=True)
class AdminApi:
    """An admin API that is put together: its application, and what lives beside the requests."""

    app: FastAPI
    broker: Broker
    refusal_counter: RefusalCounter
    """It holds what was counted since the last minute's row."""
    loops: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]
    """What runs as long as the application does, by the task's name."""
    closing: Sequence[Callable[[], Coroutine[Any, Any, None]]]
    """What closes the connections that it makes by itself."""


@asynccontextmanager
async def open_admin_api(
    settings: AdminSettings, *, clock: Callable[[], float] = time.monotonic
) -> AsyncGenerator[AdminApi]:
    """Finds every server, builds the admin API over them, and lets its loops run until the block ends.

    Raises Unreachable when a server that it needs is missing.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings.database_url))
        nats = await stack.enter_async_context(broker.connect(settings, name="admin", inbox_prefix="_ROLE_admin"))
        await broker.ensure_streams(nats, settings)
        session = VaultSession(settings)
        stack.push_async_callback(session.close)
        await session.start()
        keyring = Keyring.from_settings(settings)
        await reseal_webhooks(database, keyring)
        admin = build(settings, database=database, nats=nats, vault=KeyVault(session), keyring=keyring, clock=clock)
        for close in admin.closing:
            stack.push_async_callback(close)
        for name, loop in admin.loops.items():
            stack.push_async_callback(end, asyncio.create_task(loop(), name=name))
        yield admin


def build(
    settings: AdminSettings,
    *,
    database: Database,
    nats: Broker,
    vault: KeyVault,
    keyring: Keyring,
    clock: Callable[[], float],
) -> AdminApi:
    """Puts an admin API together over servers that are open. Nothing runs yet, and nothing is asked of them.

    `clock`: what limits of requests and of failed logins go by, in seconds.
    """
    networks = AllowedNetworks(settings.llm_allowed_private_networks)
    publisher = ConfigPublisher(database, nats)
    webhook_sender = WebhookSender(Egress(networks), keyring)
    issuer_keys = KeySet(settings.llm_oidc_issuer) if settings.llm_oidc_issuer is not None else None
    refusal_counter = RefusalCounter(database)
    workers = WorkerRpc(nats)
    per_minute = settings.llm_admin_rate_limit_per_minute
    registry = _registry()
    app = create_app(
        # A caller's address and scheme are taken from the headers of proxies that are trusted, and of no others.
        Middleware(cast("Any", ProxyHeadersMiddleware), trusted_hosts=list(map(str, settings.llm_trusted_proxies))),
        Middleware(RequestContextMiddleware, metrics=RequestMetrics(registry)),
        Middleware(
            AuthenticationMiddleware,
            authenticator=_authenticator(settings, database, issuer_keys),
            rate_limiter=RateLimiter(limit=per_minute, clock=clock) if per_minute else None,
            failed_logins=FailedLoginLimiter(RateLimiter(limit=FAILURES_PER_MINUTE, clock=clock)),
            refusal_counter=refusal_counter,
            database=database,
        ),
    )
    provide(app, database, nats, vault, keyring, networks, publisher, webhook_sender, workers, registry)
    provide(app, ProviderKeys(vault, keyring, allowed_networks=networks))
    provide(app, ModelList(database, workers), DeadLetterStream(nats, keyring))

    loops: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
        "publisher": publisher.keep_reconciled,
        "streams": partial(stream_repair.keep_existing, nats, settings),
        "queue": QueueGuard(nats, rng=random.Random()).run,
        "results": ResultsGuard(nats).run,
        "refusals": refusal_counter.keep_recorded,
        "notices": _notice_dispatcher(settings, database, nats, webhook_sender).keep_delivering,
    }
    closing = [webhook_sender.close]
    if settings.llm_audit_retention_days is not None:
        loops["retention"] = partial(retention.keep_pruned, database, days=settings.llm_audit_retention_days)
    if issuer_keys is not None:
        loops["issuer"] = issuer_keys.keep_fresh
        closing.append(issuer_keys.close)
    return AdminApi(app, nats, refusal_counter, loops, closing)


def _authenticator(settings: AdminSettings, database: Database, issuer_keys: KeySet | None) -> Authenticator:
    issuer = None
    if issuer_keys is not None and settings.llm_oidc_audience is not None:
        issuer = IssuerAuthenticator(issuer_keys, audience=settings.llm_oidc_audience, claims=settings.claims())
    return Authenticator(database, bootstrap=settings.llm_admin_token, issuer=issuer)


def _notice_dispatcher(
    settings: AdminSettings, database: Database, nats: Broker, webhook_sender: WebhookSender
) -> NoticeDispatcher:
    senders: dict[Channel, Sender] = {Channel.NATS: StreamSender(nats), Channel.WEBHOOK: webhook_sender}
    if settings.llm_smtp_host:
        senders[Channel.EMAIL] = MailSender(settings)
    return NoticeDispatcher(database, senders, emails_of_all=bool(settings.llm_alert_emails))


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    for metric in notice_metrics.ALL:
        registry.register(metric)
    return registry


def create_app(*middleware: Middleware) -> FastAPI:
    """The endpoints and their OpenAPI document, behind `middleware`, the outermost first.

    The endpoints work once `provide` has given the application the parts that they ask for.
    """
    app = FastAPI(
        title="Fleet admin API",
        description=_DESCRIPTION,
        version="v1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=middleware,
        # Spans and OpenTelemetry logs would carry what callers sent, and a key may be in it.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    problems.install(app)
    for room in (tenants, providers, models, usage, alerts, webhooks, tokens, audit, dead_letters, fleet, probes):
        app.include_router(room.router)

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            app.openapi_schema = problems.add_schemas(schema)
        return app.openapi_schema

    app.openapi = openapi
    return app


class _Server(uvicorn.Server):
    """uvicorn without its own signals and log settings: the role has both."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=StrictHttp,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
