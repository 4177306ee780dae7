"""What every request needs, wired once in `workers.app`."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.broker import Broker
from runtime.sealing import Keyring
from workers.admission import Admission
from workers.budgets import Budgets
from workers.cancellations import Cancellations
from workers.clock import Clock
from workers.config import Configuration
from workers.endpoints import Endpoints
from workers.publisher import Publisher
from workers.stream import LiveStreams
from workers.waiting import WaitingRoom


@dataclass(frozen=True, slots=True)
class Services:
    worker: str
    broker: Broker
    publisher: Publisher
    config: Configuration
    endpoints: Endpoints
    keyring: Keyring
    default_models: Mapping[str, str]
    cancellations: Cancellations
    live: LiveStreams
    admission: Admission
    budgets: Budgets
    waiting: WaitingRoom
    clock: Clock
    rng: random.Random
