"""A completion request, in OpenAI's chat vocabulary.

The limit on a request's size is the broker's `max_payload` (8 MiB); a larger one never leaves the client.
Source of the message vocabulary: OpenAI's Chat Completions reference.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

from pydantic import ConfigDict, Field, StringConstraints, field_validator, model_validator

from contracts.wire import Items, JsonObject, ModelName, StrictWireModel, Token, UtcTime, WireModel, optional

MAX_REQUEST_BYTES = 8 * 1024 * 1024
MAX_TOOL_CALL_ID_CHARS = 64 * 1024
DEFAULT_DEADLINE_S = 600.0
MAX_KEEP_S = 7 * 86_400
"""The end of a request is kept so long at most."""

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
OnInterrupt = Literal["restart", "fail"]
ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
ToolCallId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TOOL_CALL_ID_CHARS)]
"""As the vendor gave it. Gateways keep Gemini's thought signatures in it, which are thousands of characters long."""


_URL_HEAD = re.compile(r"https?://|data:image/[^;,]{0,100}", re.IGNORECASE)


class TextPart(WireModel):
    type: Literal["text"] = "text"
    text: str


class ImageUrl(WireModel):
    url: Annotated[str, StringConstraints(pattern=r"^(https?://|data:image/)")]
    detail: Literal["auto", "low", "high"] | None = optional()

    @field_validator("url", mode="before")
    @classmethod
    def _lower_the_scheme(cls, url: Any) -> Any:
        """Case says nothing there, nor in a media type (RFC 3986, section 3.1; RFC 2045, section 5.1)."""
        head = _URL_HEAD.match(url) if isinstance(url, str) else None
        return url if head is None else head[0].lower() + url[head.end() :]


class ImagePart(WireModel):
    type: Literal["image_url"] = "image_url"
    image_url: ImageUrl


ContentPart = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class FunctionCall(WireModel):
    name: ToolName
    arguments: str
    """JSON as the model wrote it; it may be invalid."""


class ToolCall(WireModel):
    id: ToolCallId
    type: Literal["function"] = "function"
    function: FunctionCall


class SystemMessage(WireModel):
    role: Literal["system", "developer"] = "system"
    content: str | Items[TextPart]
    name: str | None = optional()


class UserMessage(WireModel):
    role: Literal["user"] = "user"
    content: str | Items[ContentPart]
    name: str | None = optional()


class AssistantMessage(WireModel):
    """What a model said: in a request, an earlier turn; in `completed`, the answer."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    tool_calls: Items[ToolCall] | None = optional()
    refusal: str | None = optional()
    reasoning: str | None = optional()
    provider_data: JsonObject | None = optional()
    """What a vendor wants back on the next turn, by provider; sent back untouched, ignored by the others."""
    name: str | None = optional()

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, content: Any) -> Any:
        """OpenAI also accepts an assistant's content as parts: texts, and a refusal, which it said as well."""
        if not isinstance(content, list | tuple):
            return content
        said: list[str] = []
        for part in content:
            match part:
                case {"type": "refusal", "refusal": str(refusal)}:
                    said.append(refusal)
                case _:
                    said.append(TextPart.model_validate(part).text)
        return "".join(said)


class ToolMessage(WireModel):
    role: Literal["tool"] = "tool"
    tool_call_id: ToolCallId
    content: str | Items[TextPart]


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage,
    Field(discriminator="role"),
]


class FunctionSpec(WireModel):
    name: ToolName
    description: str | None = optional()
    parameters: JsonObject | None = optional()
    strict: bool | None = optional()


class Tool(WireModel):
    type: Literal["function"] = "function"
    function: FunctionSpec


class NamedFunction(WireModel):
    name: ToolName


class NamedToolChoice(WireModel):
    type: Literal["function"] = "function"
    function: NamedFunction


class ResponseFormat(WireModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonObject | None = optional()

    @model_validator(mode="after")
    def _schema_comes_with_its_type(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given with, and only with, type json_schema")
        return self


class CompletionRequest(StrictWireModel):
    """One request, as an agent publishes it on `llm.v1.request.<provider>.<priority>.<tenant>`."""

    model_config = ConfigDict(title="CompletionRequest")

    id: Token
    tenant: Token
    agent: Token
    model: ModelName
    messages: Items[Message] = Field(json_schema_extra={"minItems": 1})
    stream: bool = True
    max_tokens: int | None = optional(ge=1, le=10_000_000)
    temperature: float | None = optional(ge=0, le=2)
    top_p: float | None = optional(gt=0, le=1)
    stop: Items[str] | None = optional(max_length=16)
    seed: int | None = optional(ge=-(2**63), lt=2**63)
    tools: Items[Tool] | None = optional()
    tool_choice: Literal["auto", "none", "required"] | NamedToolChoice | None = optional()
    parallel_tool_calls: bool | None = optional()
    response_format: ResponseFormat | None = optional()
    reasoning_effort: ReasoningEffort | None = optional()
    fallbacks: Items[ModelName] = Field(default=(), max_length=16)
    deadline: UtcTime | None = optional()
    """Bounds queueing and calling together; ten minutes after publishing when not given."""
    on_interrupt: OnInterrupt = "restart"
    coalesce_ms: int = Field(default=0, ge=0, le=1000)
    """Deltas leave at most every so many milliseconds, merged; the first one of an attempt never waits."""
    keep_s: int | None = optional(ge=0, le=MAX_KEEP_S)
    """For so many seconds the request's end is kept, and fetched by its id; 0: the end without its content. The fleet's
    usual time when not given, and no longer than the tenant's setting allows."""
    provider_options: dict[str, JsonObject] = Field(default_factory=dict)
    """Further fields for the vendor's request body, by provider."""
    metadata: JsonObject = Field(default_factory=dict)

    @field_validator("messages")
    @classmethod
    def _say_something(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Only asked when all of them are good: `min_length` would also count those before the first bad one."""
        if not messages:
            raise ValueError("there must be at least one")
        return messages

    @field_validator("provider_options")
    @classmethod
    def _name_no_other_model(cls, options: dict[str, Any]) -> dict[str, Any]:
        """It would be called past the tenant's prices, budget and configuration."""
        for provider, further in options.items():
            if "model" in further:
                raise ValueError(f"{provider[:64]} has a model; only the request's own field names one")
        return options

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list_of_one(cls, stop: Any) -> Any:
        """Without empty ones, which stop nothing, and without a list of none: vendors refuse them, or stop at once."""
        if isinstance(stop, str):
            stop = (stop,)
        return tuple(one for one in stop if one != "") or None if isinstance(stop, list | tuple) else stop


class RequestFields(TypedDict, total=False):
    """The fields of a request that an agent may give by name, with the types that the client takes for them.

    Plain dicts stand for messages, tools and formats, sequences for lists. What a request has besides (its id, tenant,
    agent, model, messages and deadline), the client's own parameters say. A test holds this to `CompletionRequest`.
    """

    stream: bool
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    tools: Sequence[Tool | Mapping[str, Any]] | None
    tool_choice: Literal["auto", "none", "required"] | NamedToolChoice | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    response_format: ResponseFormat | Mapping[str, Any] | None
    reasoning_effort: ReasoningEffort | None
    fallbacks: Sequence[str]
    on_interrupt: OnInterrupt
    coalesce_ms: int
    keep_s: int | None
    provider_options: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, Any]
