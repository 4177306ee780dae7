"""One bill out of what servers of OpenAI's format state."""

from typing import Any

import msgspec
import pytest

from contracts.usage import Usage, UsageSource
from workers.providers.openai.usage import Bill, StatedUsage


def bill(*statements: dict[str, Any]) -> Usage | None:
    one = Bill()
    for stated in statements:
        one.add(msgspec.convert(stated, StatedUsage))
    return one.normalised()


def of_vendor(given: int, output: int, **further: int) -> Usage:
    usage = Usage(input_tokens=given, output_tokens=output, source=UsageSource.VENDOR)
    return usage.model_copy(update=further)


def counts(prompt: int | None, completion: int | None, total: int | None = None, **further: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **further}


def details(*, cached: int | None = None, written: int | None = None, reasoning: int | None = None) -> dict[str, Any]:
    return {
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


@pytest.mark.parametrize(
    ("stated", "usage"),
    [
        (counts(10, 20, 30), of_vendor(10, 20)),
        (counts(10, 20, None), of_vendor(10, 20)),
        ({"input_tokens": 10, "output_tokens": 20}, of_vendor(10, 20)),
        ({"input_tokens": 10, "output_tokens": 20, **counts(0, 0)}, of_vendor(10, 20)),
        (
            counts(10, 20, 30, **details(cached=4, written=2, reasoning=15)),
            of_vendor(10, 20, cache_read_tokens=4, cache_write_tokens=2, reasoning_tokens=15),
        ),
        (
            {"input_tokens": 10, "output_tokens": 20, "input_tokens_details": {"cached_tokens": 4}},
            of_vendor(10, 20, cache_read_tokens=4),
        ),
        (counts(1000, 5, 1005, cached_tokens=900), of_vendor(1000, 5, cache_read_tokens=900)),
        (
            counts(10, 20, 30, prompt_tokens_details=None, prompt_cache_hit_tokens=8, prompt_cache_miss_tokens=2),
            of_vendor(10, 20, cache_read_tokens=8),
        ),
        (
            counts(2, 20, None, prompt_cache_hit_tokens=8, prompt_cache_miss_tokens=2),
            of_vendor(10, 20, cache_read_tokens=8),
        ),
        (
            counts(None, 20, None, prompt_cache_hit_tokens=8, prompt_cache_miss_tokens=2),
            of_vendor(10, 20, cache_read_tokens=8),
        ),
        (
            counts(10, 20, 30, cache_read_input_tokens=6, cache_creation_input_tokens=2),
            of_vendor(10, 20, cache_read_tokens=6, cache_write_tokens=2),
        ),
        (
            {"input_tokens": 2, "output_tokens": 20, "cache_read_input_tokens": 6, "cache_creation_input_tokens": 2},
            of_vendor(10, 20, cache_read_tokens=6, cache_write_tokens=2),
        ),
        (
            counts(2, 20, 22, cache_read_input_tokens=6, cache_creation_input_tokens=2),
            of_vendor(10, 20, cache_read_tokens=6, cache_write_tokens=2),
        ),
        (
            counts(10, 20, 30, prompt_tokens_details={"cached_tokens": 6, "cache_creation_input_tokens": 2}),
            of_vendor(10, 20, cache_read_tokens=6, cache_write_tokens=2),
        ),
        (
            counts(10, 20, 30, prompt_tokens_details={"cached_tokens": 6, "cache_creation_tokens": 2}),
            of_vendor(10, 20, cache_read_tokens=6, cache_write_tokens=2),
        ),
        (counts(10, 20, 30, reasoning_tokens=15), of_vendor(10, 20, reasoning_tokens=15)),
        (counts(10, 20, None, **details(reasoning=50)), of_vendor(10, 70, reasoning_tokens=50)),
    ],
    ids=[
        "usual",
        "no total",
        "the Responses API's names",
        "both names",
        "details",
        "details by the other names",
        "Moonshot",
        "DeepSeek",
        "hits left out of the prompt",
        "hits and misses alone",
        "LiteLLM",
        "Anthropic's usage as it is",
        "Anthropic's usage under the format's names",
        "DashScope's cache writes",
        "LiteLLM's cache writes",
        "Perplexity",
        "more thinking than output",
    ],
)
def test_input_and_output_are_totals(stated: dict[str, Any], usage: Usage) -> None:
    assert bill(stated) == usage


@pytest.mark.parametrize(
    ("stated", "usage"),
    [
        (counts(30, 12, 100), of_vendor(30, 70)),
        (counts(10, 20, 45, **details(reasoning=15)), of_vendor(10, 35, reasoning_tokens=15)),
        (
            counts(10, 20, 45, **details(cached=5, reasoning=15)),
            of_vendor(10, 35, cache_read_tokens=5, reasoning_tokens=15),
        ),
        (counts(10, 20, 45, **details(cached=15)), of_vendor(25, 20, cache_read_tokens=15)),
        (counts(10, 20, 1000, **details(cached=900)), of_vendor(910, 90, cache_read_tokens=900)),
        (
            counts(50, 20, 100, **details(cached=20, reasoning=10)),
            of_vendor(70, 30, cache_read_tokens=20, reasoning_tokens=10),
        ),
        (counts(10, None, 30), of_vendor(10, 20)),
        (counts(None, 20, 30), of_vendor(10, 20)),
        (counts(10, 20, 25), of_vendor(10, 20)),
        (counts(10, 20, 0), of_vendor(10, 20)),
        (counts(10, 20, -1), of_vendor(10, 20)),
    ],
    ids=[
        "thinking",
        "xAI's thinking",
        "xAI's thinking beside cached tokens",
        "cached tokens",
        "more cached tokens than input, and thinking",
        "cached tokens and thinking",
        "the output",
        "the input",
        "less",
        "zero",
        "no count",
    ],
)
def test_a_total_that_is_more_than_its_parts_is_billed(stated: dict[str, Any], usage: Usage) -> None:
    assert bill(stated) == usage


@pytest.mark.parametrize(
    ("stated", "usage"),
    [
        (counts(10, -1, 9), of_vendor(10, 0)),
        (counts(-1, 5, 4), of_vendor(0, 5)),
        (counts(10, 2**64 - 1), of_vendor(10, 0)),
        (counts(10, 5, 15, **details(cached=-1, written=-3, reasoning=-2)), of_vendor(10, 5)),
        (counts(10, 5, 15, cached_tokens=-1), of_vendor(10, 5)),
        (counts(10, 5, 15, **details(cached=400)), of_vendor(10, 5, cache_read_tokens=10)),
        (
            counts(10, 5, 15, **details(cached=4, written=400)),
            of_vendor(10, 5, cache_read_tokens=4, cache_write_tokens=6),
        ),
        (counts(10, 5, 15, **details(reasoning=400)), of_vendor(10, 5, reasoning_tokens=5)),
    ],
)
def test_what_cannot_be_a_count_is_left_out_alone(stated: dict[str, Any], usage: Usage) -> None:
    assert bill(stated) == usage


@pytest.mark.parametrize(
    "stated",
    [{}, counts(0, 0, 0), counts(None, None, None), counts(None, None, 30), counts(0, 0, 30), counts(-1, -1, -1)],
)
def test_nothing_stated_is_no_bill(stated: dict[str, Any]) -> None:
    assert bill(stated) is None
    assert bill(counts(10, 5, 15, cached_tokens=4), stated) == of_vendor(10, 5, cache_read_tokens=4)
    assert bill(stated, counts(10, 5, 15)) == of_vendor(10, 5)


def test_a_later_count_replaces_an_earlier_one() -> None:
    assert bill(counts(10, 1, 11), counts(10, 30, 40), counts(12, 20, 32)) == of_vendor(12, 20)


def test_a_statement_of_one_part_leaves_the_other() -> None:
    assert bill(counts(10, 0, 10), counts(0, 5, 5)) == of_vendor(10, 5)
    assert bill(counts(10, 5, 30), counts(10, 0, 10)) == of_vendor(10, 20)
