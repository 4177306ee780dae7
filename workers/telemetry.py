"""The metrics of a worker, all in one place. Labels hold providers, outcomes and codes; never tenants or models."""

from functools import lru_cache
from typing import TypeVar, cast

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from contracts.usage import UsageRecord

_LATENCY_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

REQUESTS = Counter("fleet_requests_total", "Requests that ended, by outcome", ["provider", "outcome", "code"])
ATTEMPTS = Counter("fleet_attempts_total", "Vendor calls that ended, by outcome", ["provider", "outcome", "code"])
DECISIONS = Counter("fleet_decisions_total", "What followed an attempt that failed, by decision", ["decision"])
HANDOVERS = Counter("fleet_handovers_total", "Requests given to another pool", ["provider", "to"])
REDELIVERIES = Counter("fleet_redeliveries_total", "Requests delivered again", ["provider"])
PUT_OFF = Counter("fleet_put_off_total", "Requests given back unstarted, to come again in their turn", ["provider"])
DEAD_LETTERS = Counter("fleet_dead_letters_total", "Requests that could not be processed", ["provider", "code"])
REFUSALS = Counter("fleet_refusals_total", "Requests refused because their tenant's limit was reached", ["limit"])
UNCHECKED_LIMITS = Counter(
    "fleet_unchecked_limits_total", "Limits that a request was not held to, because no counter answered", ["limit"]
)
CIRCUITS_OPENED = Counter(
    "fleet_circuits_opened_total", "Endpoints that this worker took out of service, by reason", ["provider", "reason"]
)
HANDED_OVER_ON_DRAIN = Counter("fleet_drain_interrupted_total", "Requests given back because the worker stopped")
OUTPUT_TOKENS = Counter("fleet_output_tokens_total", "Output tokens", ["provider", "source"])
INPUT_TOKENS = Counter("fleet_input_tokens_total", "Input tokens", ["provider", "source"])

QUEUED = Histogram("fleet_queued_seconds", "From publishing to the first vendor call", ["provider"], buckets=_LATENCY_S)
FIRST_TOKEN = Histogram(
    "fleet_time_to_first_token_seconds", "From the vendor call to its first output", ["provider"], buckets=_LATENCY_S
)
DURATION = Histogram("fleet_attempt_seconds", "Of one vendor call", ["provider", "outcome"], buckets=_LATENCY_S)

IN_FLIGHT = Gauge("fleet_in_flight", "Requests being worked on", ["provider"])
WAITING_FOR_BUDGET = Gauge(
    "fleet_budget_waiting", "Requests that wait because other calls keep free what is left of their tenant's budget"
)
BUDGET_STOPS = Counter(
    "fleet_budget_stops_total",
    "Requests that a daily budget stopped: waits, refused, broken_off in the middle of the answer, late (its deadline "
    "passed while it waited)",
    ["how"],
)
PARKED = Gauge("fleet_parked", "Requests pulled and waiting for a slot", ["provider"])
WAITING_BYTES = Gauge("fleet_waiting_bytes", "Bytes of requests given back, until they come again", ["provider"])


M = TypeVar("M", bound=MetricWrapperBase)


@lru_cache(maxsize=4096)
def _labelled(metric: MetricWrapperBase, values: tuple[str, ...]) -> MetricWrapperBase:
    return metric.labels(*values)


def of(metric: M, *values: str) -> M:
    """The metric with these labels. It is kept, because `labels` takes longer than counting."""
    return cast("M", _labelled(metric, values))


def count_attempt(record: UsageRecord) -> None:
    """Counts one attempt, as it was booked."""
    of(ATTEMPTS, record.provider, record.outcome, record.error_code or "").inc()
    of(INPUT_TOKENS, record.provider, record.usage.source).inc(record.usage.input_tokens)
    of(OUTPUT_TOKENS, record.provider, record.usage.source).inc(record.usage.output_tokens)
    of(DURATION, record.provider, record.outcome).observe(record.duration_s)
    if record.time_to_first_token_s is not None:
        of(FIRST_TOKEN, record.provider).observe(record.time_to_first_token_s)
