"""The users of the NATS server: one for each role, tenant and pool, with the least that its work needs.

Everything that is not named here is denied. A denied request is answered by nobody, so the client sees a timeout and
the server's error in its error callback.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from contracts import streams, subjects
from contracts.subjects import AUTO, Priority

FLEET_ACCOUNT = "FLEET"
SYSTEM_ACCOUNT = "$SYS"
_V = subjects.VERSION
_INFO = ("$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.INFO.*.*")
_CONFIG_KEYS = f"$KV.{subjects.CONFIG_BUCKET}.>"
_MONITORED = ("STATSZ", "VARZ", "JSZ", "HEALTHZ", "CONNZ", "ROUTEZ")
_HEALTH = f"$KV.{subjects.HEALTH_BUCKET}"


@dataclass(frozen=True, slots=True)
class User:
    """A NATS user. The answers to its questions come to subjects below `inbox_prefix`, which nobody else may read."""

    name: str
    inbox_prefix: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...] = ()
    """What it may subscribe besides its inbox."""
    answers_requests: bool = False
    """Whether it may publish to the reply subject of what it received, for a while."""
    account: str = FLEET_ACCOUNT


def agent(tenant: str) -> User:
    """The user of all agents of one tenant. They see their tenant's replies only, and no JetStream API. They are in an
    account of their own, for the reason that nats_config.py gives."""
    subjects.token(tenant)
    return User(
        f"agent-{tenant}",
        subjects.inbox_prefix(tenant),
        publish=(f"{_V}.request.*.*.{tenant}", f"{_V}.control.{tenant}.>", f"{_V}.rpc.*.*.{tenant}"),
        subscribe=(f"{_V}.reply.{tenant}.>",),
        account=f"tenant-{tenant}",
    )


def worker(*providers: str) -> User:
    """The user of a pool, which pulls its own providers' requests and those that name no provider, and hands requests
    over to other pools. Its inbox is its own, so that no pool reads what another one pulls."""
    pulls = [streams.pool_consumer(of, priority) for of in (*providers, AUTO) for priority in Priority]
    return User(
        f"worker-{'-'.join(providers)}",
        f"_ROLE_worker_{'_'.join(providers)}",
        publish=(
            *_INFO,
            *(subject for consumer in pulls for subject in _pull(streams.REQUESTS, consumer)),
            subjects.REPLIES,
            subjects.ATTEMPTS,
            subjects.RESULTS,
            *(f"{_V}.usage.{provider}.*" for provider in providers),
            *(f"{_V}.dead.{of}.*" for of in (*providers, AUTO)),
            subjects.REQUESTS,
            subjects.LIMITS,
            subjects.BUDGETS,
            f"$KV.{subjects.HOLDS_BUCKET}.>",
            *_direct_get(streams.REPLIES),
            *_direct_get(streams.RESULTS),
            *_direct_get(streams.ATTEMPTS),
            *_direct_get(streams.CANCELS),
            f"$JS.API.CONSUMER.CREATE.{streams.CANCELS}.*",
            f"$JS.API.CONSUMER.MSG.NEXT.{streams.CANCELS}.*",
            *_direct_get(streams.LIMITS),
            *_direct_get(streams.HOLDS),
            *_watch(streams.CONFIG),
            *_watch(streams.HEALTH),
            f"{_HEALTH}.worker.*",
            f"{_HEALTH}.replies.*",
            f"{_HEALTH}.queue.*",
            f"$JS.API.STREAM.PURGE.{streams.REPLIES}",
            *(f"{_HEALTH}.{what}" for of in providers for what in (f"circuit.*.{of}.*", f"slot.*.{of}.*.*")),
        ),
        subscribe=(subjects.ALL_RESUMES, *map(subjects.all_rpcs, providers)),
        answers_requests=True,
    )


def usage() -> User:
    """The user of the usage consumers: they pull usage records, move those that cannot be booked to the
    dead letters, and purge what is booked."""
    return User(
        "usage",
        "_ROLE_usage",
        publish=(
            *_INFO,
            "$JS.API.STREAM.NAMES",
            *_pull(streams.USAGE, streams.USAGE_CONSUMER),
            *_pull(streams.ATTEMPTS, streams.ATTEMPTS_CONSUMER),
            *_direct_get(streams.ATTEMPTS),
            *_watch(streams.CONFIG),
            *_watch(streams.HEALTH),
            subjects.DEAD,
            f"$JS.API.STREAM.PURGE.{streams.USAGE}",
        ),
    )


def admin() -> User:
    """The user of the control plane, which publishes configuration, asks workers, reads and replays dead letters, and
    makes the streams."""
    made = streams.definitions(streams.Sizes())
    return User(
        "admin",
        "_ROLE_admin",
        publish=(
            *_INFO,
            # What creating and updating takes of the streams that contracts.streams defines, and of no other.
            *(f"$JS.API.STREAM.{verb}.{stream['name']}" for stream in made for verb in ("CREATE", "UPDATE")),
            *(f"$JS.API.CONSUMER.CREATE.{of}.{consumer['durable_name']}.>" for of, consumer in streams.consumers()),
            *_direct_get(streams.DEAD),
            # To see how large requests are, and to make room for those of others; see runtime/jetstream/queue_guard.py.
            *_direct_get(streams.REQUESTS),
            f"$JS.API.STREAM.PURGE.{streams.REQUESTS}",
            # The same of results, whose headers tell their size; see runtime/jetstream/results_guard.py.
            *(f"$JS.API.CONSUMER.{verb}.{streams.RESULTS}.*" for verb in ("CREATE", "MSG.NEXT")),
            f"$JS.API.STREAM.PURGE.{streams.RESULTS}",
            f"$JS.API.STREAM.MSG.GET.{streams.DEAD}",
            f"$JS.API.STREAM.MSG.DELETE.{streams.DEAD}",
            *(f"$JS.API.CONSUMER.{verb}.{streams.DEAD}.>" for verb in ("CREATE", "MSG.NEXT", "DELETE")),
            *_watch(streams.CONFIG),
            *_watch(streams.HEALTH),
            _CONFIG_KEYS,
            subjects.REQUESTS,
            subjects.USAGE,
            subjects.NOTICES,
            f"{_V}.rpc.>",
        ),
    )


def operator() -> User:
    """The user of whoever looks after the server: all of JetStream's API, nothing of what agents and workers say."""
    return User("operator", "_ROLE_operator", publish=("$JS.API.>",))


def monitor() -> User:
    """The user of whoever watches the servers: it asks each for its state, and may change nothing."""
    return User(
        "monitor",
        "_ROLE_monitor",
        publish=("$SYS.REQ.SERVER.PING", *(f"$SYS.REQ.SERVER.*.{what}" for what in _MONITORED)),
        subscribe=("$SYS.SERVER.*.STATSZ",),
        account=SYSTEM_ACCOUNT,
    )


def users(*, tenants: Sequence[str], providers: Sequence[str]) -> list[User]:
    """Every user of a fleet with these tenants and these pools, one provider each."""
    return [operator(), admin(), usage(), monitor(), *map(worker, providers), *map(agent, tenants)]


def _pull(stream: str, consumer: str) -> tuple[str, ...]:
    """What pulling from a consumer and acknowledging takes."""
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", f"$JS.ACK.{stream}.{consumer}.>"


def _direct_get(stream: str) -> tuple[str, ...]:
    """What reading stored messages takes, without a consumer."""
    return f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>"


def _watch(bucket: str) -> tuple[str, ...]:
    """What reading a bucket and following its changes takes: an ephemeral consumer with flow control."""
    create = f"$JS.API.CONSUMER.CREATE.{bucket}"
    return *_direct_get(bucket), create, f"{create}.>", f"$JS.FC.{bucket}.>"
