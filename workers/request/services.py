"""What every request needs, wired once in `workers.app`."""

import random
from dataclasses import dataclass

from runtime.broker import Broker
from runtime.jetstream.publishing import Publisher
from runtime.sealing import Keyring
from workers.clock import Clock
from workers.control.cancellations import Cancellations
from workers.endpoints.admission import EndpointGate
from workers.endpoints.configuration import Configuration
from workers.endpoints.router import Router
from workers.intake.waiting_room import WaitingRoom
from workers.quotas.budgets import Budgets
from workers.quotas.rate_limiter import RateLimiter
from workers.request.events import LiveStreams


@dataclass(frozen=True, slots=True)
class Services:
    worker: str
    broker: Broker
    publisher: Publisher
    config: Configuration
    endpoints: EndpointGate
    keyring: Keyring
    router: Router
    cancellations: Cancellations
    live: LiveStreams
    admission: RateLimiter
    budgets: Budgets
    waiting: WaitingRoom
    clock: Clock
    rng: random.Random
