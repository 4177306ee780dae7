"""What workers tell each other of endpoints that must not be called: values of the KV bucket `llm_health`.

An entry is there while a circuit is not closed, and goes by its TTL at the latest.
"""

from typing import Annotated

from pydantic import Field

from contracts import subjects
from contracts.errors import ErrorCode
from contracts.wire import Token, UtcTime, WireModel


class OpenCircuit(WireModel):
    """KV key `circuit.<tenant>.<provider>.<endpoint>`: a cool-down that a vendor asked for, or an open circuit."""

    tenant: Token
    provider: Token
    endpoint: Token
    reason: ErrorCode
    """`rate_limited`: the vendor asked for a pause; otherwise the error of the last call before it opened."""
    opened_at: UtcTime
    """When the endpoint left service; kept over failed probes."""
    until: UtcTime
    """No worker calls the endpoint before; afterwards one worker of the fleet probes it."""
    generation: Annotated[int, Field(ge=1)]
    """How often in a row it was opened; each time for longer."""
    revision: Annotated[int, Field(ge=0)]
    """The revision of the provider's configuration: a change of it, such as a new key, closes the circuit."""
    worker: Token
    """The worker that opened it."""


def key_of_circuit(tenant: str, provider: str, endpoint: str) -> str:
    return f"circuit.{subjects.token(tenant)}.{subjects.token(provider)}.{subjects.token(endpoint)}"
