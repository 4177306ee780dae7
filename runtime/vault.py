"""A session with Vault or OpenBao through hvac: login, renewal, and calls in a thread with a time limit.

hvac blocks, so every call runs in the session's own threads; nothing else in the fleet talks to Vault.
"""

import asyncio
import logging
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


class VaultDenied(Exception):
    """Vault answers, and refuses this role."""


class VaultSession:
    """Logs in when first needed, again when its token is near its end or refused."""

    def __init__(self, settings: VaultSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vault")
        self._login = Lock()
        self._valid_until = 0.0
        self._client = hvac.Client(
            url=settings.vault_addr,
            token=settings.vault_token.get_secret_value() if settings.vault_token else None,
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
            await self.call(_nothing)
        except (VaultUnavailable, VaultDenied) as exc:
            raise Unreachable(f"Vault at {parts.hostname}:{parts.port} cannot be used: {exc}") from exc

    async def call(self, use: Callable[[Any], T]) -> T:
        """Runs `use(hvac_client)` in a thread, logged in.

        Raises VaultUnavailable, VaultDenied; hvac's InvalidPath (nothing there) and InvalidRequest (as a failed
        check-and-set) reach the caller.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(self._call, use))

    async def watch(self) -> None:
        """Runs for ever: asks now and then, so that `usable` is true to the moment and the login stays young."""
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                await self.call(_nothing)
            except (VaultUnavailable, VaultDenied) as exc:
                log.warning("vault_unusable", extra={"error": str(exc)})

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.adapter.close()

    def _call(self, use: Callable[[Any], T]) -> T:
        try:
            self._ensure_login()
            try:
                result = use(self._client)
            except hvac.exceptions.Forbidden:
                self._ensure_login(anew=True)
                result = use(self._client)
        except (hvac.exceptions.VaultDown, requests.RequestException) as exc:
            self.usable = False
            raise VaultUnavailable(_without_address(exc)) from exc
        except (hvac.exceptions.InvalidPath, hvac.exceptions.InvalidRequest):
            self.usable = True
            raise
        except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as exc:
            self.usable = not isinstance(exc, hvac.exceptions.Unauthorized)
            raise VaultDenied(f"Vault refused this role: {'; '.join(exc.errors or [str(exc)])}") from exc
        except hvac.exceptions.VaultError as exc:
            self.usable = False
            raise VaultUnavailable(f"{type(exc).__name__}: {'; '.join(exc.errors or [str(exc)])}") from exc
        self.usable = True
        return result

    def _ensure_login(self, *, anew: bool = False) -> None:
        if self._settings.vault_role_id is None:
            return
        with self._login:
            if not anew and time.monotonic() < self._valid_until:
                return
            secret_id = self._settings.vault_secret_id
            try:
                answer = self._client.auth.approle.login(
                    role_id=self._settings.vault_role_id,
                    secret_id=secret_id.get_secret_value() if secret_id else None,
                )
            except hvac.exceptions.InvalidRequest as exc:
                raise VaultDenied("the AppRole was refused; check VAULT_ROLE_ID and VAULT_SECRET_ID") from exc
            self._valid_until = time.monotonic() + answer["auth"]["lease_duration"] * _RENEW_AT
            log.info("vault_login", extra={"lease_s": answer["auth"]["lease_duration"]})


def _nothing(client: Any) -> None:
    """Reads the token's own properties: every token may, and a sealed Vault refuses."""
    client.auth.token.lookup_self()


def _without_address(exc: Exception) -> str:
    """requests repeats the whole URL; the kind of failure is enough."""
    return type(exc).__name__ if isinstance(exc, requests.RequestException) else str(exc)
