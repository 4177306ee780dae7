"""The table of error codes: one rule for each, and rules that agree with each other and with the contract's page."""

import pytest

from contracts.error_rules import RULES, Remedy, Scope
from contracts.errors import BY_CODE, ErrorCode, LimitError, VendorError
from tests.documents import CONTRACT, quoted, rows, section

ROWS = {
    code: row
    for row in rows(section(CONTRACT, "Errors"), "| code | retryable | when | the fleet |")
    for code in quoted(row[0])
}
WORDS = {
    Remedy.RETRY: (True, True, True),
    Remedy.OTHER_ENDPOINT: (False, True, True),
    Remedy.FALLBACK: (False, False, True),
    Remedy.FAIL: (False, False, False),
}
"""Whether the page speaks of tries, of the next endpoint and of the next fallback."""


def test_each_code_has_a_rule() -> None:
    assert set(RULES) == set(ErrorCode)


@pytest.mark.parametrize("code", ErrorCode)
def test_the_contract_page_names_the_remedy(code: ErrorCode) -> None:
    said = ROWS[code][3]
    assert ("tries" in said, "next endpoint" in said, "next fallback" in said) == WORDS[RULES[code].remedy]


def test_every_error_of_a_vendor_can_come_from_one() -> None:
    assert [
        code for code, kind in BY_CODE.items() if issubclass(kind, VendorError) and not RULES[code].can_come_from_vendor
    ] == []


def test_a_vendor_never_reports_a_limit_of_ours() -> None:
    assert [
        code for code, kind in BY_CODE.items() if issubclass(kind, LimitError) and RULES[code].can_come_from_vendor
    ] == []


def test_only_errors_of_a_vendor_count_against_it() -> None:
    def against(scope: Scope | None) -> set[str]:
        return {code for code, rule in RULES.items() if rule.counts_against is scope}

    assert against(Scope.ENDPOINT) == {"authentication_failed", "quota_exhausted"}
    assert against(Scope.MODEL) == {
        "rate_limited",
        "overloaded",
        "provider_unavailable",
        "provider_timeout",
        "stream_interrupted",
        "model_not_found",
    }


def test_a_broken_stream_is_one_that_another_try_may_mend() -> None:
    broken = {code for code, rule in RULES.items() if rule.breaks_stream}
    assert broken == {code for code, rule in RULES.items() if rule.remedy is Remedy.RETRY} - {ErrorCode.KEY_UNAVAILABLE}


def test_work_may_be_billed_after_silence_only() -> None:
    assert {code for code, rule in RULES.items() if rule.may_have_worked} == {
        "provider_timeout",
        "stream_interrupted",
        "deadline_exceeded",
    }


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.__name__)
def test_each_class_says_when_it_is_raised(kind: type) -> None:
    assert (vars(kind)["__doc__"] or "").rstrip().endswith("."), "a sentence of its own"
