"""What is asked and answered on `llm.v1.rpc.<provider>.<method>.<tenant>`. A refusal is `{"error": …}`."""

from contracts.errors import Error
from contracts.requests import Message, Tool
from contracts.usage import Cost
from contracts.wire import Items, ModelName, StrictWireModel, WireModel, optional

MAX_SHORT_QUESTION_BYTES = 4096
"""The most of a question that holds no request: health, models, and resume."""


class CountTokens(StrictWireModel):
    model: ModelName
    messages: Items[Message]
    tools: Items[Tool] | None = optional()


class TokenCount(WireModel):
    input_tokens: int
    exact: bool
    """Whether the vendor counted; otherwise it is an estimate, because the vendor offers no count for this model."""


class EstimateCost(CountTokens):
    max_tokens: int | None = optional(ge=1)
    """Bounds the output; without it the model's usual limit is assumed."""


class CostEstimate(WireModel):
    input_tokens: int
    output_tokens: int
    cost: Cost | None = None
    """The most that the call can cost; None when no price is known."""


class ModelInfo(WireModel):
    id: str
    context_window: int | None = None


class Models(WireModel):
    models: tuple[ModelInfo, ...]


class HealthCheck(StrictWireModel):
    """Ask for one cheap authenticated call to each endpoint."""

    revision: int | None = optional(ge=1)
    """The provider's revision; a worker that has only heard of an older one refuses with `no_provider`."""


class EndpointHealth(WireModel):
    endpoint: str
    healthy: bool
    latency_s: float | None = None
    error: Error | None = optional()


class Health(WireModel):
    healthy: bool
    endpoints: tuple[EndpointHealth, ...]


class Refusal(WireModel):
    error: Error
