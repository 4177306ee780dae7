"""Usage records for tests."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from secrets import token_hex
from typing import Any
from uuid import uuid4

from contracts.usage import Outcome, PriceSource, Usage, UsageRecord, UsageSource

USED_AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
"""When the attempt of a record begins that says nothing else."""
PROVIDER_ID = str(uuid4())


def record(
    request_id: str | None = None,
    *,
    attempt: int = 1,
    source: UsageSource = UsageSource.VENDOR,
    outcome: Outcome = Outcome.COMPLETED,
    tokens: tuple[int, int] = (10, 20),
    cost: str | None = "0.0000135",
    started_at: datetime = USED_AT,
    **changes: Any,
) -> UsageRecord:
    request_id = request_id or token_hex(8)
    given: dict[str, Any] = {
        "id": f"{request_id}-{attempt}",
        "request_id": request_id,
        "attempt": attempt,
        "tenant": "acme",
        "agent": "planner-1",
        "provider": "openai",
        "provider_id": PROVIDER_ID,
        "endpoint": "default",
        "model": "gpt-4o-mini",
        "response_model": "gpt-4o-mini-2024-07-18",
        "outcome": outcome,
        "started_at": started_at,
        "finished_at": started_at + timedelta(seconds=2),
        "time_to_first_token_s": 0.4,
        "duration_s": 2.1,
        "queued_s": 0.003,
        "usage": Usage(input_tokens=tokens[0], output_tokens=tokens[1], source=source),
        "cost": None if cost is None else Decimal(cost),
        "price_source": PriceSource.NONE if cost is None else PriceSource.CATALOGUE,
    }
    return UsageRecord(**(given | changes))
