"""Where the commands find the fleet: in the folder of `--state`, in the environment, or in this machine's ready file.

`--state` goes before the environment, and the environment before the stack in the default folder.
"""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from fleet.admin_client import AdminApi
from fleet.local.state import default_folder

if TYPE_CHECKING:
    from fleet.operator.reseal import ResealSettings


_FACTS = {"nats_url", "nats_user", "nats_password", "tenant", "admin_url", "admin_token", "vault_addr"}
"""What the ready file must hold; it holds more."""


class NotFound(Exception):
    """Neither the environment nor a running stack says where the fleet is."""


@dataclass(frozen=True, slots=True)
class AgentConnection:
    """What `fleet.client.Client` needs to act as an agent."""

    url: str
    tenant: str
    login: Mapping[str, Any] = field(repr=False)
    """Options of nats-py."""


def agent(*, tenant: str | None, state: Path | None) -> AgentConnection:
    """How to connect as an agent of `tenant`; None: that of the NATS user, or of the local stack. Raises NotFound."""
    if state is None and os.environ.get("NATS_URL"):
        from runtime import broker
        from runtime.settings import BrokerSettings

        settings = BrokerSettings.model_validate({})
        tenant = tenant or (settings.nats_user or "").removeprefix("agent-") or None
        if tenant is None:
            raise NotFound("whose request is it? give --tenant")
        first = {"tls_handshake_first": True} if settings.nats_by_tls else {}
        return AgentConnection(settings.nats_url, tenant, {**broker.login(settings), **first})
    ready = _ready_file(state, "NATS_URL")
    own = ready if tenant in (None, ready["tenant"]) else ready.get("agents", {}).get(tenant)
    if own is None:
        raise NotFound(f"the stack on this machine has no tenant {tenant}; set NATS_URL for another fleet")
    login = {"user": own["nats_user"], "password": own["nats_password"]}
    return AgentConnection(ready["nats_url"], tenant or ready["tenant"], login)


def admin(*, state: Path | None) -> AdminApi:
    """The admin API. Raises NotFound, also when the environment names no usable address."""
    if state is None and (url := os.environ.get("LLM_ADMIN_URL")):
        token = os.environ.get("LLM_ADMIN_TOKEN")
        if not token:
            raise NotFound("LLM_ADMIN_URL is set, and LLM_ADMIN_TOKEN is not")
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NotFound("LLM_ADMIN_URL must be an address like http://127.0.0.1:8080")
        return AdminApi(url, SecretStr(token))
    ready = _ready_file(state, "LLM_ADMIN_URL and LLM_ADMIN_TOKEN")
    return AdminApi(ready["admin_url"], SecretStr(ready["admin_token"]))


def local_tenant(*, state: Path | None) -> str | None:
    """The tenant of the local stack; None when the environment names a fleet elsewhere. Raises NotFound."""
    if state is None and os.environ.get("LLM_ADMIN_URL"):
        return None
    return _ready_file(state, "LLM_ADMIN_URL")["tenant"]


def resealing(*, state: Path | None) -> "ResealSettings":
    """What `fleet keys reseal` needs: Vault's address, the role `reseal`, and all sealing keys. Raises NotFound."""
    from fleet.deploy.vault_policies import RESEAL_ROLE
    from fleet.local.servers import VaultServer
    from fleet.local.state import State
    from fleet.operator.reseal import ResealSettings

    if state is None and os.environ.get("VAULT_ADDR"):
        return ResealSettings.model_validate({})
    folder = state or default_folder()
    ready = _ready_file(state, "VAULT_ADDR, VAULT_ROLE_ID, VAULT_SECRET_ID and LLM_ENCRYPTION_KEY")
    role_id, secret_id = VaultServer(folder / "vault", providers=()).role(RESEAL_ROLE)
    sealing = {name.lower(): value for name, value in State(folder).sealing_keys().items()}
    access = {"vault_addr": ready["vault_addr"], "vault_role_id": role_id, "vault_secret_id": secret_id}
    return ResealSettings.model_validate(access | sealing)


def _ready_file(state: Path | None, variables: str) -> dict[str, Any]:
    """The ready file in `state`, else in the default folder. `variables` are those that could be set in its place.
    Raises NotFound."""
    path = (state or default_folder()) / "ready.json"
    try:
        ready = json.loads(path.read_text())
    except FileNotFoundError:
        start = f"`fleet up --state {shlex.quote(str(state))}`" if state else f"`fleet up`, or set {variables}"
        raise NotFound(f"no fleet runs here ({path} is missing): start one with {start}") from None
    except OSError as exc:
        raise NotFound(f"{path} cannot be read: {exc.strerror}") from None
    except ValueError:
        ready = None
    if not isinstance(ready, dict) or not ready.keys() >= _FACTS:
        raise NotFound(f"{path} is no ready file of `fleet up`; start the stack again")
    return ready
