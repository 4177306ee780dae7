"""Subjects of NATS, and which users may publish to them and subscribe to them.

They are samples: of the tenant acme, whose agents are `agent-acme`, and of the pool `worker-openai`. The columns of
`agent-globex` and `worker-anthropic` are any other tenant's and any other pool's.
"""

from dataclasses import dataclass

from contracts import streams
from contracts.subjects import AUTO, Priority
from fleet.deploy import nats_users

USERS = {
    user.name: user for user in nats_users.users(tenants=["acme", "globex"], providers=["openai", "anthropic", "mock"])
}

AGENT, OTHER_AGENT = "agent-acme", "agent-globex"
POOL, OTHER_POOL = "worker-openai", "worker-anthropic"
USAGE, ADMIN, OPERATOR, MONITOR = "usage", "admin", "operator", "monitor"
COLUMNS = (AGENT, OTHER_AGENT, POOL, OTHER_POOL, USAGE, ADMIN, OPERATOR, MONITOR)

POOLS = (POOL, OTHER_POOL)
ROLES = (*POOLS, USAGE, ADMIN)
NEXT = "$JS.API.CONSUMER.MSG.NEXT"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whoever is not named is denied. `publish` None: a pattern, to which nobody can publish."""

    name: str
    publish: tuple[str, ...] | None = ()
    subscribe: tuple[str, ...] = ()


def _messages() -> tuple[Subject, ...]:
    """What agents, pools, the usage consumer and the control plane tell each other."""
    return (
        Subject("llm.v1.request.openai.interactive.acme", publish=(AGENT, *POOLS, ADMIN)),
        Subject("llm.v1.request.auto.background.acme", publish=(AGENT, *POOLS, ADMIN)),
        Subject("llm.v1.request.>", publish=None),
        Subject("llm.v1.reply.acme.planner.r1", publish=POOLS, subscribe=(AGENT,)),
        Subject("llm.v1.reply.acme.>", publish=None, subscribe=(AGENT,)),
        Subject("llm.v1.reply.>", publish=None),
        Subject("llm.v1.control.acme.cancel", publish=(AGENT,)),
        Subject("llm.v1.control.acme.resume", publish=(AGENT,), subscribe=POOLS),
        *(
            Subject(f"llm.v1.rpc.openai.{method}.acme", publish=(AGENT, ADMIN), subscribe=(POOL,))
            for method in ("count_tokens", "models", "health", "estimate_cost")
        ),
        Subject("llm.v1.attempt.acme.planner.r1", publish=POOLS),
        Subject("llm.v1.attempt.>", publish=None),
        Subject("llm.v1.result.acme.planner.r1", publish=POOLS),
        Subject("llm.v1.result.>", publish=None),
        Subject("llm.v1.usage.openai.acme", publish=(POOL, ADMIN)),
        Subject("llm.v1.usage.>", publish=None),
        Subject("llm.v1.dead.openai.acme", publish=(POOL, USAGE)),
        Subject("llm.v1.dead.auto.acme", publish=(*POOLS, USAGE)),
        Subject("llm.v1.notice.key_refused.acme", publish=(ADMIN,)),
        Subject("llm.v1.limit.requests.acme.20261123", publish=POOLS),
        Subject("llm.v1.budget.acme.20261123", publish=POOLS),
        Subject("llm.v1.>", publish=None),
        Subject(">", publish=None),
    )


def _buckets() -> tuple[Subject, ...]:
    return (
        Subject("$KV.llm_config.tenant.acme", publish=(ADMIN,)),
        Subject("$KV.llm_config.provider.acme.openai", publish=(ADMIN,)),
        Subject("$KV.llm_health.worker.w1", publish=POOLS),
        Subject("$KV.llm_health.replies.w1", publish=POOLS),
        Subject("$KV.llm_health.queue.w1", publish=POOLS),
        Subject("$KV.llm_health.circuit.acme.openai.default", publish=(POOL,)),
        Subject("$KV.llm_health.slot.acme.openai.default.1", publish=(POOL,)),
        Subject("$KV.llm_holds.acme.20261123.w1.1", publish=POOLS),
        Subject("$KV.>", publish=None),
    )


def _inboxes() -> tuple[Subject, ...]:
    return (
        Subject("_INBOX.x", publish=()),
        Subject("_INBOX_acme.x", subscribe=(AGENT,)),
        Subject("_ROLE_worker_openai.x", subscribe=(POOL,)),
        Subject("_ROLE_usage.x", subscribe=(USAGE,)),
        Subject("_ROLE_admin.x", subscribe=(ADMIN,)),
        Subject("_ROLE_operator.x", subscribe=(OPERATOR,)),
        Subject("_ROLE_monitor.x", subscribe=(MONITOR,)),
    )


def _pulling() -> tuple[Subject, ...]:
    of_pool = [streams.pool_consumer("openai", priority) for priority in Priority]
    of_auto = [streams.pool_consumer(AUTO, priority) for priority in Priority]
    return (
        *(Subject(f"{NEXT}.LLM_REQUESTS.{name}", publish=(POOL, OPERATOR)) for name in of_pool),
        *(Subject(f"$JS.ACK.LLM_REQUESTS.{name}.1.2.3.4.5", publish=(POOL,)) for name in of_pool),
        *(Subject(f"{NEXT}.LLM_REQUESTS.{name}", publish=(*POOLS, OPERATOR)) for name in of_auto),
        *(Subject(f"$JS.ACK.LLM_REQUESTS.{name}.1.2.3.4.5", publish=POOLS) for name in of_auto),
        Subject(f"{NEXT}.LLM_ATTEMPTS.attempts", publish=(USAGE, OPERATOR)),
        Subject("$JS.ACK.LLM_ATTEMPTS.attempts.1.2.3.4.5", publish=(USAGE,)),
        Subject(f"{NEXT}.LLM_CANCELS.x", publish=(*POOLS, OPERATOR)),
        Subject(f"{NEXT}.LLM_RESULTS.x", publish=(ADMIN, OPERATOR)),
        Subject(f"{NEXT}.LLM_USAGE.usage", publish=(USAGE, OPERATOR)),
        Subject("$JS.ACK.LLM_USAGE.usage.1.2.3.4.5", publish=(USAGE,)),
        Subject(f"{NEXT}.LLM_DEAD.list_1", publish=(ADMIN, OPERATOR)),
    )


def _reading() -> tuple[Subject, ...]:
    """Messages of a stream, asked for one by one, and followed."""
    readers = {
        streams.REQUESTS: (ADMIN,),
        streams.REPLIES: POOLS,
        streams.CANCELS: POOLS,
        streams.ATTEMPTS: (*POOLS, USAGE),
        streams.RESULTS: POOLS,
        streams.USAGE: (),
        streams.DEAD: (ADMIN,),
        streams.NOTICES: (),
        streams.LIMITS: POOLS,
        streams.BUDGETS: (),
        streams.HOLDS: POOLS,
        streams.CONFIG: ROLES,
        streams.HEALTH: ROLES,
    }
    get, create, flow = "$JS.API.DIRECT.GET", "$JS.API.CONSUMER.CREATE", "$JS.FC"
    watched = (streams.CONFIG, streams.HEALTH)
    return (
        *(
            Subject(f"{get}.{name}{what}", publish=(*who, OPERATOR))
            for name, who in readers.items()
            for what in ("", ".x")
        ),
        *(
            Subject(f"{create}.{name}{what}", publish=(*readers[name], OPERATOR))
            for name in watched
            for what in ("", ".x")
        ),
        *(Subject(f"{flow}.{name}.x", publish=readers[name]) for name in watched),
        Subject(f"{create}.LLM_CANCELS.x", publish=(*POOLS, OPERATOR)),
        Subject(f"{create}.LLM_RESULTS.x", publish=(ADMIN, OPERATOR)),
        Subject(f"{create}.LLM_REPLIES", publish=(OPERATOR,)),
        Subject(f"{create}.LLM_REQUESTS.spy.llm.v1.request.>", publish=(OPERATOR,)),
        Subject(f"{create}.LLM_DEAD.list_1.llm.v1.dead.*.acme", publish=(ADMIN, OPERATOR)),
        Subject("$JS.API.CONSUMER.DELETE.LLM_DEAD.list_1", publish=(ADMIN, OPERATOR)),
        *(Subject(f"$JS.API.STREAM.MSG.{verb}.LLM_DEAD", publish=(ADMIN, OPERATOR)) for verb in ("GET", "DELETE")),
        Subject("$JS.API.STREAM.MSG.GET.LLM_REQUESTS", publish=(OPERATOR,)),
    )


def _defining() -> tuple[Subject, ...]:
    """Streams and consumers: to see, make, change and remove them."""
    names = [definition["name"] for definition in streams.definitions(streams.Sizes())]
    consumer = "LLM_REQUESTS.openai_interactive"
    return (
        Subject("$JS.API.INFO", publish=(OPERATOR,)),
        Subject("$JS.API.STREAM.NAMES", publish=(USAGE, OPERATOR)),
        Subject("$JS.API.STREAM.INFO.LLM_REQUESTS", publish=(*ROLES, OPERATOR)),
        Subject(f"$JS.API.CONSUMER.INFO.{consumer}", publish=(*ROLES, OPERATOR)),
        *(
            Subject(f"$JS.API.STREAM.{verb}.{name}", publish=(ADMIN, OPERATOR))
            for verb in ("CREATE", "UPDATE")
            for name in names
        ),
        *(
            Subject(f"$JS.API.CONSUMER.CREATE.{stream}.{config['durable_name']}.x", publish=(ADMIN, OPERATOR))
            for stream, config in streams.consumers()
        ),
        Subject("$JS.API.STREAM.PURGE.LLM_USAGE", publish=(USAGE, OPERATOR)),
        Subject("$JS.API.STREAM.PURGE.LLM_REQUESTS", publish=(ADMIN, OPERATOR)),
        Subject("$JS.API.STREAM.PURGE.LLM_RESULTS", publish=(ADMIN, OPERATOR)),
        Subject("$JS.API.STREAM.PURGE.LLM_REPLIES", publish=(*POOLS, OPERATOR)),
        Subject("$JS.API.STREAM.DELETE.LLM_REQUESTS", publish=(OPERATOR,)),
        Subject(f"$JS.API.CONSUMER.DELETE.{consumer}", publish=(OPERATOR,)),
    )


def _servers() -> tuple[Subject, ...]:
    """In the servers' own account: to look, and to change."""
    return (
        *(Subject(f"$SYS.REQ.SERVER.PING{what}", publish=(MONITOR,)) for what in ("", ".JSZ", ".VARZ", ".STATSZ")),
        *(Subject(f"$SYS.REQ.SERVER.N1.{what}", publish=(MONITOR,)) for what in ("HEALTHZ", "CONNZ", "ROUTEZ")),
        *(Subject(f"$SYS.REQ.SERVER.N1.{what}") for what in ("RELOAD", "KICK", "LDM", "PROFILEZ")),
        Subject("$SYS.REQ.ACCOUNT.FLEET.SUBSZ"),
        Subject("$SYS.SERVER.*.STATSZ", publish=None, subscribe=(MONITOR,)),
        Subject("$SYS.>", publish=None),
    )


SECTIONS = {
    "What is said": _messages(),
    "Configuration and health": _buckets(),
    "Answers": _inboxes(),
    "Pulling and acknowledging": _pulling(),
    "Reading what is stored": _reading(),
    "Streams and consumers": _defining(),
    "The servers": _servers(),
}
SUBJECTS = tuple(subject for section in SECTIONS.values() for subject in section)


def matches(pattern: str, subject: str) -> bool:
    """Whether a pattern of NATS covers a subject."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))
