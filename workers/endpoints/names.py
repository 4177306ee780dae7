"""What a request may be sent to: a candidate, and an endpoint of a candidate's provider."""

from dataclasses import dataclass

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

    def __str__(self) -> str:
        return health.key_of_circuit(self.tenant, self.provider, self.endpoint)

    @classmethod
    def of_circuit(cls, key: str) -> "EndpointId":
        """The endpoint whose circuit lies under this key of the bucket `llm_health`; `str` is the other way."""
        _, tenant, provider, endpoint = key.split(".")
        return cls(tenant, provider, endpoint)
