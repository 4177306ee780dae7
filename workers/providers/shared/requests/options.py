"""The caller's further options for a vendor's request body: `provider_options.<provider>`."""

from collections.abc import Mapping
from typing import Any

OUTPUT_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "maxOutputTokens", "num_predict"})
"""By their names at the vendors."""


def overlaid(body: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """The body with further options, which win. `null` leaves a field out.

    It leaves an output limit as it is: a tenant's budget may rest on it.
    """
    left_out = {name for name, value in further.items() if value is None and name not in OUTPUT_LIMITS}
    given = {name: value for name, value in further.items() if value is not None}
    return {name: value for name, value in {**body, **given}.items() if name not in left_out}


def merged(body: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """As `overlaid`; objects are merged, so that one setting leaves the others."""
    within = {
        name: merged(body[name], value)
        for name, value in further.items()
        if isinstance(value, dict) and isinstance(body.get(name), dict)
    }
    return overlaid(body, {**further, **within})
