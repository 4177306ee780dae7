"""How the end of a request is kept in `LLM_RESULTS`, on `llm.v1.result.<tenant>.<agent>.<request_id>`.

The body is the terminal event, byte for byte as the agent heard it. The headers say of which request it is the end:
without them nobody could tell a copy of it from another request that was given the same id.
"""

import hashlib
import json
from collections.abc import Mapping

from contracts.requests import CompletionRequest

ORIGIN = "Fleet-Origin"
"""When the agent's own message entered the queue, which names it among all messages with the request's id."""
FIELDS = "Fleet-Fields"
"""A digest of each field that the request has, as `digests` makes them, in one line."""

_NOT_COMPARED = ("id", "tenant", "agent", "deadline")
"""The first three are in the subject, and copies of one request are sent at different times."""
_DIGEST_BYTES = 6

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def digests(request: CompletionRequest) -> dict[str, str]:
    """A digest of each field that is not left at its default, by name. What JSON writes in several ways has one."""
    said: Mapping[str, object] = json.loads(request.model_dump_json(exclude_defaults=True))
    return {
        name: hashlib.blake2b(_canonical(value).encode(), digest_size=_DIGEST_BYTES).hexdigest()
        for name, value in said.items()
        if name not in _NOT_COMPARED
    }


def written(digests: Mapping[str, str]) -> str:
    """The header of these digests."""
    return " ".join([f"{name}={digest}" for name, digest in digests.items()])


def read(header: str) -> dict[str, str]:
    """The digests that a header holds."""
    pairs = (pair.partition("=") for pair in header.split())
    return {name: digest for name, _, digest in pairs}
