"""Gemini's generateContent format: the request that we write.

Source: the API's reference of `models.streamGenerateContent` and its guides on function calling, thinking and thought
signatures. What OpenAI's vocabulary has and Gemini lacks is refused (`check_supported`) when an answer without it would
be another one, and otherwise left out with a warning (`ignored`).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, assert_never
from urllib.parse import urlsplit

import msgspec

from contracts.errors import InvalidRequest, UnsupportedFeature
from contracts.requests import (
    AssistantMessage,
    CompletionRequest,
    ImagePart,
    Message,
    NamedToolChoice,
    ReasoningEffort,
    SystemMessage,
    TextPart,
    Tool,
    ToolMessage,
    UserMessage,
)
from workers.providers.google.models import generation, signs_calls, thinks
from workers.providers.shared.json_text import NO_JSON
from workers.providers.shared.requests import images
from workers.providers.shared.requests.options import present
from workers.providers.shared.requests.tool_arguments import as_object
from workers.providers.shared.requests.tool_choice import forces_a_call
from workers.providers.shared.requests.tool_schemas import is_without_parameters, object_schema
from workers.providers.shared.requests.turns import OPENING, check_says_something, nothing_said

NAME = "google"
MAX_STOPS = 5
UNSIGNED = "skip_thought_signature_validator"
"""What Google wants in place of the signature of a call that Gemini did not make, from Gemini 3 on."""

_THINKS_IN_LEVELS = (3, 0)
_FETCHES_URLS = (2, 5)
_SCHEMA_BESIDE_TOOLS = (3, 0)
_CAN_THINK_MINIMALLY = re.compile(r"gemini-3(?:\.[156])?-flash")
_MUST_THINK = re.compile(r"gemini-2\.5-pro")
_LEAST_BUDGET = 128
"""The fewest tokens to think with that a 2.5 model takes which must think."""

_SEEDS = range(-(2**31), 2**31)
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
"""Gemini's modes of function calling, by `tool_choice`."""
_LEVELS: dict[ReasoningEffort, str] = {
    "none": "MINIMAL",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
    "max": "HIGH",
}
_BUDGETS: dict[ReasoningEffort, int] = {
    "none": 0,
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 24576,
    "xhigh": 24576,
    "max": 24576,
}
"""Tokens to think with: those that Google's own OpenAI-compatible endpoint takes."""

_MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "heic": "image/heic",
    "heif": "image/heif",
    "gif": "image/gif",
}
_FILES_API = re.compile(r"^https://(?:[\w-]+-)?generativelanguage\.googleapis\.com/\w+/files/")
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def check_supported(request: CompletionRequest, *, model: str) -> None:
    """Raises UnsupportedFeature for what the model cannot do, InvalidRequest when all messages are blank."""
    check_says_something(request, provider=NAME)
    of = generation(model)
    wants_json = request.response_format is not None and request.response_format.type != "text"
    urls = [image.image_url.url for image in images.images_in(request.messages)]
    if len(request.stop or ()) > MAX_STOPS:
        raise _unsupported(f"takes at most {MAX_STOPS} stop sequences")
    if of and of < _SCHEMA_BESIDE_TOOLS and request.tools and wants_json:
        raise _unsupported(f"cannot both call tools and answer in JSON with {model}")
    if of and of < _FETCHES_URLS and not all(images.is_inline(url) or _FILES_API.match(url) for url in urls):
        raise _unsupported(f"does not fetch images for {model}; send them as data: URLs")


def ignored(request: CompletionRequest, *, model: str) -> tuple[str, ...]:
    """What was asked for and has no effect, a sentence each."""
    effort = request.reasoning_effort
    notes = {
        "parallel_tool_calls: false is ignored, because Gemini decides how many tools it calls": (
            request.tools and request.parallel_tool_calls is False
        ),
        "strict is ignored, because Gemini's tools do not have it": (
            any(tool.function.strict for tool in request.tools or ())
        ),
        "seed is ignored, because Gemini's have 32 bits": request.seed is not None and request.seed not in _SEEDS,
        f"reasoning_effort is ignored, because {model} is not known to think": (
            effort not in (None, "none") and not thinks(model)
        ),
        f"{model} always thinks, with reasoning_effort none as little as it can": (
            effort == "none" and thinks(model) and _always_thinks(model)
        ),
        "the detail of images is ignored": any(
            image.image_url.detail in ("low", "high") for image in images.images_in(request.messages)
        ),
        "the names of messages are ignored": any(getattr(message, "name", None) for message in request.messages),
        "tool_choice is ignored, because the request has no tools": (not request.tools and forces_a_call(request)),
    }
    return tuple(note for note, holds in notes.items() if holds)


def request_body(request: CompletionRequest, *, model: str) -> dict[str, Any]:
    """The JSON body of generateContent, whether streamed or not. Raises InvalidRequest."""
    body = prompt(request.messages, request.tools, model=model)
    if request.tools and (choice := request.tool_choice):
        if isinstance(choice, NamedToolChoice):
            calling = {"mode": "ANY", "allowedFunctionNames": [choice.function.name]}
        else:
            calling = {"mode": _MODES[choice]}
        body["toolConfig"] = {"functionCallingConfig": calling}
    generation_config: dict[str, Any] = {
        "temperature": request.temperature,
        "topP": request.top_p,
        "maxOutputTokens": request.max_tokens,
        "stopSequences": request.stop,
        "seed": request.seed if request.seed is not None and request.seed in _SEEDS else None,
        "thinkingConfig": _thinking(request.reasoning_effort, model=model),
    }
    if (wanted := request.response_format) and wanted.type != "text":
        generation_config["responseMimeType"] = "application/json"
        generation_config["responseJsonSchema"] = (wanted.json_schema or {}).get("schema")
    if given := present(generation_config):
        body["generationConfig"] = given
    return body


def prompt(messages: Sequence[Message], tools: Sequence[Tool] | None, *, model: str) -> dict[str, Any]:
    """What counts as input: contents, system instruction and tools. Raises InvalidRequest."""
    conversation = _Conversation(signs_calls=signs_calls(model))
    for message in messages:
        conversation.add(message)
    body = conversation.written()
    declarations: list[dict[str, Any]] = []
    for tool in tools or ():
        schema = object_schema(tool.function.parameters)
        declaration = {
            "name": tool.function.name,
            "description": tool.function.description,
            "parametersJsonSchema": None if is_without_parameters(schema) else schema,
        }
        declarations.append(present(declaration))
    if declarations:
        body["tools"] = [{"functionDeclarations": declarations}]
    return body


class _Conversation:
    """Turns messages into contents.

    Gemini wants all results of a turn's calls in one content, in the order of the calls; calls only right after the
    user or other results; and no part without a text.
    """

    def __init__(self, *, signs_calls: bool) -> None:
        self._signs_calls = signs_calls
        self._system: list[dict[str, Any]] = []
        self._contents: list[dict[str, Any]] = []
        self._calls: dict[str, tuple[int, dict[str, Any]]] = {}
        """The calls so far by our id: their order, and how a result names them."""
        self._results: list[tuple[int, dict[str, Any]]] = []

    def add(self, message: Message) -> None:
        if not isinstance(message, ToolMessage):
            self._end_results()
        match message:
            case SystemMessage():
                self._system += _parts(message.content)
            case UserMessage():
                if parts := _parts(message.content):
                    self._contents.append({"role": "user", "parts": parts})
            case AssistantMessage():
                self._add_answer(message)
            case ToolMessage():
                self._add_result(message)
            case _:
                assert_never(message)

    def written(self) -> dict[str, Any]:
        self._end_results()
        if not self._contents and not self._system:
            raise nothing_said(NAME)
        if not self._contents:
            return {"contents": [{"role": "user", "parts": self._system}]}
        system = {"systemInstruction": {"role": "user", "parts": self._system}} if self._system else {}
        begins_with_a_call = self._contents[0]["role"] == "model" and bool(_call_parts(self._contents[0]["parts"]))
        opening = [{"role": "user", "parts": [{"text": OPENING}]}] if begins_with_a_call else []
        return {"contents": [*opening, *self._contents], **system}

    def _add_answer(self, message: AssistantMessage) -> None:
        calls = message.tool_calls or ()
        parts = _kept_parts(message)
        if parts is None:
            parts = [part for text in (message.content, message.refusal) for part in _parts(text or "")]
            for index, call in enumerate(calls):
                args = as_object(call.function.arguments, otherwise="arguments")
                made = {"id": call.id, "name": call.function.name, "args": args}
                signature = {"thoughtSignature": UNSIGNED} if index == 0 and self._signs_calls else {}
                parts.append({"functionCall": made, **signature})
        for call, part in zip(calls, _call_parts(parts), strict=True):
            made = part["functionCall"]
            named = {"name": made.get("name") or call.function.name}
            self._calls[call.id] = (len(self._calls), {**named, **({"id": made["id"]} if made.get("id") else {})})
        if _call_parts(parts) and self._contents and self._contents[-1]["role"] == "model":
            self._contents[-1]["parts"] += parts
        elif parts:
            self._contents.append({"role": "model", "parts": parts})

    def _add_result(self, message: ToolMessage) -> None:
        if message.tool_call_id not in self._calls:
            raise InvalidRequest(
                f"a tool message answers the call {message.tool_call_id!r}, which no message before it makes",
                provider=NAME,
            )
        order, named = self._calls[message.tool_call_id]
        text = message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)
        try:
            response = _decode_object(text)
        except NO_JSON:
            response = {"output": text}
        self._results.append((order, {"functionResponse": {**named, "response": response}}))

    def _end_results(self) -> None:
        if self._results:
            parts = [part for _, part in sorted(self._results, key=lambda result: result[0])]
            self._contents.append({"role": "user", "parts": parts})
            self._results = []


def _kept_parts(message: AssistantMessage) -> list[dict[str, Any]] | None:
    """The parts as Gemini wrote them; None where there are none, or where the message makes more or fewer calls than
    they."""
    match (message.provider_data or {}).get(NAME):
        case {"parts": [*parts]}:
            kept = [part for part in parts if isinstance(part, dict)]
        case _:
            return None
    whole = len(kept) == len(parts) and len(_call_parts(kept)) == len(message.tool_calls or ())
    return kept if whole and kept else None


def _call_parts(parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [part for part in parts if isinstance(part.get("functionCall"), dict)]


def _parts(content: str | Sequence[TextPart | ImagePart]) -> list[dict[str, Any]]:
    """The parts of a content, without blank texts: the API refuses a part that has no data."""
    given = [TextPart(text=content)] if isinstance(content, str) else content
    return [
        {"text": part.text} if isinstance(part, TextPart) else _image(part.image_url.url)
        for part in given
        if isinstance(part, ImagePart) or part.text.strip()
    ]


def _image(url: str) -> dict[str, Any]:
    if not images.is_inline(url):
        # Where the path does not tell the media type, Google asks the server for it.
        ending = urlsplit(url).path.rpartition(".")[2].lower()
        return {"fileData": present({"fileUri": url, "mimeType": _MEDIA_TYPES.get(ending)})}
    image = images.read_inline(url)
    if image is None:
        raise InvalidRequest("an image's data: URL has no media type, or no data in base64", provider=NAME)
    return {"inlineData": {"mimeType": image.media_type, "data": image.base64}}


def _thinking(effort: ReasoningEffort | None, *, model: str) -> dict[str, Any] | None:
    if effort is None or not thinks(model):
        return None
    of = generation(model)
    shown = {"includeThoughts": True} if effort != "none" else {}
    if of and of >= _THINKS_IN_LEVELS:
        level = _LEVELS[effort]
        if level == "MINIMAL" and not _CAN_THINK_MINIMALLY.search(model):
            level = "LOW"
        if level == "MEDIUM" and of == _THINKS_IN_LEVELS and "-pro" in model:
            level = "HIGH"
        return {**shown, "thinkingLevel": level}
    budget = _BUDGETS[effort]
    return {**shown, "thinkingBudget": budget or (_LEAST_BUDGET if _always_thinks(model) else 0)}


def _always_thinks(model: str) -> bool:
    of = generation(model)
    return bool(_MUST_THINK.search(model)) or (of is not None and of >= _THINKS_IN_LEVELS)


def _unsupported(what: str) -> UnsupportedFeature:
    return UnsupportedFeature(f"{NAME} {what}", provider=NAME)
