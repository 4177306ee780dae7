"""The few calls of Vault's and OpenBao's HTTP API that set a server up for the fleet."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fleet.deploy.vault_policies import APPROLE, MOUNT
from fleet.local import http

_TIMEOUT_S = 30
_PROBE_TIMEOUT_S = 2

Credentials = tuple[str, str]
"""(role_id, secret_id)"""


class VaultRefused(Exception):
    """The server answered a call with an error; 5xx while it is not, or not yet, the active node."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class VaultApi:
    """The server at `addr`, asked with `token`; None: without one, as is enough for what needs no login."""

    def __init__(self, addr: str, token: str | None = None) -> None:
        self.addr = addr
        self._headers = {"Content-Type": "application/json", **({"X-Vault-Token": token} if token else {})}

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON, None when it is empty. Raises VaultRefused, and OSError when nobody answers."""
        answer = await http.ask(
            f"{self.addr}/v1/{path}",
            method=method,
            headers=self._headers,
            body=None if body is None else json.dumps(body).encode(),
            timeout_s=_TIMEOUT_S,
        )
        try:
            found = json.loads(answer.body or b"null")
        except ValueError:
            raise ConnectionError(f"{method} {path}: {answer.status}, and no JSON") from None
        if answer.status >= 400:
            errors = (found or {}).get("errors")
            raise VaultRefused(f"{method} {path}: {answer.status} {errors}", status=answer.status)
        return found

    async def data(self, path: str) -> dict[str, Any]:
        """What a GET of `path` finds. Raises VaultRefused, and OSError when nobody answers.

        OpenBao (2.7) answers with nothing at times while it becomes the active node, as if it were a success.
        """
        found = await self.call("GET", path)
        if found is None:
            raise VaultRefused(f"GET {path}: an empty answer", status=HTTPStatus.SERVICE_UNAVAILABLE)
        return found["data"]

    async def is_active(self) -> bool:
        """Whether it is unsealed and the active node, which keeps what it is told. Raises OSError."""
        return (await http.ask(f"{self.addr}/v1/sys/health", timeout_s=_PROBE_TIMEOUT_S)).status == HTTPStatus.OK

    async def headers(self, path: str) -> Mapping[str, str]:
        """The headers of the answer to a GET of `path`, which needs no login; empty when nobody answers."""
        try:
            return (await http.ask(f"{self.addr}/v1/{path}", timeout_s=_PROBE_TIMEOUT_S)).headers
        except OSError:
            return {}


async def configure(root: VaultApi, policies: Mapping[str, str]) -> None:
    """Mounts the key store, turns AppRole on, and makes one policy and AppRole of each name; safe to repeat.

    Raises VaultRefused, with 503 before the server is the active node, and OSError when nobody answers.
    """
    # OpenBao (2.7) that is about to become the active node takes a mount into its table, fails to store it, and lists
    # it until it is active. Whoever looked then would find the key store mounted, and nobody would mount it any more.
    if not await root.is_active():
        raise VaultRefused("the server is not the active node yet", status=HTTPStatus.SERVICE_UNAVAILABLE)
    if f"{MOUNT}/" not in await root.data("sys/mounts"):
        await root.call("POST", f"sys/mounts/{MOUNT}", {"type": "kv", "options": {"version": "2"}})
    if f"{APPROLE}/" not in await root.data("sys/auth"):
        await root.call("POST", f"sys/auth/{APPROLE}", {"type": "approle"})
    for name, policy in policies.items():
        await root.call("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        role = {"token_policies": [name], "token_no_default_policy": True, "token_period": "1h"}
        await root.call("POST", f"auth/{APPROLE}/role/{name}", role)


async def new_credentials(root: VaultApi, name: str) -> Credentials:
    """A new secret id of the AppRole `name`, with its role id."""
    role = f"auth/{APPROLE}/role/{name}"
    role_id = (await root.data(f"{role}/role-id"))["role_id"]
    secret_id = (await root.call("POST", f"{role}/secret-id", {}))["data"]["secret_id"]
    return role_id, secret_id
