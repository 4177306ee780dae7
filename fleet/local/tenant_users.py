"""The NATS users of a local stack's tenants: those that the admin API adds get one while the server runs."""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import nats.errors
from pydantic import SecretStr

from contracts import streams, subjects
from contracts.wire import reason
from fleet.deploy import nats_config, nats_users
from fleet.local.process import StartFailed
from fleet.local.servers import NatsServer
from fleet.local.state import State
from runtime import broker
from runtime.broker import Broker, Unreachable
from runtime.settings import BrokerSettings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
_TENANT_KEYS = f"$KV.{subjects.CONFIG_BUCKET}.{subjects.config_key_of_tenant('x').removesuffix('x')}"
_AGENT = "nats_agent-"
"""What the name of a tenant's password begins with, among the secrets of the state folder."""


class TenantUsers:
    """Who may log in at the local NATS server: every role, and the agents of every tenant that is known.

    A tenant is known once it has a password here, which it keeps when the stack is started again.
    """

    def __init__(self, state: State, *, tenants: Sequence[str], providers: Sequence[str]) -> None:
        """`tenants`: those that are known from the beginning, before any was added."""
        self._state = state
        self._providers = providers
        for tenant in tenants:
            self.password(nats_users.agent(tenant))

    @property
    def tenants(self) -> list[str]:
        """Those that are known, by name."""
        return self._state.secrets_below(_AGENT)

    def password(self, user: nats_users.User) -> str:
        """The password of a user; made and kept when it has none yet."""
        return self._state.secret(f"nats_{user.name}", secrets.token_urlsafe)

    def accounts(self) -> str:
        """The server's accounts with all of them."""
        login = nats_config.by_password(lambda user: nats_config.quoted(self.password(user)))
        return nats_config.accounts(nats_users.users(tenants=self.tenants, providers=self._providers), login=login)

    def facts(self, *, besides: str) -> dict[str, dict[str, str]]:
        """User and password of the agents of each tenant but one, as the ready file has them."""
        agents = {tenant: nats_users.agent(tenant) for tenant in self.tenants if tenant != besides}
        return {
            tenant: {"nats_user": agent.name, "nats_password": self.password(agent)} for tenant, agent in agents.items()
        }

    async def keep_current(self, server: NatsServer, *, on_change: Callable[[], None]) -> None:
        """Gives every tenant that the control plane publishes a user, until it is cancelled. `on_change` is called when
        new ones can log in."""
        operator = nats_users.operator()
        settings = BrokerSettings(
            nats_url=server.url, nats_user=operator.name, nats_password=SecretStr(self.password(operator))
        )
        served = set(self.tenants)
        while True:
            try:
                async with broker.connect(settings, name="fleet-up", inbox_prefix=operator.inbox_prefix) as connection:
                    while not connection.closed.is_set():
                        if new := await _published(connection) - served:
                            for tenant in new:
                                self.password(nats_users.agent(tenant))
                            await server.reload(self.accounts())
                            served |= new
                            log.info("tenants_can_log_in", extra={"tenants": sorted(new)})
                            on_change()
                        await asyncio.sleep(LOOK_EVERY_S)
            except (Unreachable, StartFailed, nats.errors.Error, OSError, TimeoutError) as exc:
                # The server is being started again, or says so with the next look.
                log.warning("tenants_not_looked_up", extra={"error": reason(exc)})
                await asyncio.sleep(LOOK_EVERY_S)


async def _published(connection: Broker) -> set[str]:
    """The tenants in `llm_config`."""
    asked = json.dumps({"subjects_filter": f"{_TENANT_KEYS}*"}).encode()
    answer: Any = json.loads(await connection.request(f"$JS.API.STREAM.INFO.{streams.CONFIG}", asked))
    found = answer.get("state", {}).get("subjects") or {}
    return {subject.removeprefix(_TENANT_KEYS) for subject in found}
