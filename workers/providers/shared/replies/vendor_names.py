"""What a vendor's reply says beside its answer: names of models, tiers and replies, without the secrets of the call.

These names are stored, priced and shown. A vendor chooses them freely, so one that is no such name, or that holds a
part of a secret in any form, is left out.
"""

import re
import uuid
from collections.abc import Iterable
from dataclasses import replace

import msgspec

from contracts.rpc import ModelInfo
from contracts.usage import Usage
from workers.providers.base import Chunk, Finish, StreamItem
from workers.providers.shared.errors.redaction import Secrets, looks_like_a_key
from workers.providers.shared.replies.token_counts import plausible

UNKNOWN = "unknown"
"""A tier or a model that has no price, in place of a name that is left out: what it cost is not known."""
MAX_NAME_CHARS = 256

_WORD = r"[\w.:/\\@+,=()\[\]~#|-]++"
_NAME = re.compile(rf"{_WORD}(?: {_WORD})*+")
"""Characters of all names that vendors are known to give: paths, also with blanks, ARNs, digests, ids in base64."""
_RUN = re.compile(r"[A-Za-z0-9]{20,}")
_DIGEST = re.compile(r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}")
"""Names hold digests of models: of fine-tuned ones at Azure, of a commit, of a file."""
_KINDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_MOST_KINDS = 0.35
"""Of a run's characters. Words and versions change between letters and digits less often than keys do, in which it is
nearly half of them."""
_MOST_NAMES = 16
"""Different names in one reply; further ones are left out, so that a reply that makes up names costs no time."""


class VendorNames:
    """The names in what one vendor says to one call."""

    def __init__(self, secrets: Secrets, *, asked: str = "") -> None:
        """`asked`: the name of the model that was asked for, which the caller knows."""
        self._secrets = secrets
        self._checked: dict[str, bool] = {asked: True}

    def without_secrets(self, item: StreamItem) -> StreamItem:
        """What a reply says. Of a chunk, which is the answer itself, only the ids of tool calls are looked at."""
        if isinstance(item, Chunk):
            return self._chunk(item) if item.tool_calls else item
        return replace(
            item,
            usage=self._usage(item.usage),
            service_tier=self._tier(item.service_tier),
            response_model=self._model(item.response_model),
        )

    def finish_without_secrets(self, finish: Finish) -> Finish:
        """The end of a reply, likewise."""
        provider_data, response_id = finish.provider_data, finish.response_id
        warnings = tuple(map(self._secrets.redact, finish.warnings))
        if provider_data and self._secrets.stand_in(msgspec.json.encode(provider_data).decode()):
            provider_data = None
            warnings += ("what the vendor wants back holds the key; provider_data was left out",)
        return replace(
            finish,
            usage=self._usage(finish.usage),
            service_tier=self._tier(finish.service_tier),
            response_model=self._model(finish.response_model),
            response_id=response_id if response_id and _can_be(response_id, self._secrets) else None,
            provider_data=provider_data,
            warnings=warnings,
        )

    def _chunk(self, chunk: Chunk) -> Chunk:
        """`chunk`, in which a tool call whose id holds a whole secret has another id."""
        if not any(call.id and self._secrets.stand_in(call.id) for call in chunk.tool_calls):
            return chunk
        calls = (
            call.model_copy(update={"id": f"call_{uuid.uuid4().hex[:24]}"})
            if call.id and self._secrets.stand_in(call.id)
            else call
            for call in chunk.tool_calls
        )
        return replace(chunk, tool_calls=tuple(calls))

    def _model(self, name: str | None) -> str | None:
        return name if name and self._is_good(name) else None

    def _tier(self, tier: str | None) -> str | None:
        return tier if not tier or self._is_good(tier) else UNKNOWN

    def _usage(self, usage: Usage | None) -> Usage | None:
        """Usage whose parts name models that can be such."""
        if usage is None or not usage.parts:
            return usage
        parts = (
            part.model_copy(update={"model": UNKNOWN}) if part.model and not self._is_good(part.model) else part
            for part in usage.parts
        )
        return usage.model_copy(update={"parts": tuple(parts)})

    def _is_good(self, name: str) -> bool:
        """Whether a name can be that of a model or a tier. Some vendors repeat theirs in each chunk, so each is looked
        at once."""
        if (known := self._checked.get(name)) is not None:
            return known
        if len(self._checked) > _MOST_NAMES:
            return False
        return self._checked.setdefault(name, _can_be(name, self._secrets) and not _is_random(name))


def models_with_names(listed: Iterable[ModelInfo], secrets: Secrets) -> list[ModelInfo]:
    """The models that a vendor lists under names that can be such, with the context windows that can be such."""
    return [
        ModelInfo(id=model.id, context_window=plausible(model.context_window))
        for model in listed
        if _can_be(model.id, secrets) and not _is_random(model.id)
    ]


def _can_be(name: str, secrets: Secrets) -> bool:
    """Whether a text can be a name, and holds no part of a secret and nothing that looks like one."""
    return (
        len(name) <= MAX_NAME_CHARS
        and _NAME.fullmatch(name) is not None
        and not looks_like_a_key(name)
        and not secrets.are_in(name)
    )


def _is_random(name: str) -> bool:
    """Whether a name has a long piece that is as random as a key."""
    return any(
        not _DIGEST.fullmatch(run[0]) and len(_KINDS.findall(run[0])) > _MOST_KINDS * len(run[0])
        for run in _RUN.finditer(name)
    )
