"""Estimates of tokens, for bills that no vendor stated."""

from contracts.requests import CompletionRequest
from contracts.rpc import CountTokens
from contracts.usage import Usage, UsageSource
from workers.providers.shared import token_estimates


def request(*messages: dict[str, object], **fields: object) -> CompletionRequest:
    return CompletionRequest.model_validate(
        {"id": "r", "tenant": "t", "agent": "a", "model": "mock/echo", "messages": messages, **fields}
    )


def test_four_bytes_are_a_token() -> None:
    assert [token_estimates.estimate_output(text) for text in ("", "a", "abcd", "abcde", "你好")] == [0, 1, 1, 2, 2]


def test_half_a_surrogate_pair_is_counted_too() -> None:
    assert token_estimates.estimate_output("\ud83d") == 1


def test_every_message_costs_its_frame() -> None:
    assert (
        token_estimates.estimate_input(request({"role": "user", "content": "abcd"}))
        == 1 + token_estimates.TOKENS_PER_MESSAGE
    )


def test_an_image_costs_the_same_however_large_its_url_is() -> None:
    def with_image(url: str) -> CompletionRequest:
        return request({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})

    small, large = with_image("https://example.org/a.png"), with_image("data:image/png;base64," + "A" * 100_000)
    assert (
        token_estimates.estimate_input(small)
        == token_estimates.estimate_input(large)
        > token_estimates.TOKENS_PER_IMAGE
    )


def test_tools_and_calls_count() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"city": "Rome"}'}}
    plain = request({"role": "user", "content": "x"}, {"role": "assistant", "content": None})
    full = request({"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call]}, tools=[tool])
    assert token_estimates.estimate_input(full) > token_estimates.estimate_input(plain)


def test_a_question_for_tokens_is_counted_like_a_request() -> None:
    asked = CountTokens.model_validate({"model": "mock/echo", "messages": [{"role": "user", "content": "abcd"}]})
    assert token_estimates.estimate_input(asked) == token_estimates.estimate_input(
        request({"role": "user", "content": "abcd"})
    )


def test_an_estimate_says_that_it_is_one() -> None:
    usage = token_estimates.estimate(request({"role": "user", "content": "abcd"}), "abcdefgh")
    assert usage == Usage(input_tokens=5, output_tokens=2, source=UsageSource.ESTIMATED)
