"""One small example of each message, for the documents that show them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from uuid import UUID

from contracts.attempts import Begun, Unmade
from contracts.budget import Hold
from contracts.control import Cancel, Handover, Resume
from contracts.errors import ErrorCode, Overloaded, RateLimited, UnknownModel
from contracts.events import (
    Cancelled,
    Completed,
    Delta,
    Failed,
    FailedAttempt,
    NextCandidate,
    Retrying,
    Started,
    Timings,
)
from contracts.health import OpenCircuit
from contracts.notices import Alert, AlertNotice, ConfigChange, ConfigNotice, NoticeKind, TrialNotice, WebhookTrial
from contracts.providers import Endpoint, Limits, ProviderConfig, PublishedProvider, PublishedTenant, WorkerPresence
from contracts.requests import AssistantMessage, CompletionRequest, UserMessage
from contracts.rpc import (
    CostEstimate,
    CountTokens,
    EndpointHealth,
    EstimateCost,
    Health,
    HealthCheck,
    ModelInfo,
    Models,
    Refusal,
    TokenCount,
)
from contracts.subjects import Provider
from contracts.usage import Cost, Outcome, PriceSource, Usage, UsageRecord, UsageSource
from contracts.wire import WireModel

_ID = "0198c7f2-5d1a-7c3e-9f00-3b2a1c4d5e6f"
_RECORD_ID = "019ab0c2f8000f1e2d3c4b5a69788796"
_PROVIDER_ID = "5c1f9a52-4f7b-4b7e-9d5c-0a4f3f6f1d11"
_MODEL = "gpt-4o-mini"
_ALERT_ID = UUID("7d0c8a4e-6f51-4a53-8a0e-4b6d1c2e9f10")
_NOTICE_ID = UUID("0c2f2a3e-8a50-5a0f-9a55-5d4a3f1b7c01")
_AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
_QUESTION = (UserMessage(content="Name a fish."),)
_USAGE = Usage(input_tokens=11, output_tokens=3, source=UsageSource.VENDOR)
_COST = Cost(amount=Decimal("0.00000345"))
_RATE_LIMITED = RateLimited("openai answered 429", retry_after_s=1.5, provider="openai", status=429).to_wire()
_OVERLOADED = Overloaded("openai answered 503", provider="openai", status=503).to_wire()

EXAMPLES: Mapping[type[WireModel], WireModel] = MappingProxyType(
    {
        type(example): example
        for example in (
            CompletionRequest(
                id=_ID,
                tenant="acme",
                agent="planner-1",
                model=f"openai/{_MODEL}",
                messages=_QUESTION,
                max_tokens=64,
                deadline=_AT + timedelta(minutes=10),
            ),
            Started(
                request_id=_ID,
                attempt=1,
                seq=0,
                provider="openai",
                endpoint="default",
                model=_MODEL,
                worker="openai-7f3a",
                at=_AT,
            ),
            Delta(request_id=_ID, attempt=1, seq=1, text="A trout"),
            Retrying(
                request_id=_ID,
                attempt=1,
                seq=1,
                error=_RATE_LIMITED,
                delay_s=1.5,
                next=NextCandidate(provider="openai", model=_MODEL),
            ),
            Completed(
                request_id=_ID,
                attempt=1,
                seq=3,
                message=AssistantMessage(content="A trout."),
                finish_reason="stop",
                usage=_USAGE,
                cost=_COST,
                provider="openai",
                model=_MODEL,
                response_model="gpt-4o-mini-2024-07-18",
                response_id="chatcmpl-1",
                timings=Timings(queued_s=0.003, time_to_first_token_s=0.4, duration_s=0.6),
            ),
            Failed(
                request_id=_ID,
                attempt=3,
                seq=1,
                error=_OVERLOADED,
                attempts=(FailedAttempt(provider="openai", model=_MODEL, error=_OVERLOADED),),
            ),
            Cancelled(request_id=_ID, attempt=1, seq=2, usage=_USAGE, cost=_COST),
            Cancel(request_id=_ID),
            Resume(request_id=_ID, agent="planner-1", after=(1, 1)),
            Handover(
                model="anthropic/claude-sonnet-4-5",
                attempt=3,
                queued_at=_AT,
                history=(FailedAttempt(provider="openai", model=_MODEL, error=_OVERLOADED),),
            ),
            Begun(
                id=_RECORD_ID,
                request_id=_ID,
                attempt=1,
                tenant="acme",
                agent="planner-1",
                provider="openai",
                provider_id=_PROVIDER_ID,
                endpoint="default",
                model=_MODEL,
                worker="openai-7f3a",
                request_seq=4711,
                started_at=_AT,
                ends_by=_AT + timedelta(minutes=10),
                queued_s=0.003,
                input_tokens=12,
            ),
            Unmade(id=_RECORD_ID),
            CountTokens(model=f"openai/{_MODEL}", messages=_QUESTION),
            TokenCount(input_tokens=11, exact=True),
            EstimateCost(model=f"openai/{_MODEL}", messages=_QUESTION, max_tokens=64),
            CostEstimate(input_tokens=11, output_tokens=64, cost=Cost(amount=Decimal("0.00004005"))),
            Models(models=(ModelInfo(id=_MODEL, context_window=128_000),)),
            HealthCheck(),
            Health(healthy=True, endpoints=(EndpointHealth(endpoint="default", healthy=True, latency_s=0.21),)),
            Refusal(error=UnknownModel("acme has no model 'fats'").to_wire()),
            UsageRecord(
                id=_RECORD_ID,
                request_id=_ID,
                attempt=1,
                tenant="acme",
                agent="planner-1",
                provider="openai",
                provider_id=_PROVIDER_ID,
                endpoint="default",
                model=_MODEL,
                response_model="gpt-4o-mini-2024-07-18",
                outcome=Outcome.COMPLETED,
                started_at=_AT,
                finished_at=_AT + timedelta(seconds=0.6),
                time_to_first_token_s=0.4,
                duration_s=0.6,
                queued_s=0.003,
                usage=_USAGE,
                cost=_COST.amount,
                price_source=PriceSource.CATALOGUE,
            ),
            PublishedProvider(
                provider_id=_PROVIDER_ID,
                tenant="acme",
                provider_type=Provider.OPENAI,
                is_default=True,
                key_version=1,
                revision=1,
                config=ProviderConfig(endpoints=(Endpoint(base_url="https://api.openai.com/v1"),)),
            ),
            PublishedTenant(
                slug="acme",
                limits=Limits(requests_per_minute=60),
                aliases={"fast": (f"openai/{_MODEL}",)},
                max_keep_s=3600,
                revision=1,
            ),
            WorkerPresence(
                name="openai-7f3a",
                providers=("openai",),
                host="node-1",
                pid=4711,
                version="0.1.0",
                started_at=_AT.isoformat(),
                concurrency=256,
                in_flight=3,
                parked=0,
            ),
            Hold(tenant="acme", window="20261123", worker="openai-7f3a", slot=0, number=12, units=4_005_000, at=_AT),
            OpenCircuit(
                tenant="acme",
                provider="openai",
                endpoint="default",
                reason=ErrorCode.RATE_LIMITED,
                opened_at=_AT,
                until=_AT + timedelta(seconds=20),
                generation=1,
                revision=1,
                worker="openai-7f3a",
            ),
            AlertNotice(
                id=_NOTICE_ID,
                source="/fleet/usage",
                subject=str(_ALERT_ID),
                time=_AT,
                tenant="acme",
                type="llm.v1.alert.raised",
                data=Alert(
                    id=_ALERT_ID,
                    tenant="acme",
                    kind=NoticeKind.DAILY_COST,
                    about="",
                    window_start=_AT.replace(hour=0),
                    day=_AT.date(),
                    threshold_usd=Decimal(100),
                    amount_usd=Decimal("100.25"),
                    message="acme has spent 100.25 USD on 2026-11-23; its threshold is 100 USD",
                    created_at=_AT,
                ),
            ),
            ConfigNotice(
                id=_NOTICE_ID,
                source="/fleet/admin",
                subject=_PROVIDER_ID,
                time=_AT,
                tenant="acme",
                data=ConfigChange(
                    tenant="acme",
                    object_type="provider",
                    object_id=_PROVIDER_ID,
                    action="provider.rotate",
                    actor="bootstrap",
                    changed=("key_fingerprint", "key_version"),
                ),
            ),
            TrialNotice(
                id=_NOTICE_ID,
                source="/fleet/admin",
                subject=str(_ALERT_ID),
                time=_AT,
                tenant="acme",
                data=WebhookTrial(webhook_id=_ALERT_ID, message="This webhook works."),
            ),
        )
    }
)
