"""The JetStream streams, buckets and consumers, and the one function that makes them exist.

Definitions are plain JSON of the JetStream API (durations in nanoseconds), and `ensure` needs only something that
sends a request, so this module works over any client. A server whose stream differs in a way that would lose data
is refused; what can be changed safely is updated.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from contracts import jetstream_codes, subjects
from contracts.requests import MAX_KEEP_S, MAX_REQUEST_BYTES
from contracts.subjects import AUTO, Priority, Provider

REQUESTS, REPLIES, RESULTS, CANCELS, ATTEMPTS, USAGE, DEAD, NOTICES, LIMITS, BUDGETS = (
    "LLM_REQUESTS",
    "LLM_REPLIES",
    "LLM_RESULTS",
    "LLM_CANCELS",
    "LLM_ATTEMPTS",
    "LLM_USAGE",
    "LLM_DEAD",
    "LLM_NOTICES",
    "LLM_LIMITS",
    "LLM_BUDGETS",
)
CONFIG = f"KV_{subjects.CONFIG_BUCKET}"
HEALTH = f"KV_{subjects.HEALTH_BUCKET}"
HOLDS = f"KV_{subjects.HOLDS_BUCKET}"
USAGE_CONSUMER = "usage"
ATTEMPTS_CONSUMER = "attempts"

REQUEST_IDS_KNOWN_S = 600
"""How long JetStream knows the message id of a request, and refuses it a second time."""
REPLIES_KEPT_S = 600
"""How long the events of a request are stored, unless its tenant has more of them than its share."""
ACK_WAIT_S = 10
HEARTBEAT_S = 3
"""How often a worker says that it still has a message; three fit in `ACK_WAIT_S`."""

USAGE_ACK_WAIT_S = 30
"""A batch is booked well within it; a NATS server that was killed may have forgotten acks, which then come again."""

ATTEMPTS_ACK_WAIT_S = 60
"""The usage consumer says more often than that which attempts it still watches."""

_POOLS = [(provider, priority) for provider in (*Provider, AUTO) for priority in Priority]
_SECOND = 1_000_000_000
_MINUTE = 60 * _SECOND
_DAY = 86_400 * _SECOND
CANCELS_KEPT_S = 3600
"""How long a cancel stops its request, also in workers that start later."""
CANCELS_KEPT_PER_TENANT = 10_000
"""A tenant's newest cancels; older ones go when it sends more within `CANCELS_KEPT_S`."""
_CANCEL_BYTES = 1024
"""The most of one cancel with its headers. It has an id of 64 characters at most; the rest is for trace headers."""
_CANCELS_BYTES = 512 * 1024**2
"""Room for the largest cancels of more than 40 tenants at the same time."""
_SHORTEST_WINDOW = 100_000_000
"""A stream cannot do without a duplicate window; the server takes none that is shorter."""
_COUNTER_BYTES = 256 * 1024**2
"""About two million counters; beyond it those go that were not touched for longest."""
MAX_USAGE_RECORD_BYTES = 16 * 1024
MALFORMED_KEPT_BYTES = 128 * 1024
"""Of a malformed request this much is kept in `LLM_DEAD`."""
_COUNTER_MESSAGE_BYTES = 4 * 1024
_DEAD_PER_POOL_AND_TENANT = 500
"""A tenant that sends malformed requests to all seven pools keeps 438 MiB of them: less than half of `LLM_DEAD`."""
_KIB, _MIB, _GIB = 1024, 1024**2, 1024**3
_NOT_FOUND = 404
_UNBOUNDED = -1
_ASYNC = "async"

Request = Callable[[str, bytes], Awaitable[bytes]]
"""Sends a request to a subject and returns the answer's payload."""

Config = dict[str, Any]


class StreamMismatch(Exception):
    """The server's stream or consumer `name` differs from ours in a way that would lose data."""

    def __init__(
        self, name: str, field: str, found: Any, wanted: Any, *, remedy: str = "drain it, delete it and start again"
    ) -> None:
        super().__init__(
            f"{name} exists with {field}={found!r}, but {wanted!r} is needed so that nothing is lost; {remedy}"
        )


_TOO_SMALL = {
    jetstream_codes.NO_STORAGE: "; give the server a max_file_store of at least LLM_STREAM_DISK_GB, or set that lower",
    jetstream_codes.NO_MEMORY: "; give the server a max_memory_store of at least 1.5 GiB",
}


class JetStreamError(Exception):
    """The JetStream API refused a call."""

    def __init__(self, subject: str, error: dict[str, Any]) -> None:
        self.code = int(error.get("code", 500))
        self.err_code = int(error.get("err_code", 0))
        super().__init__(
            f"{subject}: {error.get('description', error)} ({self.err_code}){_TOO_SMALL.get(self.err_code, '')}"
        )


@dataclass(frozen=True, slots=True)
class Sizes:
    """What operators tune. `replicas` counts for what must survive a node; replies stay on one."""

    replicas: int = 1
    queue_limit_per_tenant: int = 1_250
    """Requests of one tenant and priority and provider that wait or run; above it publishing is refused."""
    max_queue_bytes: int = 6 * _GIB
    max_usage_bytes: int = 3 * _GIB
    """Usage records that are not booked yet, about a million of them in a gibibyte; above it no request ends."""
    max_result_bytes: int = 3 * _GIB
    """Ends of requests; above it the oldest go before their time."""
    max_reply_bytes: int = _GIB


def definitions(sizes: Sizes) -> list[Config]:
    """Every stream and bucket of the contract.

    Each has a size of its own, so that none takes the room of another: a server reserves `max_bytes` when a stream is
    made, and refuses every message of all streams once the sum is used up. What is on disk, in GiB, of the 16 that
    LLM_STREAM_DISK_GB says (with it, the first three change):

    | stream | at most | when it is full |
    |---|---|---|
    | LLM_REQUESTS | 6 | refuses new ones; a tenant has a limit of its own long before |
    | LLM_USAGE | 3 | refuses new ones, and no request ends before its record is stored |
    | LLM_RESULTS | 3 | drops the oldest; a tenant has a share of its own |
    | LLM_ATTEMPTS | 1 | drops the oldest, which were booked long ago |
    | LLM_DEAD | 1 | drops the oldest; 500 of each pool and tenant |
    | LLM_CANCELS | 1/2 | drops the oldest; 10,000 of each tenant |
    | LLM_BUDGETS | 1/2 | drops what was counted longest ago; 10,000 counts of a tenant and day |
    | KV_llm_config | 1/4 | refuses new ones; admins write it |
    | LLM_NOTICES, KV_llm_holds | 1/16 each | drop the oldest; refuse new ones |

    In memory: LLM_REPLIES 1 GiB, LLM_LIMITS 256 MiB, KV_llm_health 64 MiB, of the 2 GB of `max_memory_store`.
    """
    return [
        {
            "name": REQUESTS,
            # What no pool takes is refused where it is published, in place of being kept for nobody.
            "subjects": [subjects.requests_of_pool(provider, priority) for provider, priority in _POOLS],
            "retention": "workqueue",
            "storage": "file",
            "discard": "new",
            "discard_new_per_subject": True,
            "max_msgs_per_subject": sizes.queue_limit_per_tenant,
            "max_bytes": sizes.max_queue_bytes,
            "max_age": 0,
            "max_msg_size": MAX_REQUEST_BYTES,
            "max_consumers": -1,
            "duplicate_window": REQUEST_IDS_KNOWN_S * _SECOND,
            "allow_msg_ttl": True,
            "allow_direct": True,
            "num_replicas": sizes.replicas,
        },
        {
            "name": REPLIES,
            "subjects": [subjects.REPLIES],
            "retention": "limits",
            "storage": "memory",
            "discard": "old",
            "no_ack": True,
            "max_age": REPLIES_KEPT_S * _SECOND,
            "duplicate_window": 2 * _MINUTE,
            "max_bytes": sizes.max_reply_bytes,
            # The server takes some 300 bytes for a message that it does not count. Workers keep tenants to a share.
            "max_msgs": 2_000_000,
            "max_msgs_per_subject": 100_000,
            "max_msg_size": MAX_REQUEST_BYTES,
            "allow_direct": True,
            "num_replicas": 1,
        },
        {
            "name": RESULTS,
            "subjects": [subjects.RESULTS],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_age": MAX_KEEP_S * _SECOND,
            "max_bytes": sizes.max_result_bytes,
            "max_msgs_per_subject": 1,
            "max_msg_size": MAX_REQUEST_BYTES,
            # What is stored twice is told by its subject's sequence, which needs no memory for ids.
            "duplicate_window": _SHORTEST_WINDOW,
            "allow_msg_ttl": True,
            "allow_direct": True,
            "num_replicas": sizes.replicas,
        },
        {
            # A journal: an attempt that is pushed out by half a million later ones was booked long ago.
            "name": ATTEMPTS,
            "subjects": [subjects.ATTEMPTS],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_age": _DAY,
            "max_bytes": 1024**3,
            "max_msgs_per_subject": 100,
            "max_msg_size": 16 * 1024,
            "duplicate_window": 2 * _MINUTE,
            "allow_direct": True,
            "num_replicas": sizes.replicas,
        },
        {
            "name": USAGE,
            "subjects": [subjects.USAGE],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "max_age": 0,
            "max_bytes": sizes.max_usage_bytes,
            "max_msgs_per_subject": -1,
            # A record is stored without its request's metadata when they take more.
            "max_msg_size": MAX_USAGE_RECORD_BYTES,
            "duplicate_window": 10 * _MINUTE,
            "allow_direct": True,
            "num_replicas": sizes.replicas,
        },
        {
            "name": DEAD,
            "subjects": [subjects.DEAD],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_age": 14 * _DAY,
            "max_bytes": _GIB,
            "max_msgs_per_subject": _DEAD_PER_POOL_AND_TENANT,
            "max_msg_size": MAX_REQUEST_BYTES,
            "duplicate_window": 10 * _MINUTE,
            "allow_direct": True,
            "num_replicas": sizes.replicas,
        },
        {
            "name": NOTICES,
            "subjects": [subjects.NOTICES],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_age": 7 * _DAY,
            "max_bytes": 64 * _MIB,
            "max_msgs_per_subject": 1_000,
            "max_msg_size": _MIB,
            "duplicate_window": _DAY,
            "allow_direct": True,
            "num_replicas": sizes.replicas,
        },
        {
            "name": LIMITS,
            "subjects": [subjects.LIMITS],
            "retention": "limits",
            "storage": "memory",
            "discard": "old",
            "max_msgs_per_subject": 1,
            "max_msg_size": _COUNTER_MESSAGE_BYTES,
            "max_age": 2 * _DAY,
            "max_bytes": _COUNTER_BYTES,
            "duplicate_window": 2 * _MINUTE,
            "allow_msg_counter": True,
            "allow_direct": True,
            "num_replicas": sizes.replicas,
        },
        {
            "name": BUDGETS,
            "subjects": [subjects.BUDGETS],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            # More than the total, so that a server that was restarted still knows what it has counted. It is the
            # oldest that goes, so no tenant may have so many that another one's total is among them: 10,000 counts
            # take 2.5 MB.
            "max_msgs_per_subject": 10_000,
            "max_msg_size": _COUNTER_MESSAGE_BYTES,
            "max_bytes": 512 * _MIB,
            "max_age": 3 * _DAY,
            "duplicate_window": 10 * _MINUTE,
            "allow_msg_counter": True,
            "allow_direct": True,
            "num_replicas": sizes.replicas,
        },
        {
            **_bucket(subjects.HOLDS_BUCKET, storage="file", max_bytes=64 * _MIB, replicas=sizes.replicas),
            "max_msg_size": 4 * _KIB,
            "max_age": 3 * _DAY,
        },
        {
            **_bucket(subjects.CONFIG_BUCKET, storage="file", max_bytes=256 * _MIB, replicas=sizes.replicas),
            "max_msg_size": MAX_REQUEST_BYTES,
        },
        {
            **_bucket(subjects.HEALTH_BUCKET, storage="memory", max_bytes=64 * _MIB, replicas=sizes.replicas),
            "max_msg_size": 64 * _KIB,
            "allow_msg_ttl": True,
            "subject_delete_marker_ttl": 10 * _SECOND,
        },
        {
            # Workers hear cancels from here only, so that the stream's bounds are theirs, too. Agents publish to core
            # NATS, and nobody answers them.
            "name": CANCELS,
            "subjects": [subjects.ALL_CANCELS],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "no_ack": True,
            "max_age": CANCELS_KEPT_S * _SECOND,
            "max_msg_size": _CANCEL_BYTES,
            "max_msgs_per_subject": CANCELS_KEPT_PER_TENANT,
            "max_bytes": _CANCELS_BYTES,
            # A tenant that takes the message id of another's cancel would swallow it.
            "duplicate_window": _SHORTEST_WINDOW,
            # Synced to disk one by one, 50,000 cancels of one tenant keep those of others waiting for 6 s (2.15.1). The
            # server has this mode for streams without replicas, and takes it when a stream is made, not later. That is
            # why this stream is the last one: when it has to be made anew, all the others are as they should be.
            **({"persist_mode": _ASYNC} if sizes.replicas == 1 else {}),
            "allow_direct": True,
            "num_replicas": sizes.replicas,
        },
    ]


def _bucket(name: str, *, storage: str, max_bytes: int, replicas: int) -> Config:
    """A key-value bucket, as every NATS client lays it out (ADR-8)."""
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "retention": "limits",
        "storage": storage,
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_bytes": max_bytes,
        "max_age": 0,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "duplicate_window": 2 * _MINUTE,
        "num_replicas": replicas,
    }


def pool_consumer(provider: str, priority: Priority) -> str:
    """The durable that all workers of a pool share for one priority."""
    return f"{provider}_{priority}"


def consumers() -> list[tuple[str, Config]]:
    """(stream, consumer) for each pool, for requests that name no provider, and for the bill."""
    pools = [
        (
            REQUESTS,
            {
                "durable_name": pool_consumer(provider, priority),
                "filter_subject": subjects.requests_of_pool(provider, priority),
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "ack_wait": ACK_WAIT_S * _SECOND,
                "max_deliver": -1,
                # What is put off counts until it is acked: with a bound, one flood would stop all new deliveries.
                "max_ack_pending": -1,
                "max_waiting": 4096,
                "replay_policy": "instant",
            },
        )
        for provider, priority in _POOLS
    ]
    usage: Config = {
        "durable_name": USAGE_CONSUMER,
        "filter_subject": subjects.USAGE,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": USAGE_ACK_WAIT_S * _SECOND,
        "max_deliver": -1,
        "max_ack_pending": 50_000,
        "replay_policy": "instant",
    }
    attempts: Config = {
        **usage,
        "durable_name": ATTEMPTS_CONSUMER,
        "filter_subject": subjects.ATTEMPTS,
        "ack_wait": ATTEMPTS_ACK_WAIT_S * _SECOND,
    }
    return [*pools, (USAGE, usage), (ATTEMPTS, attempts)]


_LOSES_DATA = ("retention", "storage", "no_ack", "allow_msg_counter", "allow_msg_ttl", "deny_delete")
_TUNABLE = (
    "subjects",
    "max_age",
    "max_bytes",
    "max_msgs",
    "max_msgs_per_subject",
    "discard",
    "discard_new_per_subject",
    "duplicate_window",
    "max_msg_size",
    "max_consumers",
    "allow_direct",
    "num_replicas",
    "subject_delete_marker_ttl",
)
_CONSUMER_FIXED = ("filter_subject", "ack_policy", "deliver_policy")
_CONSUMER_TUNABLE = ("ack_wait", "max_deliver", "max_ack_pending")


async def ensure(request: Request, sizes: Sizes) -> None:
    """Create what is missing, update what differs harmlessly. Safe to run by every role at every start.

    How many requests a tenant may have is not lowered below what one has: the server would drop the oldest, which it
    has confirmed (nats-server 2.15). Then it is lowered at a later start.

    Raises StreamMismatch when a stream exists in a form that would lose data, JetStreamError when the server
    refuses.
    """
    for config in definitions(sizes):
        await _ensure_stream(request, config)
    for stream, config in consumers():
        await _ensure_consumer(request, stream, config)


async def _ensure_stream(request: Request, config: Config) -> None:
    name = config["name"]
    try:
        info = await _call(request, f"$JS.API.STREAM.INFO.{name}")
        found = info["config"]
    except JetStreamError as exc:
        if exc.code != _NOT_FOUND:
            raise
        try:
            await _call(request, f"$JS.API.STREAM.CREATE.{name}", config)
        except JetStreamError as race:
            if race.err_code not in jetstream_codes.ALREADY_EXISTS:
                raise
        return
    for field in _LOSES_DATA:
        if found.get(field, False) != config.get(field, False):
            raise StreamMismatch(name, field, found.get(field), config.get(field))
    if name in (REQUESTS, USAGE) and found.get("discard") != "new":
        raise StreamMismatch(name, "discard", found.get("discard"), "new")
    if found.get("persist_mode") == _ASYNC and config["num_replicas"] > 1:
        remedy = "delete it once and start again, by which the cancels of the last hour are lost"
        raise StreamMismatch(name, "persist_mode", _ASYNC, "default", remedy=remedy)
    changed = {f: config[f] for f in _TUNABLE if f in config and found.get(f) != config[f]}
    most = changed.get("max_msgs_per_subject", _UNBOUNDED)
    if config["discard"] == "new" and 0 < most < info["state"]["messages"]:
        counts = await subject_counts(request, name, subjects_filter=">")
        if max(counts.values(), default=0) > most:
            del changed["max_msgs_per_subject"]
    if changed:
        await _call(request, f"$JS.API.STREAM.UPDATE.{name}", {**found, **changed})


async def subject_counts(request: Request, stream: str, *, subjects_filter: str) -> dict[str, int]:
    """How many messages a stream has, by subject. Raises JetStreamError."""
    counts = dict[str, int]()
    offset, total = 0, 1
    while offset < total:
        body = {"subjects_filter": subjects_filter, "offset": offset}
        page = await _call(request, f"$JS.API.STREAM.INFO.{stream}", body)
        found: dict[str, int] = page["state"].get("subjects") or {}
        counts |= found
        offset, total = offset + max(1, len(found)), page.get("total", 0)
    return counts


async def _ensure_consumer(request: Request, stream: str, config: Config) -> None:
    name = config["durable_name"]
    try:
        found = (await _call(request, f"$JS.API.CONSUMER.INFO.{stream}.{name}"))["config"]
    except JetStreamError as exc:
        if exc.code != _NOT_FOUND:
            raise
        found = None
    if found is not None:
        for field in _CONSUMER_FIXED:
            if found.get(field) != config[field]:
                raise StreamMismatch(f"{stream}/{name}", field, found.get(field), config[field])
        if all(found.get(field) == config[field] for field in _CONSUMER_TUNABLE):
            return
    subject = f"$JS.API.CONSUMER.CREATE.{stream}.{name}.{config['filter_subject']}"
    await _call(request, subject, {"stream_name": stream, "config": config})


async def _call(request: Request, subject: str, body: Config | None = None) -> dict[str, Any]:
    answer = json.loads(await request(subject, json.dumps(body).encode() if body is not None else b""))
    if error := answer.get("error"):
        raise JetStreamError(subject, error)
    return answer
