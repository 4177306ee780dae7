"""A session with Vault or OpenBao through hvac: login, renewal, and calls in a thread with a time limit.

hvac blocks, so every call runs in the session's own threads; nothing else in the fleet talks to Vault.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import urlsplit

import hvac
import hvac.exceptions
import requests

from runtime.broker import Unreachable
from runtime.settings import VaultSettings
from runtime.tasks import every
from runtime.vault_login import VaultDenied, way_in

__all__ = ["MOUNT", "VaultDenied", "VaultSession", "VaultUnavailable"]

log = logging.getLogger(__name__)

MOUNT = "llm"
"""The KV v2 mount that holds vendor keys; see contracts.providers.key_path."""

_CALL_TIMEOUT_S = 5
_THREADS = 4
_RENEW_AT = 2 / 3
_WATCH_S = 5.0
T = TypeVar("T")


class VaultUnavailable(Exception):
    """Vault is down, sealed, or does not answer in time."""


class VaultSession:
    """Logs in when first needed; renews its token well before its end, and logs in again when that is refused."""

    def __init__(self, settings: VaultSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vault")
        self._log_in = way_in(settings)
        self._token = Lock()
        self._renew_at = 0.0
        self._lease_s = 0
        """How long the last login was to last; a renewal that gives much less is near the token's last day."""
        token = settings.vault_token if self._log_in is None else None
        self._client = hvac.Client(
            url=settings.vault_addr,
            token=token.get_secret_value() if token else "",  # for None hvac takes what it finds in the home folder
            namespace=settings.vault_namespace,
            verify=settings.vault_cacert or True,
            timeout=_CALL_TIMEOUT_S,
        )
        self.usable = False
        """Whether the last call was answered; readiness shows it."""

    async def start(self) -> None:
        """The first login. Raises Unreachable when Vault does not answer or refuses this role."""
        parts = urlsplit(self._settings.vault_addr)
        try:
            await self.call(_look_up_token)
        except (VaultUnavailable, VaultDenied) as exc:
            raise Unreachable(f"Vault at {parts.hostname}:{parts.port} cannot be used: {exc}") from exc

    async def call(self, use: Callable[[Any], T]) -> T:
        """Runs `use(hvac_client)` in a thread, logged in.

        Raises VaultUnavailable, VaultDenied; hvac's InvalidPath (nothing there) and InvalidRequest (as a failed
        check-and-set) reach the caller.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(self._call, use))

    async def watch(self) -> None:
        """Runs for ever: asks every few seconds, so that `usable` is no older and the token is renewed in time."""
        expected = (VaultUnavailable, VaultDenied)
        await every(
            _WATCH_S, self._look, log=log, failure_event="vault_unusable", expected=expected, first_after_s=_WATCH_S
        )

    async def _look(self) -> None:
        try:
            await self.call(_look_up_token)
        except (VaultUnavailable, VaultDenied):
            self.usable = False
            raise

    async def close(self) -> None:
        """Calls that still run are left to their time limit; those that wait for a thread are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.adapter.close()

    def _call(self, use: Callable[[Any], T]) -> T:
        try:
            self._keep_token()
            used = self._client.token
            try:
                result = use(self._client)
            except hvac.exceptions.Forbidden:
                self._replace_token(used)
                result = use(self._client)
        except (hvac.exceptions.VaultDown, requests.RequestException) as exc:
            self.usable = False
            # The text of an error of requests has the whole URL; the kind of failure is enough.
            why = type(exc).__name__ if isinstance(exc, requests.RequestException) else str(exc)
            raise VaultUnavailable(why) from exc
        except (hvac.exceptions.InvalidPath, hvac.exceptions.InvalidRequest):
            self.usable = True
            raise
        except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as exc:
            raise VaultDenied(f"Vault refused this role: {'; '.join(exc.errors or [str(exc)])}") from exc
        except hvac.exceptions.VaultError as exc:
            self.usable = False
            raise VaultUnavailable(f"{type(exc).__name__}: {'; '.join(exc.errors or [str(exc)])}") from exc
        self.usable = True
        return result

    def _keep_token(self) -> None:
        """Renews the token, or logs in, if it is time to; the threads of other calls wait meanwhile."""
        with self._token:
            if time.monotonic() < self._renew_at or self._renew():
                return
            if self._log_in is None:
                self._renew_at = math.inf
            else:
                self._new_token(self._log_in)

    def _replace_token(self, refused: str) -> None:
        """Logs in again, once for all threads that were refused with the same token."""
        with self._token:
            if self._log_in is not None and self._client.token == refused:
                self._new_token(self._log_in)

    def _renew(self) -> bool:
        """Renews the token. Returns whether Vault lets it go on, and for about as long as a new one would."""
        if not self._client.token:
            return False
        try:
            lease_s = self._client.auth.token.renew_self()["auth"]["lease_duration"]
        except hvac.exceptions.VaultDown:
            raise
        except hvac.exceptions.VaultError:  # also 500, for a token past its last day
            return False
        self._good_for(lease_s)
        return lease_s >= self._lease_s / 2

    def _new_token(self, log_in: Callable[[Any], Any]) -> None:
        try:
            self._lease_s = log_in(self._client)["auth"]["lease_duration"]
        except VaultDenied:
            self.usable = False
            raise
        self._good_for(self._lease_s)
        log.info("vault_login", extra={"lease_s": self._lease_s})

    def _good_for(self, lease_s: int) -> None:
        """Notes when to renew the token; a lease of 0 seconds never ends."""
        self._renew_at = time.monotonic() + lease_s * _RENEW_AT if lease_s else math.inf


def _look_up_token(client: Any) -> None:
    """Reads the token's own properties: every token may, and a sealed Vault refuses."""
    client.auth.token.lookup_self()
