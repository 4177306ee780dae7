"""The caller's further options for a vendor's request body: `provider_options.<provider>`."""

from collections.abc import Mapping
from typing import Any

OUTPUT_LIMITS = frozenset({"max_tokens", "max_completion_tokens", "maxOutputTokens", "num_predict"})
"""The names that output limits have at the vendors."""


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def overlaid(body: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """The body with further options, which win. `null` leaves a field out.

    It leaves an output limit as it is: a tenant's budget may rest on it.
    """
    left_out = {name for name, value in further.items() if value is None and name not in OUTPUT_LIMITS}
    return {name: value for name, value in {**body, **present(further)}.items() if name not in left_out}


def merged(body: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """As `overlaid`, but an object is merged into that of the body, so that one setting leaves the others."""
    within = {
        name: merged(body[name], value)
        for name, value in further.items()
        if isinstance(value, dict) and isinstance(body.get(name), dict)
    }
    return overlaid(body, {**further, **within})
