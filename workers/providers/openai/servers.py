"""The servers of OpenAI's chat format, and where they differ in what they take of a conversation.

OpenAI's own server refuses fields that its reference does not name, and ids of calls over 40 characters. The others
know less of the format, and want back what they added to it:

- DeepSeek (thinking mode, https://api-docs.deepseek.com/guides/thinking_mode) and Moonshot refuse a message with tool
  calls whose `reasoning_content` is gone. On other turns DeepSeek ignores it, and its older versions refuse it.
- Groq and Cerebras have it as `reasoning`, and refuse `reasoning_content`; Mistral refuses both (`extra_forbidden`).
- Gemini 3 refuses a call without the `thought_signature` that came with it (`extra_content`), from its OpenAI address
  as well; OpenRouter's `reasoning_details` continue a thought (https://ai.google.dev/gemini-api/docs/openai).
- DeepSeek's own server wants a content as a text, where OpenAI's also takes a list of text parts.
- Mistral takes ids of calls of nine letters and digits only.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workers.providers.google.models import signs_calls

REASONING_FIELDS = frozenset({"reasoning_content", "reasoning", "reasoning_text"})

OPENAI_MODEL = re.compile(r"^(?:openai/)?(?:gpt-(?!oss)|chatgpt-|o\d|codex-|computer-use)", re.IGNORECASE)
_MISTRAL = re.compile(r"(?:mini|magi|mi)stral|mixtral|(?:code|dev)stral|(?:pix|vox)tral", re.IGNORECASE)
_OTHER_MAKER = re.compile(
    rf"{_MISTRAL.pattern}|llama|deepseek|\bphi-?\d|grok|cohere|command-|jamba|\bjais|kimi|qwen|gemma|granite|nemotron"
    r"|gpt-oss|\bglm-?\d|minimax|\bmai-",
    re.IGNORECASE,
)

_STRICT_HOSTS: dict[str, frozenset[str]] = {
    "mistral.ai": frozenset(),
    "groq.com": frozenset({"reasoning"}),
    "cerebras.ai": frozenset({"reasoning"}),
}
"""Hosts of servers that refuse unknown fields, with the fields in which they take reasoning back."""

_LONGEST_ID = 40
_MISTRAL_ID = re.compile(r"[A-Za-z0-9]{9}")


def unchanged(call_id: str) -> str:
    """The id as it is."""
    return call_id


def within_openais_limit(call_id: str) -> str:
    """The id, or 40 hexadecimal digits made of it where it is longer than OpenAI takes."""
    return call_id if len(call_id) <= _LONGEST_ID else _digest(call_id)[:_LONGEST_ID]


def as_mistral_takes_it(call_id: str) -> str:
    """The id, or nine hexadecimal digits made of it where it is not nine letters and digits."""
    return call_id if _MISTRAL_ID.fullmatch(call_id) else _digest(call_id)[:9]


@dataclass(frozen=True, slots=True)
class Server:
    """What the server at the other end takes of a conversation."""

    provider: str
    """The name under which `provider_options` and `provider_data` hold what is for it."""
    knows_all_forms: bool = True
    """Whether a content may be a list of texts, and a refusal a field of its own."""
    takes_further_fields: bool = True
    """Whether it gets back the fields of `provider_data`, where it added them."""
    reasoning_fields: frozenset[str] = REASONING_FIELDS
    """The fields in which it takes reasoning back, when `provider_data` names one of them."""
    reasoning_field: str | None = None
    """The field in which reasoning goes back with tool calls when `provider_data` names none; None when it does not."""
    call_id: Callable[[str], str] = unchanged
    """Makes the id of a call as the server takes it, from the same id always the same."""
    wants_signed_calls: bool = False
    """Whether a call that another model made needs Google's stand-in for a signature."""


OPENAI = Server(
    "openai",
    takes_further_fields=False,
    reasoning_fields=frozenset(),
    call_id=within_openais_limit,
)


def server_at(host: str, *, model: str) -> Server:
    """The server that the provider `openai` calls."""
    if is_openais(host):
        return OPENAI
    if OPENAI_MODEL.match(model):
        return Server("openai", call_id=within_openais_limit)
    strict = next((fields for name, fields in _STRICT_HOSTS.items() if _is_of(host, name)), None)
    is_mistral = _is_of(host, "mistral.ai") or _MISTRAL.search(model) is not None
    return Server(
        "openai",
        knows_all_forms=False,
        reasoning_fields=REASONING_FIELDS if strict is None else strict,
        reasoning_field="reasoning_content" if strict is None and not is_mistral else None,
        call_id=as_mistral_takes_it if is_mistral else unchanged,
        wants_signed_calls=signs_calls(model),
    )


def server_of_azure(names: Sequence[str]) -> Server:
    """The server behind an endpoint of Azure, by the names of the model and of its deployment."""
    if any(map(OPENAI_MODEL.match, names)):
        return Server("azure", takes_further_fields=False, reasoning_fields=frozenset(), call_id=within_openais_limit)
    if is_of_another_maker(names):
        is_mistral = any(map(_MISTRAL.search, names))
        return Server("azure", knows_all_forms=False, call_id=as_mistral_takes_it if is_mistral else unchanged)
    return Server("azure", call_id=within_openais_limit)


def is_openais(host: str) -> bool:
    """Whether a host is OpenAI's own, as `eu.api.openai.com` is."""
    return _is_of(host, "openai.com")


def is_of_another_maker(names: Sequence[str]) -> bool:
    """Whether one of the names is that of a model which is not OpenAI's, and none of them is OpenAI's."""
    return any(map(_OTHER_MAKER.search, names)) and not any(map(OPENAI_MODEL.match, names))


def _is_of(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")


def _digest(call_id: str) -> str:
    return hashlib.sha256(call_id.encode(errors="replace")).hexdigest()
