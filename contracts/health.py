"""What workers tell each other of models and endpoints that must not be called: values of the KV bucket `llm_health`.

An entry is there while a circuit is not closed, and goes by its TTL at the latest.
"""

import hashlib
from typing import Annotated

from pydantic import Field

from contracts import subjects
from contracts.errors import ErrorCode
from contracts.wire import Token, UtcTime, WireModel, optional

_HEX_DIGITS = 40


class OpenCircuit(WireModel):
    """KV key `circuit.<tenant>.<provider>.<endpoint>`, or `circuit.<tenant>.<provider>.model-<hash>` for one model: a
    cool-down that a vendor asked for, or an open circuit."""

    tenant: Token
    provider: Token
    endpoint: Token
    model: str | None = optional()
    """The vendor's name of the model that is out of service at this endpoint; absent: all its models are."""
    reason: ErrorCode
    """`rate_limited`: the vendor asked for a pause; otherwise the error of the last call before it opened."""
    opened_at: UtcTime
    """When the model or the endpoint left service; kept over failed probes."""
    until: UtcTime
    """No worker calls it before; afterwards one worker of the fleet probes it."""
    generation: Annotated[int, Field(ge=1)]
    """How often in a row it was opened; each time for longer."""
    revision: Annotated[int, Field(ge=0)]
    """The revision of the provider's configuration: a change of it, such as a new key, closes the circuit."""
    worker: Token
    """The worker that opened it."""


def key_of_circuit(tenant: str, provider: str, endpoint: str, model: str | None = None) -> str:
    """The key of an endpoint's circuit, or of that of one model there.

    Models have a hash in the endpoint's place, because their names may be long and hold dots and wildcards. So every
    key has as many tokens as in versions that knew endpoints only: they read it, and take it for that of an endpoint
    that they never call.
    """
    place = subjects.token(endpoint)
    if model is not None:
        named = f"{place} {model}".encode(errors="surrogatepass")
        place = f"model-{hashlib.sha256(named).hexdigest()[:_HEX_DIGITS]}"
    return f"circuit.{subjects.token(tenant)}.{subjects.token(provider)}.{place}"
