"""What is made of valid values without a check is what the check would have made of them."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from contracts.attempts import Begun
from contracts.events import Started
from contracts.usage import Outcome, PriceSource, Usage, UsageRecord, UsageSource, UsedPrice
from contracts.wire import WireModel
from tests.driven_clock import NOON

CALL: dict[str, Any] = {"id": "c1", "request_id": "r1", "attempt": 1, "tenant": "acme", "agent": "a"}
WHERE: dict[str, Any] = {"provider": "mock", "provider_id": "p1", "endpoint": "default", "model": "echo"}
TIMES: dict[str, Any] = {
    "started_at": NOON,
    "finished_at": NOON + timedelta(seconds=1),
    "duration_s": 1.0,
    "queued_s": 0.5,
}
USAGE = Usage(input_tokens=3, output_tokens=2, source=UsageSource.VENDOR)
PRICE = UsedPrice(input_mtok=Decimal("0.15"), output_mtok=Decimal("0.6"), catalogue="c")


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (Started, {"request_id": "r1", "attempt": 1, "seq": 0, "worker": "w", "at": NOON} | WHERE),
        (
            Begun,
            CALL
            | WHERE
            | {
                "worker": "w",
                "request_seq": 7,
                "started_at": NOON,
                "ends_by": NOON,
                "queued_s": 0.0,
                "input_tokens": 5,
            },
        ),
        (UsageRecord, CALL | WHERE | TIMES | {"outcome": Outcome.CANCELLED, "usage": USAGE}),
        (
            UsageRecord,
            CALL
            | WHERE
            | TIMES
            | {
                "outcome": Outcome.COMPLETED,
                "usage": USAGE,
                "cost": Decimal("0.0000126"),
                "price_source": PriceSource.CATALOGUE,
                "price": PRICE,
                "metadata": {"team": [1, None]},
            },
        ),
    ],
)
def test_is_as_if_it_was_checked(model: type[WireModel], fields: dict[str, Any]) -> None:
    known = {name: value for name, value in fields.items() if name in model.model_fields}

    made = model.of_valid(**known)

    checked = model.model_validate(known)
    assert made == checked
    assert made.model_fields_set == checked.model_fields_set
    assert made.to_json() == checked.to_json()
    assert made.model_copy(update={}) == checked
