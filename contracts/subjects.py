"""Subjects: the addresses of the contract, built and taken apart in one place.

Every token is checked before it enters a subject, so that no tenant, agent or request id can widen one.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from contracts.wire import TOKEN_PATTERN

VERSION = "llm.v1"
REQUESTS = f"{VERSION}.request.>"
REPLIES = f"{VERSION}.reply.>"
ATTEMPTS = f"{VERSION}.attempt.>"
RESULTS = f"{VERSION}.result.>"
USAGE = f"{VERSION}.usage.>"
DEAD = f"{VERSION}.dead.>"
NOTICES = f"{VERSION}.notice.>"
LIMITS = f"{VERSION}.limit.>"
BUDGETS = f"{VERSION}.budget.>"
ALL_CANCELS = f"{VERSION}.control.*.cancel"
ALL_RESUMES = f"{VERSION}.control.*.resume"

CONFIG_BUCKET = "llm_config"
HEALTH_BUCKET = "llm_health"
HOLDS_BUCKET = "llm_holds"

_TOKEN = re.compile(TOKEN_PATTERN)


class Provider(StrEnum):
    """The vendors that have an adapter, and the mock."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    AZURE = "azure"
    OLLAMA = "ollama"
    MOCK = "mock"


AUTO = "auto"
"""In a provider's place: the fleet resolves the model."""


class Priority(StrEnum):
    INTERACTIVE = "interactive"
    BACKGROUND = "background"


class RpcMethod(StrEnum):
    COUNT_TOKENS = "count_tokens"
    MODELS = "models"
    HEALTH = "health"
    ESTIMATE_COST = "estimate_cost"


# Those of a request stand in several subjects, and those of its tenant and agent in every request's.
@lru_cache(maxsize=4096)
def token(value: str) -> str:
    """`value`, if it may stand in a subject. Raises ValueError."""
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is not a subject token ([A-Za-z0-9_-], 1 to 64 of them)")
    return value


def request(provider: str, priority: Priority, tenant: str) -> str:
    return f"{VERSION}.request.{token(provider)}.{priority}.{token(tenant)}"


def requests_of_pool(provider: str, priority: Priority) -> str:
    return f"{VERSION}.request.{token(provider)}.{priority}.*"


def reply(tenant: str, agent: str, request_id: str) -> str:
    return f"{VERSION}.reply.{token(tenant)}.{token(agent)}.{token(request_id)}"


def replies_of_agent(tenant: str, agent: str) -> str:
    return f"{VERSION}.reply.{token(tenant)}.{token(agent)}.*"


def tenant_of_reply(subject: str) -> str:
    """The tenant of `llm.v1.reply.<tenant>.<agent>.<id>`."""
    return subject.split(".")[3]


def cancel(tenant: str) -> str:
    return f"{VERSION}.control.{token(tenant)}.cancel"


def resume(tenant: str) -> str:
    return f"{VERSION}.control.{token(tenant)}.resume"


def rpc(provider: str, method: RpcMethod, tenant: str) -> str:
    return f"{VERSION}.rpc.{token(provider)}.{method}.{token(tenant)}"


def all_rpcs(provider: str) -> str:
    return f"{VERSION}.rpc.{token(provider)}.*.*"


def attempt(tenant: str, agent: str, request_id: str) -> str:
    return f"{VERSION}.attempt.{token(tenant)}.{token(agent)}.{token(request_id)}"


def result(tenant: str, agent: str, request_id: str) -> str:
    return f"{VERSION}.result.{token(tenant)}.{token(agent)}.{token(request_id)}"


def results_of_tenant(tenant: str) -> str:
    return f"{VERSION}.result.{token(tenant)}.>"


def tenant_of_result(subject: str) -> str:
    """The tenant of `llm.v1.result.<tenant>.<agent>.<id>`."""
    return subject.split(".")[3]


def usage(provider: str, tenant: str) -> str:
    return f"{VERSION}.usage.{token(provider)}.{token(tenant)}"


def dead(provider: str, tenant: str) -> str:
    return f"{VERSION}.dead.{token(provider)}.{token(tenant)}"


def notice(kind: str, tenant: str) -> str:
    return f"{VERSION}.notice.{token(kind)}.{token(tenant)}"


def limit(kind: str, tenant: str, window: str) -> str:
    return f"{VERSION}.limit.{token(kind)}.{token(tenant)}.{token(window)}"


def budget(tenant: str, window: str) -> str:
    return f"{VERSION}.budget.{token(tenant)}.{token(window)}"


def hold_key(tenant: str, window: str, worker: str, slot: int) -> str:
    return f"{token(tenant)}.{token(window)}.{token(worker)}.{slot}"


def inbox_prefix(tenant: str) -> str:
    """The prefix that an agent's inboxes must have."""
    return f"_INBOX_{token(tenant)}"


@dataclass(frozen=True, slots=True)
class RequestAddress:
    """What a request's subject says."""

    provider: str
    priority: Priority
    tenant: str


@lru_cache(maxsize=1024)
def parse_request(subject: str) -> RequestAddress:
    """Raises ValueError when `subject` is no request subject or names no known provider or priority."""
    match subject.split("."):
        case ["llm", "v1", "request", provider, priority, tenant]:
            known = provider if provider == AUTO else Provider(provider).value
            return RequestAddress(known, Priority(priority), token(tenant))
        case _:
            raise ValueError(f"not a request subject: {subject[:200]!r}")


def tenant_of_control(subject: str) -> str:
    """The tenant of `llm.v1.control.<tenant>.<verb>`."""
    return subject.split(".")[3]


def method_and_tenant_of_rpc(subject: str) -> tuple[str, str]:
    """Method and tenant of `llm.v1.rpc.<provider>.<method>.<tenant>`."""
    parts = subject.split(".")
    return parts[4], parts[5]


def config_key_of_tenant(tenant: str) -> str:
    return f"tenant.{token(tenant)}"


def config_key_of_provider(tenant: str, provider: str) -> str:
    return f"provider.{token(tenant)}.{token(provider)}"
