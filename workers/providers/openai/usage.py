"""The usage of a reply in OpenAI's format: several statements of a bill become one.

Servers state it in every chunk as a running total, early as a placeholder of zeros, or late with zeros after the real
one. A count stands until another one that is more than nothing replaces it.
"""

import msgspec

from contracts.usage import Usage, UsageSource
from workers.providers.shared.replies.token_counts import plausible


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_creation_tokens: int | None = None
    """LiteLLM's name for tokens written to a cache."""
    cache_creation_input_tokens: int | None = None
    """DashScope's name for them."""


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class StatedUsage(msgspec.Struct, gc=False):
    """One statement, as a server writes it."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    cached_tokens: int | None = None
    """Moonshot's cached tokens."""
    prompt_cache_hit_tokens: int | None = None
    """DeepSeek's cached tokens, and with the next the whole of its prompt."""
    prompt_cache_miss_tokens: int | None = None
    reasoning_tokens: int | None = None
    """Perplexity's place for tokens of reasoning."""
    cache_read_input_tokens: int | None = None
    """Anthropic's two counts of its cache. LiteLLM has them beside `prompt_tokens`, which include them."""
    cache_creation_input_tokens: int | None = None
    input_tokens: int | None = None
    """The names of OpenAI's Responses API, which gateways leave in place."""
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class Bill:
    """What a reply has stated so far."""

    def __init__(self) -> None:
        self._input = 0
        self._output = 0
        self._total = 0
        self._cache_read = 0
        self._cache_write = 0
        self._reasoning = 0

    @property
    def is_stated(self) -> bool:
        return bool(self._input or self._output)

    def add(self, stated: StatedUsage) -> bool:
        """Takes a statement into the bill. Returns whether it says anything."""
        hit, miss = _count(stated.prompt_cache_hit_tokens), _count(stated.prompt_cache_miss_tokens)
        given = _count(stated.prompt_tokens, stated.input_tokens)
        if miss or not given:
            given = max(given, hit + miss)
        output = _count(stated.completion_tokens, stated.output_tokens)
        if not (given or output):
            return False
        read_from = stated.prompt_tokens_details or stated.input_tokens_details or _InputDetails()
        made_of = stated.completion_tokens_details or stated.output_tokens_details or _OutputDetails()
        read = _count(read_from.cached_tokens, stated.cached_tokens, stated.cache_read_input_tokens)
        written = _count(
            read_from.cache_write_tokens,
            read_from.cache_creation_tokens,
            read_from.cache_creation_input_tokens,
            stated.cache_creation_input_tokens,
        )
        # Anthropic's input leaves out what was in its cache. Gateways pass it on under its own name, or as the prompt.
        cached = _count(stated.cache_read_input_tokens) + _count(stated.cache_creation_input_tokens)
        if given and cached and (cached > given or not _count(stated.prompt_tokens)):
            given += read + written
        self._input = given or self._input
        self._output = output or self._output
        self._total = _count(stated.total_tokens) if output else max(self._total, _count(stated.total_tokens))
        self._cache_read = read or hit or self._cache_read
        self._cache_write = written or self._cache_write
        self._reasoning = _count(made_of.reasoning_tokens, stated.reasoning_tokens) or self._reasoning
        return True

    def normalised(self) -> Usage | None:
        """Input and output as totals; None when neither was stated.

        A `total_tokens` that is more than its parts is what is billed. What it has on top are cached tokens where a
        server leaves them out of the prompt, and otherwise thinking: xAI's is left out of `completion_tokens`, Gemini's
        at its OpenAI address stands in the total only. Without a total, thinking that is more than the output cannot be
        a part of it.
        """
        given, output = self._input, self._output
        if not (given or output):
            return None
        if self._total > given + output:
            if given:
                given += self._cached_outside(self._total - given - output)
                output = self._total - given
            else:
                given = self._total - output
        elif not self._total and self._reasoning > output:
            output += self._reasoning
        read = min(self._cache_read, given)
        return Usage(
            input_tokens=given,
            output_tokens=output,
            cache_read_tokens=read,
            cache_write_tokens=min(self._cache_write, given - read),
            reasoning_tokens=min(self._reasoning, output),
            source=UsageSource.VENDOR,
        )

    def _cached_outside(self, further: int) -> int:
        """The cached tokens among the `further` ones of a total: all of them, or none."""
        cached = self._cache_read + self._cache_write
        is_outside = cached > self._input or (
            further in (cached, cached + self._reasoning) and further != self._reasoning
        )
        return cached if is_outside and cached <= further else 0


def _count(*stated: int | None) -> int:
    """The first plausible count that is more than nothing; 0 when there is none."""
    return next((count for one in stated if (count := plausible(one))), 0)
