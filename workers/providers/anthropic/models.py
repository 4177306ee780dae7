"""What Anthropic's models can do, by their names.

Sources: Anthropic's "Models overview" (max output), "Extended thinking" and "Adaptive thinking".
"""

import re
from dataclasses import dataclass
from typing import Literal

from workers.providers.shared.models import Models

_CLAUDE = re.compile(
    r"claude-(?:(?P<family>[a-z]+)-)?(?P<major>\d+)(?:[-.](?P<minor>\d{1,2})(?!\d))?(?:-(?P<family_behind>[a-z]+))?"
)
"""`claude-sonnet-4-5-20250929`, `claude-3-7-sonnet-latest`, `anthropic.claude-opus-4-1-20250805-v1:0`."""

_MAX_OUTPUT_OF_OTHERS = 8_192
"""Output tokens that nearly all models of other makers behind the same API take as their limit."""


@dataclass(frozen=True, slots=True)
class Abilities:
    max_output_tokens: int
    """The most that `max_tokens` may be; for a model that is not known, what is surely allowed."""
    thinking: Literal["adaptive", "budget"] | None
    """How it is told to think: it decides itself, guided by an effort, or it gets a number of tokens."""


def abilities(model: str) -> Abilities:
    """What a model can do, by its name; of a name that is not known, what is safe to assume."""
    found = _CLAUDE.search(model)
    if found is None:
        return Abilities(64_000, "adaptive") if "claude" in model else Abilities(_MAX_OUTPUT_OF_OTHERS, "budget")
    version = int(found["major"]), int(found["minor"] or 0)
    family = found["family"] or found["family_behind"]
    if version < (3, 7):
        return Abilities(4_096 if version < (3, 5) else 8_192, None)
    if version < (4, 6):
        return Abilities(32_000 if family == "opus" and version < (4, 5) else 64_000, "budget")
    return Abilities(128_000 if family in ("opus", "sonnet") else 64_000, "adaptive")


MODELS = Models(
    max_output_tokens=lambda model: abilities(model).max_output_tokens,
    max_image_tokens=5_000,  # at most 4,784 ("Vision")
    name_prefixes=("claude-",),
    streams_all_output=lambda model: _CLAUDE.search(model) is not None,  # thoughts are summed up, when asked for
)
