"""What an endpoint may ask for, besides its caller (access.principals): the parts that the composition root has built.

A route names each part that it uses in its signature, and hands it to a service function. So a signature tells what an
endpoint can touch: `deactivate_provider` asks for the database and the publisher, and has no way to Vault.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Depends, FastAPI, Request
from prometheus_client import CollectorRegistry

from admin_api.configuration.provider_keys import ProviderKeys
from admin_api.database import Database
from admin_api.notices.webhook import WebhookSender
from admin_api.operations.dead_letter_stream import DeadLetterStream
from admin_api.operations.models import ModelList
from admin_api.operations.worker_rpc import WorkerRpc
from admin_api.publishing.config_publisher import ConfigPublisher
from admin_api.publishing.key_vault import KeyVault
from runtime.broker import Broker
from runtime.networks import Network
from runtime.sealing import Keyring

T = TypeVar("T")


class AllowedNetworks(tuple[Network, ...]):
    """The private networks that an address which a tenant gives may lie in."""


def provide(app: FastAPI, *parts: object) -> None:
    """Gives an application parts, each under its class; a part takes the place of an earlier one of its class."""
    app.state.parts = getattr(app.state, "parts", {}) | {type(part): part for part in parts}


def part_of(app: FastAPI, kind: type[T]) -> T:
    """The part of an application that has that class."""
    return app.state.parts[kind]


def part(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """A dependency for an endpoint that needs the part of that class."""

    async def find(request: Request) -> T:
        return part_of(request.app, kind)

    return find


Db = Annotated[Database, Depends(part(Database))]
Nats = Annotated[Broker, Depends(part(Broker))]
Vault = Annotated[KeyVault, Depends(part(KeyVault))]
Keys = Annotated[ProviderKeys, Depends(part(ProviderKeys))]
Publisher = Annotated[ConfigPublisher, Depends(part(ConfigPublisher))]
Sealing = Annotated[Keyring, Depends(part(Keyring))]
Webhooks = Annotated[WebhookSender, Depends(part(WebhookSender))]
Networks = Annotated[AllowedNetworks, Depends(part(AllowedNetworks))]
Workers = Annotated[WorkerRpc, Depends(part(WorkerRpc))]
Models = Annotated[ModelList, Depends(part(ModelList))]
DeadLetters = Annotated[DeadLetterStream, Depends(part(DeadLetterStream))]
Metrics = Annotated[CollectorRegistry, Depends(part(CollectorRegistry))]
