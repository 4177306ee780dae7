"""What Gemini models can do, by their names. Source: Google's Gemini model pages and its guides on thinking."""

import re

from workers.providers.shared.models import Models

Generation = tuple[int, int]

_GENERATION = re.compile(r"^(?:models/)?gemini-(\d+)(?:\.(\d+))?(?![\w.])")
_NEWEST: Generation = (99, 0)
_THINKS_SINCE: Generation = (2, 5)
_SIGNS_CALLS_SINCE: Generation = (3, 0)

MODELS = Models(
    max_output_tokens=lambda model: 65_536,
    max_image_tokens=10_000,  # 258 for each tile, or at most 2,240
    name_prefixes=("gemini-",),
    streams_all_output=lambda model: generation(model) is not None and not thinks(model),
)


def generation(model: str) -> Generation | None:
    """The version of a Gemini model; an alias without one (`gemini-flash-latest`) has the newest. None for a model that
    is no Gemini."""
    if found := _GENERATION.match(model):
        return int(found[1]), int(found[2] or 0)
    return _NEWEST if model.removeprefix("models/").startswith("gemini-") else None


def signs_calls(model: str) -> bool:
    """Whether the model refuses a call of its own that comes back without its signature."""
    of = generation(model)
    return of is not None and of >= _SIGNS_CALLS_SINCE


def thinks(model: str) -> bool:
    """Whether the model takes a `thinkingConfig`; one that is no Gemini counts as one that does not."""
    of = generation(model)
    return of is not None and of >= _THINKS_SINCE
