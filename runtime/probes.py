"""/healthz, /readyz and /metrics of a role that serves no HTTP otherwise, from a thread of their own.

`healthz` says that the process and its event loop live; `readyz` says which of its servers it can use right now.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from socket import socket
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app

from runtime.listener import listen
from runtime.settings import ProbeSettings
from runtime.tasks import end

log = logging.getLogger(__name__)

Checks = Mapping[str, Callable[[], bool]]
"""What tells whether a part is usable now, by the part's name. Called from the probes' thread, so it only reads."""

_TICK_S = 1.0
_STUCK_AFTER_S = 15.0


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listener: socket) -> None:
        address = listener.getsockname()
        super().__init__(address, _Quiet, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = address[:2]
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Logs nothing: a role is probed every few seconds."""


class LoopHeartbeat:
    """When the event loop last had time."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    async def run(self) -> None:
        """Beats for ever."""
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(_TICK_S)

    def alive(self) -> bool:
        """Whether the event loop ran not long ago. Asked from the probes' thread."""
        return time.monotonic() - self._last < _STUCK_AFTER_S


@asynccontextmanager
async def serve(
    settings: ProbeSettings, checks: Checks, *, registry: CollectorRegistry = REGISTRY
) -> AsyncGenerator[int]:
    """Serves until the block ends; yields the port. Raises runtime.broker.Unreachable when there is no port."""
    heartbeat = LoopHeartbeat()
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/healthz":
                return _answer(start_response, {"event_loop": heartbeat.alive()})
            case "/readyz":
                return _answer(start_response, {name: check() for name, check in checks.items()})
            case "/metrics":
                return metrics(environ, start_response)
            case _:
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"not found\n"]

    server = _Server(listen(settings.llm_http_host, settings.llm_http_port))
    server.set_app(app)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="probes", daemon=True)
    thread.start()
    beating = asyncio.create_task(heartbeat.run(), name="loop-heartbeat")
    log.info("probes_listening", extra={"host": settings.llm_http_host, "port": server.server_port})
    try:
        yield server.server_port
    finally:
        await end(beating)
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def _answer(start_response: Any, checks: dict[str, bool]) -> list[bytes]:
    ok = all(checks.values())
    body = json.dumps({"status": "ok" if ok else "unavailable", "checks": checks}).encode()
    start_response("200 OK" if ok else "503 Service Unavailable", [("Content-Type", "application/json")])
    return [body]
