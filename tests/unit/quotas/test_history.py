"""What a budget keeps free for an answer, from how long the last ones were."""

from workers.quotas.history import ENOUGH, History


def test_a_few_answers_say_nothing() -> None:
    history = History()
    for _ in range(ENOUGH - 1):
        history.note("acme", "mock/echo", tokens=100, estimated=100)

    assert history.likely_tokens("acme", "mock/echo") is None


def test_most_answers_are_shorter_than_what_is_likely() -> None:
    history = History()
    for tokens in range(1, 33):
        history.note("acme", "mock/echo", tokens=tokens, estimated=tokens)

    likely = history.likely_tokens("acme", "mock/echo")

    assert likely is not None
    assert 28 < likely < 40
    assert history.likely_tokens("acme", "mock/other") is None
    assert history.likely_tokens("other", "mock/echo") is None


def test_the_newest_answers_count() -> None:
    history = History()
    for tokens in [1000] * 40 + [10] * 40:
        history.note("acme", "mock/echo", tokens=tokens, estimated=tokens)

    assert history.likely_tokens("acme", "mock/echo") == 13


def test_dense_answers_are_counted_as_the_vendor_bills_them() -> None:
    history = History()
    assert history.tokens_per_estimated("acme", "mock/echo") == 1

    history.note("acme", "mock/echo", tokens=250, estimated=100)
    history.note("acme", "mock/echo", tokens=50, estimated=100)
    assert history.tokens_per_estimated("acme", "mock/echo") == 2.5

    history.note("acme", "mock/echo", tokens=99_999, estimated=1)
    assert history.tokens_per_estimated("acme", "mock/echo") == 4, "no token is less than a byte"


def test_a_tenant_that_names_many_models_pushes_out_its_own_only() -> None:
    history = History()
    for _ in range(ENOUGH):
        history.note("quiet", "mock/echo", tokens=1, estimated=1)
    for number in range(10_000):
        history.note("loud", f"mock/{number}", tokens=1, estimated=1)

    assert history.likely_tokens("quiet", "mock/echo") is not None
