"""Input tokens of OpenAI's models, counted offline with the vocabularies of bpe-openai.

A vocabulary is loaded with the first count that needs it. That of today's models takes 140 MB and up to some seconds
(bpe-openai 0.1.4), an older one 35 MB more; see token_counter.py. What a chat costs around its texts is from OpenAI's
cookbook ("How to count tokens with tiktoken"); for reasoning models it was read off their bills.
"""

import re
import warnings
from functools import cache
from typing import Protocol

from contracts.rpc import CountTokens, TokenCount
from workers.providers.shared import token_estimates
from workers.providers.shared.requests.images import images_in

_PER_MESSAGE = 4
_PER_NAME = 1
_REPLY = 3
_REPLY_OF_REASONING = 2

_TODAYS = "o200k_base"
_CL100K = re.compile(r"^gpt-(?:3\.5|35|4)(?![o.\d])")
_O200K = re.compile(r"^(?:gpt-\d|chatgpt-|o\d|codex-)")
_REASONING = re.compile(r"^(?:gpt-[5-9]|o\d|codex-)")


_PIECE_CHARS = 60_000
"""bpe-openai refuses texts of more than 200,000 tokens; longer ones are counted in pieces, nearly exactly."""


class _Encoding(Protocol):
    def encode_ordinary(self, text: str) -> list[int]: ...


def count(question: CountTokens, *, model: str) -> TokenCount:
    """Exact for plain conversations with OpenAI's models; images, tools and other models are estimated."""
    model = model.removeprefix("openai/")
    name = encoding_of(model)
    if name is None:
        return TokenCount(input_tokens=token_estimates.estimate_input(question), exact=False)
    encoding = _encoding(name)
    texts = [text for message in question.messages for text in token_estimates.texts_of(message)]
    tools = token_estimates.tool_texts(question)
    images = len(images_in(question.messages))
    names = sum(bool(getattr(message, "name", None)) for message in question.messages)
    calls = any(message.role == "tool" or getattr(message, "tool_calls", None) for message in question.messages)
    return TokenCount(
        input_tokens=sum(
            len(encoding.encode_ordinary(text[at : at + _PIECE_CHARS]))
            for text in [*texts, *tools]
            for at in range(0, len(text), _PIECE_CHARS)
        )
        + _PER_MESSAGE * len(question.messages)
        + _PER_NAME * names
        + token_estimates.TOKENS_PER_IMAGE * images
        + (_REPLY_OF_REASONING if _REASONING.match(model) else _REPLY),
        exact=not (images or tools or names or calls or any(len(text) > _PIECE_CHARS for text in texts)),
    )


def has_vocabulary(model: str) -> bool:
    """Whether counting needs a vocabulary; without one it is an estimate, which takes neither time nor memory."""
    return encoding_of(model.removeprefix("openai/")) is not None


def encoding_of(model: str) -> str | None:
    """The vocabulary of one of OpenAI's models; None for all others."""
    if _CL100K.match(model):
        return "cl100k_base"
    return _TODAYS if _O200K.match(model) else None


@cache
def _encoding(name: str) -> _Encoding:
    with warnings.catch_warnings():
        # Python 3.11 and 3.12 deprecate the call by which it reads its data; 3.13 took that back.
        warnings.filterwarnings("ignore", "open_binary is deprecated", DeprecationWarning)
        import bpe_openai

        return bpe_openai.get_encoding(name)
