"""What is known of models on servers of one's own, whose names anybody can choose."""

from workers.providers.shared.models import Models

# A local model ends when its context is full, whose size the server decides; prices of it are the tenant's own.
MODELS = Models(max_output_tokens=lambda model: 4_096, streams_all_output=lambda model: True)
