"""What is known of a vendor's models by their names, without asking the vendor or loading its SDK."""

from collections.abc import Callable
from dataclasses import dataclass

MOST_IMAGE_TOKENS = 50_000
"""gpt-4o-mini counts 48,169 for the largest image in high detail ("Images and vision": 2,833, and 5,667 for each tile),
which is more than any other model is known to count."""


def _none_is_known_to(_: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Models:
    """The models of one vendor; each vendor has one of these in its folder, as `models.MODELS`."""

    max_output_tokens: Callable[[str], int]
    """How much a model says at most when the request does not bound it; for a name that is not known, that of the
    vendor's present models."""
    max_image_tokens: int = MOST_IMAGE_TOKENS
    """More than the vendor counts for any one image."""
    name_prefixes: tuple[str, ...] = ()
    """How names begin that tell their vendor even when no price catalogue lists them any more."""
    streams_all_output: Callable[[str], bool] = _none_is_known_to
    """Whether every output token of a model arrives as it is made, when it is not told to think: none is billed for
    thoughts that are kept back or summed up."""
    has_no_vendor: bool = False
    """Nothing is billed for whatever further options say."""
