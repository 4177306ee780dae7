"""What is known of OpenAI's models by their names. Source: OpenAI's model pages ("Max output tokens")."""

import re

from workers.providers.shared.models import Models

_MAX_OUTPUT_TOKENS = (
    (re.compile(r"gpt-4o|gpt-4-1106|chatgpt-4o"), 16_384),
    (re.compile(r"gpt-4\.1"), 32_768),
    (re.compile(r"gpt-4-turbo|gpt-3\.5"), 4_096),
    (re.compile(r"gpt-4(?:$|-)"), 8_192),
    (re.compile(r"o\d"), 100_000),
)
_SINCE_GPT_5 = 128_000


def max_output_tokens(model: str) -> int:
    """The most tokens that a reply of the model can have; a name that is not listed counts as a model since GPT-5."""
    name = model.rpartition("/")[2]
    return next((most for pattern, most in _MAX_OUTPUT_TOKENS if pattern.match(name)), _SINCE_GPT_5)


_SAYS_WHAT_IT_THINKS = re.compile(r"gpt-3\.5|gpt-4|chatgpt-4o")
"""Later models think, and keep their thoughts back."""


def streams_all_output(model: str) -> bool:
    """Whether every output token arrives as text; not of a name that is not listed."""
    return _SAYS_WHAT_IT_THINKS.match(model.rpartition("/")[2]) is not None


MODELS = Models(
    max_output_tokens,
    name_prefixes=("gpt-", "chatgpt-", "o1", "o3", "o4"),
    streams_all_output=streams_all_output,
)
