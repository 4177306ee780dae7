"""The mock takes any model's name, and says what its script says."""

from workers.providers.shared.models import Models

MODELS = Models(
    max_output_tokens=lambda model: 1_000,
    streams_all_output=lambda model: True,
    has_no_vendor=True,
)
