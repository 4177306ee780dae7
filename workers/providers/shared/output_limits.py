"""How much a model says at most, for requests that do not bound it.

Sources: OpenAI's model pages ("Max output tokens"), Anthropic's "Models overview", Google's Gemini model pages.
"""

import re
from typing import assert_never

from contracts.subjects import Provider
from workers.providers.anthropic.models import abilities

_OPENAI = (
    (re.compile(r"gpt-4o|gpt-4-1106|chatgpt-4o"), 16_384),
    (re.compile(r"gpt-4\.1"), 32_768),
    (re.compile(r"gpt-4-turbo|gpt-3\.5"), 4_096),
    (re.compile(r"gpt-4(?:$|-)"), 8_192),
    (re.compile(r"o\d"), 100_000),
)
_OPENAI_NOW = 128_000
"""Since GPT-5."""
_GEMINI = 65_536
_OLLAMA = 4_096
"""A local model ends when its context is full, whose size the server decides; prices of it are the tenant's own."""
_MOCK = 1_000


def max_output_tokens(provider: str, model: str) -> int:
    """The model's maximum where it is known, else that of the provider's present models."""
    match Provider(provider):
        case Provider.OPENAI | Provider.AZURE:
            name = model.rpartition("/")[2]
            return next((most for pattern, most in _OPENAI if pattern.match(name)), _OPENAI_NOW)
        case Provider.ANTHROPIC:
            return abilities(model).max_output_tokens
        case Provider.GOOGLE:
            return _GEMINI
        case Provider.OLLAMA:
            return _OLLAMA
        case Provider.MOCK:
            return _MOCK
        case _:
            assert_never(provider)
