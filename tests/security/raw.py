"""An agent without the client, which sends what it likes."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from contracts import subjects
from contracts.control import MSG_ID
from contracts.events import Event, Failed, Terminal, parse
from contracts.subjects import Priority
from tests.patience import PATIENCE_S
from tests.security.fleet import MODELS, POOLS, Tenant


def request(tenant: Tenant, request_id: str, *, agent: str = "raw", **fields: Any) -> dict[str, Any]:
    """The body of a short request."""
    return {
        "id": request_id,
        "tenant": tenant.name,
        "agent": agent,
        "model": f"{POOLS[0]}/{MODELS[POOLS[0]]}",
        "messages": [{"role": "user", "content": "Hello"}],
        **fields,
    }


async def publish(
    connection: Nats,
    tenant: Tenant,
    body: Mapping[str, Any] | bytes,
    *,
    msg_id: str | None = None,
    shared_msg_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    provider: str = POOLS[0],
    priority: Priority = Priority.INTERACTIVE,
) -> dict[str, Any]:
    """JetStream's answer. `headers` stand beside the message id, and may say another one.

    `msg_id` is made the tenant's own, so that no other test is in its way; `shared_msg_id` is sent as it is.
    """
    own = f"{msg_id}-{tenant.name}" if msg_id else shared_msg_id
    said = {**({MSG_ID: own} if own else {}), **(headers or {})}
    subject = subjects.request(provider, priority, tenant.name)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return json.loads((await connection.request(subject, data, timeout=PATIENCE_S, headers=said or None)).data)


@dataclass(slots=True)
class Listener:
    """What the fleet says to all agents of a tenant."""

    events: list[Event] = field(default_factory=list[Event])

    @property
    def ends(self) -> list[Terminal]:
        return [event for event in self.events if isinstance(event, Terminal)]

    @property
    def ended_ids(self) -> set[str]:
        return {event.request_id for event in self.ends}

    def codes(self) -> dict[str, str]:
        """From a request's id to what it failed with."""
        return {end.request_id: end.error.code for end in self.ends if isinstance(end, Failed)}

    @classmethod
    @asynccontextmanager
    async def of(cls, connection: Nats, tenant: Tenant) -> AsyncGenerator["Listener"]:
        heard = cls()

        async def note(msg: Msg) -> None:
            heard.events.append(parse(msg.data))

        subscription = await connection.subscribe(f"{subjects.VERSION}.reply.{tenant.name}.>", cb=note)
        await connection.flush(int(PATIENCE_S))
        yield heard
        await subscription.unsubscribe()
