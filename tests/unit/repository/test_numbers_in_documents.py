"""Numbers in the documents are those of the code: each sentence stands there, made from its constant."""

from decimal import Decimal
from pathlib import Path

import pytest

from admin_api.http.middleware import MAX_BODY_BYTES
from admin_api.notices.outbox import KEPT
from admin_api.notices.webhook import TIMEOUT_S as WEBHOOK_TIMEOUT_S
from admin_api.publishing.config_publisher import RECONCILE_EVERY_S
from contracts import streams
from tests.documents import ARCHITECTURE, BILLING, CONTRACT, GUARANTEES, OPERATIONS, PROVIDERS, README
from workers.endpoints import circuit, keys
from workers.providers.registry import models_of
from workers.quotas.cost_bounds import LEAST_OUTPUT_TOKENS
from workers.request import policy, recovery
from workers.usage.alerts import conditions
from workers.usage.partitions import DAYS_AHEAD
from workers.usage.retention import KEPT_AGENTS

WORDS = {3: "three", 5: "five", 10: "ten"}
STREAMS = {config["name"]: config for config in streams.definitions(streams.Sizes())}
REPLIES_KEPT_MIN = STREAMS[streams.REPLIES]["max_age"] // (60 * 1_000_000_000)
CANCELS_KEPT_H = STREAMS[streams.CANCELS]["max_age"] // (3600 * 1_000_000_000)


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (README, f"Events can be resumed for {REPLIES_KEPT_MIN} minutes"),
        (ARCHITECTURE, f"`ack_wait` ({streams.ACK_WAIT_S} s)"),
        (ARCHITECTURE, f"the events of the last {REPLIES_KEPT_MIN} minutes"),
        (ARCHITECTURE, f"heartbeats every {streams.HEARTBEAT_S} s"),
        (ARCHITECTURE, f"every {RECONCILE_EVERY_S:.0f} s, so that a crash"),
        (ARCHITECTURE, f"for {keys.FRESH_S / 60:.0f} minutes, for an hour while Vault is down"),
        (GUARANTEES, f"within `ack_wait` ({streams.ACK_WAIT_S} s) + 2 s"),
        (GUARANTEES, f"at most {policy.MAX_ATTEMPTS} vendor calls, at most {policy.MAX_TRIES_PER_ENDPOINT} at one"),
        (GUARANTEES, f"waits for one of them, {policy.LONGEST_WAIT_FOR_CIRCUIT_S:.0f} s at most"),
        (GUARANTEES, f"A request that kills {WORDS[recovery.MAX_DEAD_ATTEMPTS]} workers"),
        (GUARANTEES, f"at most {WORDS[circuit.MAX_FAILURES]} calls for each worker"),
        (GUARANTEES, f"reaches back {WORDS[streams.REQUEST_IDS_KNOWN_S // 60]} minutes"),
        (
            OPERATIONS,
            f"for {circuit.OPEN_FIRST_S:.0f} s and twice as long each time, {circuit.OPEN_MAX_S:.0f} s at most",
        ),
        (OPERATIONS, f"waits for it, {policy.LONGEST_WAIT_FOR_CIRCUIT_S:.0f} s at most"),
        (OPERATIONS, f"come again {streams.ACK_WAIT_S} s after its last heartbeat"),
        (OPERATIONS, f"at least for {LEAST_OUTPUT_TOKENS} tokens"),
        (OPERATIONS, f"forgotten after {KEPT.days} days"),
        (OPERATIONS, f"{conditions.LEAST_ATTEMPTS} or more, at least `LLM_ALERT_ERROR_RATE` failed"),
        (OPERATIONS, f"{conditions.WARNING_SHARE * Decimal(100):.0f} % and 100 % of `daily_budget_usd`"),
        (CONTRACT, f"Any 2xx within {WEBHOOK_TIMEOUT_S:.0f} seconds"),
        (CONTRACT, f"Bodies have at most {MAX_BODY_BYTES // 1024**2} MiB"),
        (BILLING, f"keeps the {KEPT_AGENTS:,} most expensive agents"),
        (BILLING, f"Partitions are made {WORDS[DAYS_AHEAD]} days ahead"),
    ],
)
def test_a_number_is_that_of_the_code(page: Path, sentence: str) -> None:
    assert sentence in page.read_text(), f"{page.name} does not say so"


def test_what_lasts_an_hour_lasts_an_hour() -> None:
    """Which the pages write as a word."""
    assert keys.USABLE_S == 3600
    assert CANCELS_KEPT_H == 1


@pytest.mark.parametrize(
    ("sentence", "models"),
    [
        ("128,000 for Opus and Sonnet since 4.6", ("claude-opus-4-6", "claude-sonnet-4-6", "claude-sonnet-5-5")),
        (
            "64,000 for every other Claude since 3.7",
            ("claude-3-7-sonnet-latest", "claude-sonnet-4-5", "claude-opus-4-5", "claude-haiku-5-5"),
        ),
        ("32,000 for Opus before 4.5", ("claude-opus-4-0", "claude-opus-4-1-20250805")),
        ("8,192 for Claude 3.5 and for models of other vendors", ("claude-3-5-haiku-latest", "kimi-k2")),
        ("4,096 for Claude 3)", ("claude-3-opus-latest", "claude-3-haiku-20240307")),
    ],
)
def test_the_longest_answers_of_claude_are_as_the_page_says(sentence: str, models: tuple[str, ...]) -> None:
    assert sentence in PROVIDERS.read_text(), "docs/providers.md does not say so"
    said = int(sentence.split()[0].replace(",", ""))
    assert {model: models_of("anthropic").max_output_tokens(model) for model in models} == dict.fromkeys(models, said)
