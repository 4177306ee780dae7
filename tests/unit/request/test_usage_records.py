"""Every outcome of an attempt is booked as the vendor would bill it."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from contracts.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    FleetError,
    InvalidRequest,
    Overloaded,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    StreamInterrupted,
)
from contracts.events import Completed, Delta, Started, Timings
from contracts.providers import Price, TieredPrice
from contracts.requests import AssistantMessage, CompletionRequest
from contracts.usage import Outcome, PriceSource, Usage, UsagePart, UsageRecord, UsageSource
from workers.endpoints.names import Candidate
from workers.providers.base import Chunk, Finish, Stated
from workers.providers.shared import token_estimates
from workers.request import usage_records
from workers.request.usage_records import NOTHING, Bill, VendorCall, usage_of

AT = datetime(2026, 11, 1, tzinfo=UTC)
REQUEST = CompletionRequest.model_validate(
    {
        "id": "r",
        "tenant": "t",
        "agent": "a",
        "model": "openai/gpt-4o-mini",
        "messages": [{"role": "user", "content": "How long is the Rhine?"}],
    }
)
SENT = token_estimates.estimate_input(REQUEST)
STATED = Usage(input_tokens=1000, output_tokens=1, cache_read_tokens=600, source=UsageSource.VENDOR)
WHOLE = Usage(input_tokens=1000, output_tokens=50, cache_read_tokens=600, source=UsageSource.VENDOR)


def attempt(
    *texts: str, stated: Stated | None = None, finish: Finish | None = None, model: str = "gpt-4o-mini", number: int = 1
) -> VendorCall:
    made = VendorCall(
        id="call-1",
        number=number,
        candidate=Candidate("openai", model),
        provider_id="p",
        endpoint="default",
        started_at=AT,
        started=0.0,
        queued_s=0.0,
        duration_s=1.0,
        stated=stated,
        finish=finish,
    )
    for text in texts:
        made.gathering.add(Chunk(text=text))
    return made


def book(made: VendorCall, *, error: FleetError | None = None, own: Price | None = None) -> UsageRecord:
    return usage_records.usage_record(
        REQUEST,
        made,
        outcome=Outcome.FAILED if error else Outcome.COMPLETED,
        error=error,
        prices={"gpt-4o-mini": own} if own else {},
    )


def estimated(input_tokens: int, output_tokens: int, cache_read_tokens: int = 0) -> Usage:
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=cache_read_tokens,
        source=UsageSource.ESTIMATED,
    )


CUT = StreamInterrupted("cut")


@pytest.mark.parametrize(
    ("made", "error", "usage"),
    [
        (attempt("x" * 400, finish=Finish("stop", WHOLE)), None, WHOLE),
        (attempt("x" * 400, finish=Finish("stop", None)), None, estimated(SENT, 100)),
        (attempt("x" * 400), CUT, estimated(SENT, 100)),
        (attempt(*["a "] * 67), CUT, estimated(SENT, 67)),
        (attempt(*["a "] * 67, stated=Stated(STATED)), CUT, estimated(1000, 67, 600)),
        (attempt("x" * 400, stated=Stated(STATED)), CUT, estimated(1000, 100, 600)),
        (attempt("x" * 40, stated=Stated(WHOLE)), CUT, estimated(1000, 50, 600)),
        (attempt(stated=Stated(STATED)), Overloaded("in the stream"), estimated(1000, 1, 600)),
        (attempt("x" * 400, stated=Stated(WHOLE, is_final=True)), CUT, WHOLE),
        (attempt("x" * 400, stated=Stated(None, service_tier="flex")), CUT, estimated(SENT, 100)),
        (attempt("x" * 400), None, estimated(SENT, 100)),
        (attempt("x" * 400, stated=Stated(STATED)), None, estimated(1000, 100, 600)),
        (attempt(), None, estimated(SENT, 0)),
        (attempt(), ProviderTimeout("no first token"), estimated(SENT, 0)),
        (attempt(), DeadlineExceeded("too late"), estimated(SENT, 0)),
        (attempt(), ProviderTimeout("504", status=504), NOTHING),
        (attempt(), ProviderUnavailable("refused"), NOTHING),
        (attempt(), RateLimited("429", status=429), NOTHING),
        (attempt(), InvalidRequest("400", status=400), NOTHING),
        (attempt(), AuthenticationFailed("401", status=401), NOTHING),
    ],
    ids=[
        "completed",
        "completed, and the vendor stated nothing",
        "cut after output",
        "cut after many short deltas",
        "cut after many short deltas, and the input was stated",
        "cut after the input was stated",
        "cut when more was counted than had arrived",
        "an error in the stream before output",
        "cut after all was stated",
        "cut when only the tier was stated",
        "cancelled or abandoned after output",
        "cancelled after the input was stated",
        "cancelled before output",
        "silent until a limit",
        "silent until the deadline",
        "the vendor's own timeout",
        "never reached",
        "rate limited",
        "refused",
        "not let in",
    ],
)
def test_an_attempt_is_booked_as_the_vendor_would_bill_it(
    made: VendorCall, error: FleetError | None, usage: Usage
) -> None:
    assert usage_of(made, REQUEST, error) == usage


def vendors(input_tokens: int, output_tokens: int, *, cache_read_tokens: int = 0, reasoning_tokens: int = 0) -> Usage:
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=cache_read_tokens,
        reasoning_tokens=reasoning_tokens,
        source=UsageSource.VENDOR,
    )


NONE, LONG = (), ("x" * 400,)


@pytest.mark.parametrize(
    ("texts", "stated", "usage"),
    [
        (LONG, vendors(0, 0), estimated(SENT, 100)),
        (LONG, vendors(9, 0), estimated(9, 100)),
        (LONG, vendors(0, 50), estimated(SENT, 50)),
        (NONE, vendors(0, 50), estimated(SENT, 50)),
        (NONE, vendors(0, 0), vendors(0, 0)),
        (NONE, vendors(9, 0), vendors(9, 0)),
        (LONG, vendors(9, 1), vendors(9, 1)),
        (LONG, vendors(0, 50, cache_read_tokens=70), estimated(70, 50, 70)),
        (
            ("x",),
            vendors(9, 0, reasoning_tokens=70),
            Usage(input_tokens=9, output_tokens=70, reasoning_tokens=70, source=UsageSource.ESTIMATED),
        ),
        (LONG, vendors(9, 10**10 + 1), estimated(SENT, 100)),
        (LONG, vendors(2**63 - 1, 2**63 - 1), estimated(SENT, 100)),
    ],
    ids=[
        "nothing, for an answer",
        "no output, for an answer",
        "no input, for an answer",
        "no input, and the output was not shown",
        "nothing, and nothing arrived",
        "an empty answer",
        "as stated, however little",
        "no input, and more of it was cached than we count",
        "no output, and reasoning",
        "more than can be",
        "as much as fits",
    ],
)
@pytest.mark.parametrize("end", ["finish", "before the end marker"])
def test_nothing_is_no_vendors_count_of_something(
    texts: tuple[str, ...], stated: Usage, usage: Usage, end: str
) -> None:
    if end == "finish":
        made, error = attempt(*texts, finish=Finish("stop", stated)), None
    else:
        made, error = attempt(*texts, stated=Stated(stated, is_final=True)), CUT

    assert usage_of(made, REQUEST, error) == usage


@pytest.mark.parametrize("parts", [(UsagePart(),) * 101, (UsagePart(output_tokens=10**12),)], ids=["many", "large"])
def test_parts_that_no_call_can_have_make_a_usage_none(parts: tuple[UsagePart, ...]) -> None:
    stated = Usage(input_tokens=10, output_tokens=1, source=UsageSource.VENDOR, parts=parts)

    assert usage_of(attempt("1,233 km", finish=Finish("stop", stated)), REQUEST, None) == estimated(SENT, 2)


def test_a_record_holds_no_name_of_a_model_without_an_end() -> None:
    made = attempt("Hi", finish=Finish("stop", WHOLE, response_model="m" * 10**6))

    assert book(made).response_model == "m" * 256


def test_what_was_read_at_once_counts_as_many_deltas_as_it_was() -> None:
    made = attempt()
    made.gathering.add(Chunk(text="a b c d e", pieces=5))
    made.gathering.add(Chunk(text=" f"))

    assert usage_of(made, REQUEST, CUT) == estimated(SENT, 6)


def test_the_price_that_was_used_is_kept_with_the_record() -> None:
    record = book(attempt("Hi", finish=Finish("stop", WHOLE)))

    # gpt-4o-mini: 400 x 0.15 + 600 x 0.075 + 50 x 0.60
    assert record.cost == Decimal("0.000135")
    assert record.price_source is PriceSource.CATALOGUE
    assert record.price is not None
    assert (record.price.input_mtok, record.price.cache_read_mtok) == (Decimal("0.15"), Decimal("0.075"))


def test_the_tier_that_was_served_decides_the_price_also_of_what_was_cut() -> None:
    flex = TieredPrice(input_mtok=Decimal(1), output_mtok=Decimal(1))
    own = Price(input_mtok=Decimal(2), output_mtok=Decimal(2), service_tiers={"flex": flex})
    stated = Stated(Usage(input_tokens=1_000_000), service_tier="flex", response_model="m-1")

    whole = book(attempt(finish=Finish("stop", stated.usage, service_tier="flex")), own=own)
    cut = book(attempt(stated=stated), error=CUT, own=own)
    standard = book(attempt(finish=Finish("stop", stated.usage)), own=own)

    assert (whole.service_tier, whole.cost) == ("flex", Decimal(1))
    assert (cut.service_tier, cut.cost, cut.response_model) == ("flex", Decimal(1), "m-1")
    assert (standard.service_tier, standard.cost) == (None, Decimal(2))


def test_what_is_refused_costs_nothing_and_is_not_unpriced() -> None:
    assert book(attempt(), error=RateLimited("429", status=429)).cost == 0


def test_each_attempt_has_the_price_of_its_own_model_and_the_bill_their_sum() -> None:
    usage = Usage(input_tokens=1_000_000, source=UsageSource.VENDOR)
    first = book(attempt(finish=Finish("stop", usage), model="gpt-4o-mini"))
    second = book(attempt(finish=Finish("stop", usage), model="gpt-4o", number=2))
    bill = Bill()
    bill.add(first)
    bill.add(second)

    assert (first.cost, second.cost) == (Decimal("0.15"), Decimal("2.5"))
    assert bill.cost() is not None
    assert bill.amount == Decimal("2.65")


def test_a_sum_with_an_unpriced_attempt_has_no_amount() -> None:
    bill = Bill()
    bill.add(book(attempt("Hi", finish=Finish("stop", WHOLE))))
    bill.add(book(attempt("Hi", finish=Finish("stop", WHOLE), model="of-nobody", number=2)))

    assert bill.cost() is None
    assert bill.usage.input_tokens == 2000


def test_a_dead_workers_attempt_is_booked_from_its_events() -> None:
    started = Started(
        request_id="r", attempt=2, seq=0, provider="openai", endpoint="default", model="gpt-4o-mini", worker="w", at=AT
    )
    delta = Delta(request_id="r", attempt=2, seq=1, text="x" * 400)
    of_another = Delta(request_id="r", attempt=1, seq=5, text="y" * 4000)
    completed = Completed(
        request_id="r",
        attempt=2,
        seq=2,
        message=AssistantMessage(content="x"),
        finish_reason="stop",
        usage=WHOLE,
        provider="openai",
        model="gpt-4o-mini",
        service_tier="flex",
        timings=Timings(queued_s=0, duration_s=1),
    )

    abandoned = usage_records.call_from_events(
        started, [of_another, started, delta], record_id="c1", provider_id="p", queued_at=AT, ended_at=AT
    )
    done = usage_records.call_from_events(
        started, [started, delta, completed], record_id="c1", provider_id="p", queued_at=AT, ended_at=AT
    )

    short = [Delta(request_id="r", attempt=2, seq=seq, text="a ") for seq in range(1, 68)]
    of_short = usage_records.call_from_events(
        started, [started, *short], record_id="c1", provider_id="p", queued_at=AT, ended_at=AT
    )

    assert usage_of(abandoned, REQUEST, None) == estimated(SENT, 100)
    assert usage_of(of_short, REQUEST, None) == estimated(SENT, 67)
    assert (usage_of(done, REQUEST, None), book(done).service_tier) == (WHOLE, "flex")
