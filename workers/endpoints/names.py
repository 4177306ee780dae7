"""What a request may be sent to, a candidate and an endpoint of its provider; and what of it has a circuit."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

from contracts import health


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider and its own name of a model."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"

    @classmethod
    def parse(cls, text: str) -> "Candidate":
        provider, _, model = text.partition("/")
        return cls(provider, model)


@dataclass(frozen=True, slots=True)
class EndpointId:
    """An endpoint of a tenant's provider, with the key that it uses."""

    tenant: str
    provider: str
    endpoint: str


@dataclass(frozen=True)
class CircuitId:
    """What a circuit takes out of service: one model at an endpoint, or all of them.

    Without slots, so that its key, which is asked for often, is made once.
    """

    endpoint: EndpointId
    model: str | None = None
    """None: every model."""

    def __str__(self) -> str:
        endpoint = f"the endpoint {self.endpoint.endpoint} of {self.endpoint.provider}"
        return endpoint if self.model is None else f"the model {self.model} at {endpoint}"

    @cached_property
    def key(self) -> str:
        """Where it is in the bucket `llm_health`."""
        of = self.endpoint
        return health.key_of_circuit(of.tenant, of.provider, of.endpoint, self.model)


@lru_cache(maxsize=4096)
def circuits_of(endpoint: EndpointId, model: str) -> tuple[CircuitId, CircuitId]:
    """What a call is held up by: the circuit of all models there, and that of this one. They are kept with their keys,
    of which one is a hash."""
    return CircuitId(endpoint), CircuitId(endpoint, model)
