"""The admin API, put together and run."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from starlette.middleware import Middleware
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from admin_api.access.authentication_middleware import AuthenticationMiddleware
from admin_api.access.authenticator import Authenticator
from admin_api.access.failed_logins import FAILURES_PER_MINUTE, FailedLoginLimiter
from admin_api.access.jwks import KeySet
from admin_api.access.oidc import IssuerAuthenticator
from admin_api.access.refusal_counts import RefusalCounter
from admin_api.audit import retention
from admin_api.configuration.webhooks import reseal as reseal_webhooks
from admin_api.control_plane import ControlPlane
from admin_api.database import Database, open_database
from admin_api.http import problems
from admin_api.http.middleware import RequestContextMiddleware, RequestMetrics
from admin_api.http.rate_limiter import RateLimiter
from admin_api.notices import metrics as notice_metrics
from admin_api.notices.delivery import Channel, Sender
from admin_api.notices.dispatcher import NoticeDispatcher
from admin_api.notices.mail import MailSender
from admin_api.notices.stream import StreamSender
from admin_api.notices.webhook import WebhookSender
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
        plane = await stack.enter_async_context(open_control_plane(settings))
        server = _Server(create_app(plane))
        host, port = listener.getsockname()[:2]
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(server.serve([listener]), name="http")
            log.info("admin_listening", extra={"host": host, "port": port})
            await role.first_of(stop.wait(), plane.broker.closed.wait(), asyncio.shield(running))
            server.should_exit = True
    if not stop.is_set():
        raise Unreachable(f"NATS at {broker.address(settings.nats_url)} refuses this user for good")


@asynccontextmanager
async def open_control_plane(settings: AdminSettings) -> AsyncGenerator[ControlPlane]:
    """Every server found and usable, configuration being reconciled. Raises Unreachable."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings.database_url))
        nats = await stack.enter_async_context(broker.connect(settings, name="admin", inbox_prefix="_ROLE_admin"))
        await broker.ensure_streams(nats, settings)
        session = VaultSession(settings)
        stack.push_async_callback(session.close)
        await session.start()
        keyring = Keyring.from_settings(settings)
        await reseal_webhooks(database, keyring)
        hooks = WebhookSender(Egress(settings.llm_allowed_private_networks), keyring)
        stack.push_async_callback(hooks.close)
        publisher, refusal_counter = ConfigPublisher(database, nats), RefusalCounter()
        running: dict[str, Coroutine[Any, Any, None]] = {
            "publisher": publisher.keep_reconciled(),
            "streams": stream_repair.keep_existing(nats, settings),
            "refusals": refusal_counter.keep_recorded(database),
            "notices": _notice_dispatcher(settings, database, nats, hooks).keep_delivering(),
        }
        if settings.llm_audit_retention_days is not None:
            running["retention"] = retention.keep_pruned(database, days=settings.llm_audit_retention_days)
        issuer = None
        if settings.llm_oidc_issuer is not None and settings.llm_oidc_audience is not None:
            keys = KeySet(settings.llm_oidc_issuer)
            stack.push_async_callback(keys.close)
            running["issuer"] = keys.keep_fresh()
            issuer = IssuerAuthenticator(keys, audience=settings.llm_oidc_audience, claims=settings.claims())
        for name, work in running.items():
            stack.push_async_callback(end, asyncio.create_task(work, name=name))
        per_minute = settings.llm_admin_rate_limit_per_minute
        yield ControlPlane(
            database=database,
            broker=nats,
            vault=KeyVault(session),
            keyring=keyring,
            publisher=publisher,
            webhooks=hooks,
            authenticator=Authenticator(database, bootstrap=settings.llm_admin_token, issuer=issuer),
            failed_logins=FailedLoginLimiter(RateLimiter(limit=FAILURES_PER_MINUTE)),
            refusal_counter=refusal_counter,
            rate_limiter=RateLimiter(limit=per_minute) if per_minute else None,
            trusted_proxies=settings.llm_trusted_proxies,
            allowed_networks=settings.llm_allowed_private_networks,
        )


def _notice_dispatcher(
    settings: AdminSettings, database: Database, nats: Broker, hooks: WebhookSender
) -> NoticeDispatcher:
    senders: dict[Channel, Sender] = {Channel.NATS: StreamSender(nats), Channel.WEBHOOK: hooks}
    if settings.llm_smtp_host:
        senders[Channel.EMAIL] = MailSender(settings)
    return NoticeDispatcher(database, senders, emails_of_all=bool(settings.llm_alert_emails))


def create_app(plane: ControlPlane) -> FastAPI:
    """The ASGI application over an open control plane."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    for metric in notice_metrics.ALL:
        registry.register(metric)
    app = FastAPI(
        title="Fleet admin API",
        description=_DESCRIPTION,
        version="v1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(_behind_proxies, plane=plane),
            Middleware(RequestContextMiddleware, metrics=RequestMetrics(registry)),
            Middleware(AuthenticationMiddleware, plane=plane),
        ],
        # Spans and OpenTelemetry logs would carry what callers sent, and a key may be in it.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    app.state.control_plane = plane
    app.state.registry = registry
    problems.install(app)
    for room in (tenants, providers, models, usage, alerts, webhooks, tokens, audit, dead_letters, fleet, probes):
        app.include_router(room.router)

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            app.openapi_schema = problems.document(schema)
        return app.openapi_schema

    app.openapi = openapi
    return app


def _behind_proxies(app: ASGIApp, *, plane: ControlPlane) -> ASGIApp:
    """Takes a caller's address and scheme from the headers of proxies that are trusted, and of no others."""
    trusted = [str(network) for network in plane.trusted_proxies]
    return cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", app), trusted_hosts=trusted))


class _Server(uvicorn.Server):
    """uvicorn without its own signals and log settings: the role has both."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
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
