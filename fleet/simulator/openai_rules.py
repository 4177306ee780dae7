"""What servers of OpenAI's format refuse about a request. Which server it is depends on the model that is asked for."""

import re
from collections.abc import Callable, Iterator
from typing import Any

Messages = list[dict[str, Any]]
Fault = tuple[str, str | None]
"""The message and the code of a refusal."""
Rule = Callable[[dict[str, Any], Messages], Iterator[Fault]]

_OPENAI = re.compile(r"(?:gpt-(?!oss)|chatgpt-|o\d)")
_GEMINI_3 = re.compile(r"gemini-[3-9]")
_LONGEST_ID = 40
_FIELDS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio", "annotations", "function_call"}
)
_FIELDS_OF_A_CALL = frozenset({"id", "type", "function"})


def fault_of(body: dict[str, Any], *, model: str) -> Fault | None:
    """The first thing that the server refuses about the request; None when it takes it."""
    rules: list[Rule] = [_rules_of_all]
    if _OPENAI.match(model):
        rules.append(_rules_of_openai)
    elif "deepseek" in model:
        rules.append(_rules_of_deepseek)
    elif "mistral" in model.lower():
        rules.append(_rules_of_mistral)
    elif _GEMINI_3.match(model):
        rules.append(_rules_of_gemini)
    return next((fault for rule in rules for fault in rule(body, body["messages"])), None)


def _rules_of_all(body: dict[str, Any], messages: Messages) -> Iterator[Fault]:
    if not messages:
        yield "Invalid 'messages': empty array.", "empty_array"
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in body and not body.get("tools"):
            yield f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified.", None
    for at, message in enumerate(messages):
        if message.get("tool_calls") == []:
            yield f"Invalid 'messages[{at}].tool_calls': empty array.", "empty_array"
        if message.get("content") == []:
            yield f"Invalid 'messages[{at}].content': empty array.", "empty_array"
        if message["role"] == "assistant" and not any(
            message.get(name) for name in ("content", "tool_calls", "refusal")
        ):
            yield f"Invalid value for 'content' of messages[{at}]: expected a string, got null.", None


def _rules_of_openai(body: dict[str, Any], messages: Messages) -> Iterator[Fault]:
    for at, message in enumerate(messages):
        for name in message.keys() - _FIELDS:
            yield f"Unknown parameter: 'messages[{at}].{name}'.", "unknown_parameter"
        for call in message.get("tool_calls") or ():
            for name in call.keys() - _FIELDS_OF_A_CALL:
                yield f"Unknown parameter: 'messages[{at}].tool_calls[0].{name}'.", "unknown_parameter"
        if any(len(call_id) > _LONGEST_ID for call_id in _call_ids(message)):
            yield f"Invalid 'messages[{at}]': id too long, maximum length {_LONGEST_ID}.", "string_above_max_length"


def _rules_of_deepseek(body: dict[str, Any], messages: Messages) -> Iterator[Fault]:
    for at, message in enumerate(messages):
        if isinstance(message.get("content"), list):
            yield f"messages[{at}]: invalid type: sequence, expected a string", None
        if message.get("tool_calls") and "reasoning_content" not in message:
            yield f"Missing `reasoning_content` field in the assistant message at message index {at}.", None


def _rules_of_mistral(body: dict[str, Any], messages: Messages) -> Iterator[Fault]:
    if "max_completion_tokens" in body:
        yield "max_completion_tokens: Extra inputs are not permitted", None
    for at, message in enumerate(messages):
        for name in message.keys() - _FIELDS:
            yield f"messages.{at}.{name}: Extra inputs are not permitted", None
        if not all(re.fullmatch("[A-Za-z0-9]{9}", call_id) for call_id in _call_ids(message)):
            yield "Tool call id must be a-z, A-Z, 0-9, with a length of 9.", None


def _rules_of_gemini(body: dict[str, Any], messages: Messages) -> Iterator[Fault]:
    for message in messages:
        calls = message.get("tool_calls")
        if calls and not (calls[0].get("extra_content") or {}).get("google", {}).get("thought_signature"):
            yield "Function call is missing a thought_signature in functionCall parts.", None


def _call_ids(message: dict[str, Any]) -> list[str]:
    """The ids of the calls that a message makes or answers."""
    answered = [message["tool_call_id"]] if "tool_call_id" in message else []
    return [call["id"] for call in message.get("tool_calls") or ()] + answered
