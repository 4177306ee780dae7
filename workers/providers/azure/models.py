"""Azure serves OpenAI's models. Their names tell OpenAI, so that none of them leads to Azure."""

from workers.providers.openai.models import max_output_tokens, streams_all_output
from workers.providers.shared.models import Models

MODELS = Models(max_output_tokens, streams_all_output=streams_all_output)
