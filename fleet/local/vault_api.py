"""The few calls of Vault's and OpenBao's HTTP API that set a server up for the fleet."""

from collections.abc import Mapping
from typing import Any

import aiohttp

from fleet.deploy.vault_policies import APPROLE, MOUNT

_TIMEOUT_S = 30

Credentials = tuple[str, str]
"""(role_id, secret_id)"""


class VaultRefused(Exception):
    """The server answered a call with an error; 5xx while it is not, or not yet, the active node."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class VaultApi:
    """A server at `addr`, asked as `token` (None: nobody in particular)."""

    def __init__(self, addr: str, token: str | None = None) -> None:
        self.addr = addr
        self._headers = {"X-Vault-Token": token} if token else {}

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Raises VaultRefused, and OSError or aiohttp.ClientError when nobody answers."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=self._headers) as http,
            http.request(method, f"{self.addr}/v1/{path}", json=body) as answer,
        ):
            found = await answer.json() if answer.status != 204 else None
            if answer.status >= 400:
                errors = (found or {}).get("errors")
                raise VaultRefused(f"{method} {path}: {answer.status} {errors}", status=answer.status)
            return found

    async def headers(self, path: str) -> Mapping[str, str]:
        """Those of the answer to a GET of `path`, which needs no login; none when nobody answers."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as http, http.get(f"{self.addr}/v1/{path}") as answer:
                return answer.headers
        except (aiohttp.ClientError, OSError):
            return {}


async def configure(root: VaultApi, policies: Mapping[str, str]) -> None:
    """Mounts the key store, turns AppRole on, and makes one policy and AppRole of each name; safe to repeat."""
    if f"{MOUNT}/" not in (await root.call("GET", "sys/mounts"))["data"]:
        await root.call("POST", f"sys/mounts/{MOUNT}", {"type": "kv", "options": {"version": "2"}})
    if f"{APPROLE}/" not in (await root.call("GET", "sys/auth"))["data"]:
        await root.call("POST", f"sys/auth/{APPROLE}", {"type": "approle"})
    for name, policy in policies.items():
        await root.call("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        role = {"token_policies": [name], "token_no_default_policy": True, "token_period": "1h"}
        await root.call("POST", f"auth/{APPROLE}/role/{name}", role)


async def new_credentials(root: VaultApi, name: str) -> Credentials:
    role = f"auth/{APPROLE}/role/{name}"
    role_id = (await root.call("GET", f"{role}/role-id"))["data"]["role_id"]
    secret_id = (await root.call("POST", f"{role}/secret-id", {}))["data"]["secret_id"]
    return role_id, secret_id
