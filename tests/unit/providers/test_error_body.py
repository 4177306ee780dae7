"""What an error body says, in the forms in which vendors and gateways write one."""

from typing import Any

import pytest

from workers.providers.shared.errors.answer import text_of
from workers.providers.shared.errors.body import NOTHING, is_error, reported


@pytest.mark.parametrize(
    ("body", "message", "headline", "status"),
    [
        ({"error": {"message": "why", "type": "t", "code": 503}}, "why", "t", 503),
        ({"error": {"message": "why", "type": "t", "code": "c"}}, "why", "c", None),
        ({"code": "c", "error": "why"}, "why", "c", None),
        (
            {"error": "Unauthorized", "message": "no such key", "statusCode": 401},
            "Unauthorized: no such key",
            None,
            401,
        ),
        ({"errors": [{"message": "why", "code": 5021}]}, "why", "5021", None),
        ({"base_resp": {"status_code": 1008, "status_msg": "why"}}, "why", "base_resp 1008", None),
        ({"error_code": 336103, "error_msg": "why"}, "why", "336103", None),
        ({"__type": "ThrottlingException", "Message": "why"}, "why", "ThrottlingException", None),
        ({"detail": {"message": "why", "code": "c"}}, "why", "c", None),
        ({"error": {"message": {"detail": [{"input": "the prompt"}]}}}, "the request did not validate", None, None),
        ({"error": {"message": '{"error": {"message": "why", "code": "c"}}'}}, "why", "c", None),
        ({"error": {"message": "It failed", "metadata": {"raw": "why"}}}, "It failed: why", None, None),
        (
            {"error": {"message": "It failed", "value": {"error_message": '{"error": {"message": "why"}}'}}},
            "It failed: why",
            None,
            None,
        ),
        ({"error": {"message": "It failed", "upstream_error": '{"message": "why"}'}}, "It failed: why", None, None),
        ({"error": {"message": "It failed", "value": "x", "cause": {}}}, "It failed", None, None),
        ('{"message": "why"}', "why", None, None),
        ("<400> why", "<400> why", None, None),
        ("<html>why</html>", NOTHING, None, None),
        ({"error": {"message": "<!DOCTYPE html>"}}, NOTHING, None, None),
        ({"error": {"message": '{"odd": 1}'}}, '{"odd": 1}', None, None),
        ({"error": {"code": 10**30, "message": ["why"]}}, NOTHING, str(10**30), None),
    ],
)
def test_the_words_are_found_in_any_form(body: Any, message: str, headline: str | None, status: int | None) -> None:
    said = reported(body)
    assert (said.message, said.headline, said.status) == (message, headline, status)


@pytest.mark.parametrize(
    ("fields", "wait_s"),
    [
        ({"retry_after": 12}, 12.0),
        ({"metadata": {"retry_after_seconds": 1.5, "raw": "slow"}}, 1.5),
        ({"retryAfter": "soon"}, None),
        ({"retry_after": True}, None),
        ({"retry_after": -1}, None),
        ({"retry_after": 1_796_000_000}, None),
        ({}, None),
    ],
)
def test_a_body_may_tell_when_to_come_back(fields: dict[str, Any], wait_s: float | None) -> None:
    assert reported({"error": {"message": "slow", **fields}}).retry_after_s == wait_s


def test_wrappings_are_followed_to_a_depth() -> None:
    body: Any = "deep"
    for _ in range(500):
        body = {"error": body}
    assert reported(body).message == NOTHING


LONG = "word " * 1_000_000


@pytest.mark.parametrize("body", [LONG, {"message": LONG}, {"error": {"message": LONG}}, {"detail": {"msg": LONG}}])
def test_what_is_kept_of_a_long_body_is_bounded(body: Any) -> None:
    said = reported(body)
    assert 0 < len(said.message) <= 10_000
    assert 0 < len(said.wording) <= 10_000


def test_names_are_bounded_in_number_and_length() -> None:
    details = [{"error_code": f"{number} {'x' * 10_000}"} for number in range(10_000)]
    names = reported({"error": {"code": "y" * 10_000, "details": details}}).names
    assert len(names) < 30
    assert max(map(len, names)) <= 100


def test_a_status_that_is_no_number_is_none_however_deep_it_is() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert reported({"error": {"message": "why", "status": deep, "code": deep}}).status is None
    assert not is_error(deep)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {}}, False),
        ({"error": "why"}, True),
        ([{"error": {"code": 400}}], True),
        ({"type": "error"}, True),
        ({"errors": ["why"], "success": False}, True),
        ({"errors": [], "success": True}, False),
        ({"base_resp": {"status_code": 0, "status_msg": "success"}}, False),
        ({"base_resp": {"status_code": 1008, "status_msg": "no"}}, True),
        ({"code": "InvalidParameter", "message": "no"}, True),
        ({"code": 70000, "msg": "no"}, True),
        ({"code": 0, "message": "Success"}, False),
        ({"error_code": 17, "error_msg": "no"}, True),
        ({"status": "439", "msg": "no"}, True),
        ({"status": 500, "message": "no"}, True),
        ({"status": "error", "message": "no"}, True),
        ({"status": "processing", "message": "wait"}, False),
        ({"status": 200, "message": "ok"}, False),
        ({"message": {"role": "assistant"}}, False),
        ({"choices": []}, False),
        ("text", False),
        ([], False),
    ],
)
def test_an_error_is_told_from_everything_else(body: Any, expected: bool) -> None:
    assert is_error(body) is expected


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("text/plain; charset=ISO-8859-1", "\u00e9"),
        ('text/plain; charset="latin1"', "\u00e9"),
        ("text/plain; charset=punycode", "\ufffd"),
        ("text/plain; charset*=a; charset*0=b", "\ufffd"),
        ("text/plain; charset*" + "0" * 5000, "\ufffd"),
        ('text/plain; a="' + ";" * 120_000, "\ufffd"),
    ],
    ids=["latin-1", "quoted", "a codec that takes minutes", "continued", "a long name", "a long parameter"],
)
def test_a_body_is_read_as_its_content_type_says_whatever_that_holds(content_type: str, text: str) -> None:
    assert text_of(b"\xe9", {"content-type": content_type}) == text
