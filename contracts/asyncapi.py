"""The contract as an AsyncAPI 3 document, made from its own subjects, streams and models.

`fleet asyncapi` prints it; docs/asyncapi.json holds it. Operations are named from the side that acts: what agents do,
and what each role of the fleet does.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from contracts import control, streams, subjects
from contracts.attempts import Begun, Unmade
from contracts.budget import Hold
from contracts.control import Cancel, Handover, Resume
from contracts.events import Cancelled, Completed, Delta, Failed, Retrying, Started
from contracts.examples import EXAMPLES
from contracts.health import OpenCircuit
from contracts.notices import CONTENT_TYPE, AlertNotice, ConfigNotice, NoticeKind
from contracts.providers import PublishedProvider, PublishedTenant, WorkerPresence
from contracts.requests import CompletionRequest
from contracts.rpc import CostEstimate, CountTokens, EstimateCost, Health, HealthCheck, Models, Refusal, TokenCount
from contracts.schemas import components, text
from contracts.subjects import AUTO, Priority, Provider
from contracts.usage import UsageRecord
from contracts.wire import TOKEN_PATTERN, WireModel

VERSION = "1.0.0"
"""The contract's version; the first number is that of the subjects' version token."""

Action = Literal["send", "receive"]


@dataclass(frozen=True, slots=True)
class Message:
    """`payload` is None for bytes that are no JSON of ours."""

    title: str
    summary: str
    payload: type[WireModel] | None
    headers: tuple[str, ...] = ()
    content_type: str | None = None
    """It is left out for JSON, and for bytes where there is no payload."""


@dataclass(frozen=True, slots=True)
class Channel:
    """`address` is None when the asker's message names it: a reply inbox."""

    address: str | None
    summary: str
    messages: tuple[str, ...]
    stream: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """What `role` does. `reply`: the messages that answer on the inbox; `queue`: the queue group of its readers."""

    role: str
    action: Action
    channel: str
    summary: str
    reply: tuple[str, ...] = ()
    queue: str | None = None


HEADERS: Mapping[str, str] = MappingProxyType(
    {
        control.MSG_ID: "What JetStream recognises a repeated message by.",
        control.MSG_TTL: "How long the message may wait, as `600s`; the request's deadline.",
        "traceparent": "W3C Trace Context.",
        "tracestate": "W3C Trace Context.",
        control.HANDOVER: "Written by the fleet only: a Handover as JSON.",
        control.HANDOVER_PROOF: "The fleet's signature of that and of the request's body.",
        control.DEAD_CODE: "An error code of the contract; `malformed_record` for a usage record.",
        control.DEAD_REASON: "Why, in words.",
        control.DEAD_SUBJECT: "Where the message came from.",
        control.DEAD_AT: "When, as RFC 3339.",
        control.DEAD_TRUNCATED: "`true` when the end of the bytes was cut to make room for these headers.",
    }
)
REQUIRED_HEADERS = frozenset(
    {control.MSG_ID, control.DEAD_CODE, control.DEAD_REASON, control.DEAD_SUBJECT, control.DEAD_AT}
)

_EVENTS = ("started", "delta", "retrying", "completed", "failed", "cancelled")

MESSAGES: Mapping[str, Message] = MappingProxyType(
    {
        "request": Message(
            "Completion request",
            "At most 8 MiB; its tenant is the subject's last token.",
            CompletionRequest,
            (control.MSG_ID, control.MSG_TTL, "traceparent", "tracestate", control.HANDOVER, control.HANDOVER_PROOF),
        ),
        "started": Message("Attempt started", "Voids the deltas of the attempt before.", Started),
        "delta": Message("Output", "What arrived together.", Delta),
        "retrying": Message("Attempt failed, another follows", "Says what failed and what is next.", Retrying),
        "completed": Message("Completed", "Ends the request: the whole answer, its usage and cost.", Completed),
        "failed": Message("Failed", "Ends the request: the error and what was tried.", Failed),
        "cancelled": Message("Cancelled", "Ends the request, as the agent asked.", Cancelled),
        "cancel": Message("Cancel", "Stops a request wherever it is.", Cancel),
        "resume": Message("Resume", "Asks for the events after the last one seen.", Resume),
        "end": Message("End of the stored events", "An empty message.", None),
        "countTokens": Message("Count tokens", "How long is this prompt?", CountTokens),
        "tokenCount": Message("Token count", "Exact, or an estimate that says so.", TokenCount),
        "models": Message("Models", "Which models does the provider serve?", HealthCheck),
        "modelList": Message("Model list", "What the provider serves.", Models),
        "healthCheck": Message("Health check", "One cheap authenticated call to each endpoint.", HealthCheck),
        "health": Message("Health", "Which endpoints answer.", Health),
        "estimateCost": Message("Estimate cost", "What can this call cost at most?", EstimateCost),
        "costEstimate": Message("Cost estimate", "Null when no price is known.", CostEstimate),
        "refusal": Message("Refusal", "The question cannot be answered.", Refusal),
        "begun": Message("Call begun", "A vendor is about to be asked.", Begun),
        "unmade": Message("Call not made", "Nothing of a call that was begun was sent.", Unmade),
        "usageRecord": Message(
            "Usage record",
            "One attempt that reached a vendor; its id is the message id.",
            UsageRecord,
            (control.MSG_ID,),
        ),
        "deadLetter": Message(
            "Dead letter",
            "The original bytes of a request or a usage record that could not be processed.",
            None,
            (control.DEAD_CODE, control.DEAD_REASON, control.DEAD_SUBJECT, control.DEAD_AT, control.DEAD_TRUNCATED),
        ),
        "publishedTenant": Message("Tenant", "What workers need to know of a tenant.", PublishedTenant),
        "publishedProvider": Message(
            "Provider", "What workers need to know of a provider; never a key.", PublishedProvider
        ),
        "workerPresence": Message("Worker", "Refreshed every few seconds, gone when the worker is.", WorkerPresence),
        "hold": Message("Hold", "What is kept free of a budget for one call.", Hold),
        "openCircuit": Message(
            "Open circuit", "An endpoint, or one model there, that is not called for now.", OpenCircuit
        ),
        "alertNotice": Message(
            "Alert", "An alert was raised or resolved.", AlertNotice, (control.MSG_ID,), CONTENT_TYPE
        ),
        "configNotice": Message(
            "Configuration changed", "Who changed what; no values.", ConfigNotice, (control.MSG_ID,), CONTENT_TYPE
        ),
    }
)

_RPC = f"{subjects.VERSION}.rpc.{{provider}}"
_KV_CONFIG = f"$KV.{subjects.CONFIG_BUCKET}"

CHANNELS: Mapping[str, Channel] = MappingProxyType(
    {
        "requests": Channel(
            f"{subjects.VERSION}.request.{{provider}}.{{priority}}.{{tenant}}",
            "Completion requests, kept until one is done with them.",
            ("request",),
            streams.REQUESTS,
        ),
        "replies": Channel(
            f"{subjects.VERSION}.reply.{{tenant}}.{{agent}}.{{request_id}}",
            "The events of one request; live by a plain subscription, afterwards by resume.",
            _EVENTS,
            streams.REPLIES,
        ),
        "cancel": Channel(
            f"{subjects.VERSION}.control.{{tenant}}.cancel",
            "Requests to stop a request; kept for workers that start later.",
            ("cancel",),
            streams.CANCELS,
        ),
        "resume": Channel(f"{subjects.VERSION}.control.{{tenant}}.resume", "Requests for stored events.", ("resume",)),
        "countTokens": Channel(f"{_RPC}.count_tokens.{{tenant}}", "Questions for token counts.", ("countTokens",)),
        "models": Channel(f"{_RPC}.models.{{tenant}}", "Questions for models.", ("models",)),
        "health": Channel(f"{_RPC}.health.{{tenant}}", "Questions for health.", ("healthCheck",)),
        "estimateCost": Channel(f"{_RPC}.estimate_cost.{{tenant}}", "Questions for costs.", ("estimateCost",)),
        "inbox": Channel(
            None,
            "The reply subject of a question: an inbox below `_INBOX_<tenant>` for agents.",
            (*_EVENTS, "end", "tokenCount", "modelList", "health", "costEstimate", "refusal"),
        ),
        "attempts": Channel(
            f"{subjects.VERSION}.attempt.{{tenant}}.{{agent}}.{{request_id}}",
            "The journal of vendor calls: each is here before it is made.",
            ("begun", "unmade"),
            streams.ATTEMPTS,
        ),
        "results": Channel(
            f"{subjects.VERSION}.result.{{tenant}}.{{agent}}.{{request_id}}",
            "The event that ended each request, on disk for as long as it is kept.",
            ("completed", "failed", "cancelled"),
            streams.RESULTS,
        ),
        "usage": Channel(
            f"{subjects.VERSION}.usage.{{provider}}.{{tenant}}",
            "What was used, for the ledger; kept until it is booked.",
            ("usageRecord",),
            streams.USAGE,
        ),
        "deadLetters": Channel(
            f"{subjects.VERSION}.dead.{{provider}}.{{tenant}}",
            "Requests, and usage records, that could not be processed.",
            ("deadLetter",),
            streams.DEAD,
        ),
        "notices": Channel(
            f"{subjects.VERSION}.notice.{{kind}}.{{tenant}}",
            "Alerts and changes of the configuration, as CloudEvents; `_all` in the tenant's place: no single one.",
            ("alertNotice", "configNotice"),
            streams.NOTICES,
        ),
        "tenants": Channel(
            f"{_KV_CONFIG}.tenant.{{tenant}}",
            f"Key-value bucket {subjects.CONFIG_BUCKET}: tenants.",
            ("publishedTenant",),
            streams.CONFIG,
        ),
        "providers": Channel(
            f"{_KV_CONFIG}.provider.{{tenant}}.{{provider}}",
            f"Key-value bucket {subjects.CONFIG_BUCKET}: providers.",
            ("publishedProvider",),
            streams.CONFIG,
        ),
        "workers": Channel(
            f"$KV.{subjects.HEALTH_BUCKET}.worker.{{worker}}",
            f"Key-value bucket {subjects.HEALTH_BUCKET}: workers that live.",
            ("workerPresence",),
            streams.HEALTH,
        ),
        "holds": Channel(
            f"$KV.{subjects.HOLDS_BUCKET}.{{tenant}}.{{window}}.{{worker}}.{{slot}}",
            f"Key-value bucket {subjects.HOLDS_BUCKET}: what is kept free of budgets.",
            ("hold",),
            streams.HOLDS,
        ),
        "circuits": Channel(
            f"$KV.{subjects.HEALTH_BUCKET}.circuit.{{tenant}}.{{provider}}.{{endpoint}}",
            f"Key-value bucket {subjects.HEALTH_BUCKET}: endpoints, or models at them, out of service.",
            ("openCircuit",),
            streams.HEALTH,
        ),
    }
)

PARAMETERS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "provider": {
            "enum": [*(provider.value for provider in Provider), AUTO],
            "description": f"`{AUTO}`, for requests only: the fleet resolves the model.",
        },
        "kind": {
            "enum": [kind.value for kind in NoticeKind if kind is not NoticeKind.TEST],
            "description": "What a notice is about.",
        },
        "priority": {"enum": [priority.value for priority in Priority], "description": "Which queue it waits in."},
        "tenant": {"description": f"Who pays. {TOKEN_PATTERN}"},
        "agent": {"description": f"Who asks. {TOKEN_PATTERN}"},
        "request_id": {"description": f"The request's id. {TOKEN_PATTERN}"},
        "worker": {"description": f"The worker's name. {TOKEN_PATTERN}"},
        "window": {"description": "The day of the budget, `YYYYMMDD`, or `YYYYMMDD-<revision>`."},
        "slot": {"description": "Of the calls that the worker makes at the same time."},
        "endpoint": {
            "description": f"The endpoint's name, or `model-` and a hash for one model there. {TOKEN_PATTERN}"
        },
    }
)

_RPC_QUEUE = "rpc-{provider}"

_STREAM_KEYS = (
    "retention",
    "storage",
    "discard",
    "max_age",
    "max_msg_size",
    "duplicate_window",
    "no_ack",
    "allow_msg_ttl",
)
"""What a reader must know of a channel's stream; durations are nanoseconds, as in the JetStream API."""

OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "agentPublishesRequest": Operation(
            "agent", "send", "requests", "Ask for a completion; the PubAck says that it is kept."
        ),
        "agentReceivesEvents": Operation("agent", "receive", "replies", "Follow a request."),
        "agentCancels": Operation("agent", "send", "cancel", "Stop a request."),
        "agentResumes": Operation("agent", "send", "resume", "Get what was missed.", (*_EVENTS, "end", "refusal")),
        "agentCountsTokens": Operation("agent", "send", "countTokens", "Count a prompt.", ("tokenCount", "refusal")),
        "agentListsModels": Operation("agent", "send", "models", "List models.", ("modelList", "refusal")),
        "agentChecksHealth": Operation("agent", "send", "health", "Check a provider.", ("health", "refusal")),
        "agentEstimatesCost": Operation(
            "agent", "send", "estimateCost", "Estimate a call.", ("costEstimate", "refusal")
        ),
        "workerTakesRequest": Operation("worker", "receive", "requests", "Pull from the pool's durable consumer."),
        "workerHandsOver": Operation("worker", "send", "requests", "Give a request to another provider's pool."),
        "workerPublishesEvents": Operation("worker", "send", "replies", "Tell what happens to a request."),
        "workerTakesCancel": Operation("worker", "receive", "cancel", "Stop a request that it holds."),
        "workerAnswersResume": Operation(
            "worker", "receive", "resume", "Replay.", (*_EVENTS, "end", "refusal"), "resume"
        ),
        "workerCountsTokens": Operation(
            "worker", "receive", "countTokens", "Answer.", ("tokenCount", "refusal"), _RPC_QUEUE
        ),
        "workerListsModels": Operation("worker", "receive", "models", "Answer.", ("modelList", "refusal"), _RPC_QUEUE),
        "workerChecksHealth": Operation("worker", "receive", "health", "Answer.", ("health", "refusal"), _RPC_QUEUE),
        "workerEstimatesCost": Operation(
            "worker", "receive", "estimateCost", "Answer.", ("costEstimate", "refusal"), _RPC_QUEUE
        ),
        "workerBeginsCall": Operation("worker", "send", "attempts", "Write down a call before it is made."),
        "workerKeepsResult": Operation("worker", "send", "results", "Keep how a request ended, before it is booked."),
        "workerReportsUsage": Operation(
            "worker", "send", "usage", "Report an attempt, before its request is acknowledged."
        ),
        "workerBuriesRequest": Operation("worker", "send", "deadLetters", "Keep what cannot be processed."),
        "workerReadsTenants": Operation("worker", "receive", "tenants", "Watch tenants."),
        "workerReadsProviders": Operation("worker", "receive", "providers", "Watch providers."),
        "workerShowsItself": Operation("worker", "send", "workers", "Say that it lives."),
        "workerKeepsFree": Operation("worker", "send", "holds", "Keep free what a call may cost."),
        "workerOpensCircuit": Operation(
            "worker", "send", "circuits", "Take an endpoint or a model out of service for all."
        ),
        "workerHeedsCircuits": Operation("worker", "receive", "circuits", "Call nothing that is out of service."),
        "usageConsumerBooks": Operation("usage", "receive", "usage", "Book usage, in batches."),
        "usageConsumerMissesCalls": Operation("usage", "receive", "attempts", "Book calls that nobody ended."),
        "usageConsumerBuriesRecord": Operation("usage", "send", "deadLetters", "Keep a record that cannot be booked."),
        "adminPublishesTenant": Operation("admin", "send", "tenants", "Publish a tenant after it was stored."),
        "adminPublishesProvider": Operation("admin", "send", "providers", "Publish a provider after it was stored."),
        "adminChecksHealth": Operation(
            "admin", "send", "health", "Test a provider with its stored key.", ("health", "refusal")
        ),
        "adminReadsWorkers": Operation("admin", "receive", "workers", "See which workers live."),
        "adminPublishesNotice": Operation("admin", "send", "notices", "Tell of an alert or a change, once."),
        "adminReadsDeadLetters": Operation("admin", "receive", "deadLetters", "List and replay."),
    }
)


def document() -> dict[str, Any]:
    """The whole AsyncAPI document."""
    carried = [message.payload for message in MESSAGES.values() if message.payload is not None]
    names, schemas = components([*dict.fromkeys(carried), Handover])
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Fleet contract",
            "version": VERSION,
            "description": "What crosses a process boundary between agents and the fleet, and within the fleet.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "nats": {
                "host": "{host}:{port}",
                "protocol": "nats",
                "description": "NATS with JetStream, 2.12 or later.",
                "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "4222"}},
                "security": [{"$ref": "#/components/securitySchemes/password"}],
            }
        },
        "channels": {name: _channel(channel) for name, channel in CHANNELS.items()},
        "operations": {name: _operation(operation) for name, operation in OPERATIONS.items()},
        "components": {
            "messages": {name: _message(name, message, names) for name, message in MESSAGES.items()},
            "schemas": schemas,
            "parameters": dict(PARAMETERS),
            "securitySchemes": {
                "password": {"type": "userPassword", "description": "A NATS user of one tenant, or of one role."}
            },
        },
    }


def _channel(channel: Channel) -> dict[str, Any]:
    made: dict[str, Any] = {
        "address": channel.address,
        "summary": channel.summary,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.messages},
    }
    tokens = [part[1:-1] for part in (channel.address or "").split(".") if part.startswith("{")]
    if tokens:
        made["parameters"] = {token: {"$ref": f"#/components/parameters/{token}"} for token in tokens}
    if channel.stream:
        config = next(config for config in streams.definitions(streams.Sizes()) if config["name"] == channel.stream)
        made["x-jetstream"] = {"stream": channel.stream, **{key: config[key] for key in _STREAM_KEYS if key in config}}
    return made


def _operation(operation: Operation) -> dict[str, Any]:
    channel = f"#/channels/{operation.channel}"
    made: dict[str, Any] = {
        "action": operation.action,
        "channel": {"$ref": channel},
        "summary": operation.summary,
        "tags": [{"name": operation.role}],
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in CHANNELS[operation.channel].messages],
    }
    if operation.queue:
        made["bindings"] = {"nats": {"queue": operation.queue, "bindingVersion": "0.1.0"}}
    if operation.reply:
        made["reply"] = {
            "address": {"location": "$message.header#/reply", "description": "The NATS reply subject."},
            "channel": {"$ref": "#/channels/inbox"},
            "messages": [{"$ref": f"#/channels/inbox/messages/{name}"} for name in operation.reply],
        }
    return made


def _message(name: str, message: Message, names: Mapping[type[WireModel], str]) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "title": message.title, "summary": message.summary}
    if message.headers:
        made["headers"] = {
            "type": "object",
            "properties": {header: {"type": "string", "description": HEADERS[header]} for header in message.headers},
            "required": [header for header in message.headers if header in REQUIRED_HEADERS],
        }
    if message.content_type:
        made["contentType"] = message.content_type
    if message.payload is None:
        made["contentType"] = "application/octet-stream"
    else:
        made["payload"] = {"$ref": f"#/components/schemas/{names[message.payload]}"}
        made["examples"] = [{"payload": json.loads(EXAMPLES[message.payload].to_json())}]
    return made


if __name__ == "__main__":
    sys.stdout.write(text(document()))
