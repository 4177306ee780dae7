"""Our vocabulary in Gemini's format: what is sent, what is refused, what is left out."""

from typing import Any

import pytest

from contracts.errors import InvalidRequest, UnsupportedFeature
from contracts.requests import CompletionRequest
from workers.providers.google_request import check_supported, ignored, merged, request_body

OLD, BUDGETED, LEVELLED = "gemini-2.0-flash", "gemini-2.5-flash", "gemini-3.8-flash"
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def request(*messages: dict[str, Any], **fields: Any) -> CompletionRequest:
    said = messages or ({"role": "user", "content": "Hi"},)
    return CompletionRequest.model_validate(
        {"id": "r", "tenant": "t", "agent": "a", "model": "google/x", "messages": said, **fields}
    )


def body(*messages: dict[str, Any], model: str = BUDGETED, **fields: Any) -> dict[str, Any]:
    return request_body(request(*messages, **fields), model=model)


def config(model: str = BUDGETED, **fields: Any) -> dict[str, Any]:
    return body(model=model, **fields).get("generationConfig", {})


def image(url: str, detail: str | None = None) -> dict[str, Any]:
    fields = {"url": url, **({"detail": detail} if detail else {})}
    return {"role": "user", "content": [{"type": "image_url", "image_url": fields}]}


def calls(*named: tuple[str, str], arguments: str = "{}", **fields: Any) -> dict[str, Any]:
    made = [{"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}} for id_, name in named]
    return {"role": "assistant", "content": None, "tool_calls": made, **fields}


def result(call: str, content: Any = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": content}


def test_the_least_request_is_its_contents() -> None:
    assert body() == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


def test_all_system_messages_are_the_system_instruction() -> None:
    said = body(
        {"role": "system", "content": "A"},
        {"role": "user", "content": "Hi"},
        {"role": "developer", "content": [{"type": "text", "text": "B"}, {"type": "text", "text": "C"}]},
    )
    assert said["systemInstruction"]["parts"] == [{"text": "A"}, {"text": "B"}, {"text": "C"}]
    assert len(said["contents"]) == 1


def test_a_system_message_alone_is_what_the_user_says() -> None:
    assert body({"role": "system", "content": "A"}) == {"contents": [{"role": "user", "parts": [{"text": "A"}]}]}


def test_answers_are_the_models_turns() -> None:
    said = body(
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes", "reasoning": "not sent"},
        {"role": "assistant", "content": None, "refusal": "No"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Why"},
    )
    assert said["contents"][1:] == [
        {"role": "model", "parts": [{"text": "Yes"}]},
        {"role": "model", "parts": [{"text": "No"}]},
        {"role": "user", "parts": [{"text": "Why"}]},
    ]


def test_results_come_together_in_the_order_of_their_calls() -> None:
    contents = body(calls(("a", "f"), ("b", "g")), result("b", "2"), result("a", '{"x": [1]}'))["contents"]
    assert contents == [
        {
            "role": "model",
            "parts": [
                {"functionCall": {"id": "a", "name": "f", "args": {}}},
                {"functionCall": {"id": "b", "name": "g", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "a", "name": "f", "response": {"x": [1]}}},
                {"functionResponse": {"id": "b", "name": "g", "response": {"output": "2"}}},
            ],
        },
    ]


def test_a_call_id_that_is_used_again_means_the_last_call() -> None:
    contents = body(calls(("a", "f")), result("a"), calls(("a", "g")), result("a"))["contents"]
    assert [contents[at]["parts"][0]["functionResponse"]["name"] for at in (1, 3)] == ["f", "g"]


def test_a_result_without_its_call_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'x'"):
        body(calls(("a", "f")), result("x"))


@pytest.mark.parametrize("text", ["", "no json", "[1]", '"x"', "NaN", '{"x": NaN}', '{"x": '])
def test_arguments_that_are_no_object_are_kept_as_text(text: str) -> None:
    args = body(calls(("a", "f"), arguments=text))["contents"][0]["parts"][0]["functionCall"]["args"]
    assert args == ({"arguments": text} if text else {})


@pytest.mark.parametrize("text", ["", "42", "[1]", "plain"])
def test_a_result_that_is_no_object_is_the_output(text: str) -> None:
    contents = body(calls(("a", "f")), result("a", [{"type": "text", "text": text}]))["contents"]
    assert contents[1]["parts"][0]["functionResponse"]["response"] == {"output": text}


def test_only_the_first_call_of_another_provider_needs_a_stand_in_for_its_signature() -> None:
    parts = body(calls(("a", "f"), ("b", "g")), model=LEVELLED)["contents"][0]["parts"]
    assert ["thoughtSignature" in part for part in parts] == [True, False]


def test_kept_parts_go_back_untouched() -> None:
    kept = [{"text": "a", "thoughtSignature": "s"}, {"functionCall": {"name": "f", "args": {}}}, {"unknown": 1}]
    said = calls(("call_1", "f"), provider_data={"google": {"parts": kept}})
    contents = body(said, result("call_1"), model=LEVELLED)["contents"]
    assert contents[0] == {"role": "model", "parts": kept}
    assert contents[1]["parts"] == [{"functionResponse": {"name": "f", "response": {"output": "ok"}}}]


@pytest.mark.parametrize(
    "data",
    [
        {"google": {"parts": [{"text": "a", "thoughtSignature": "s"}]}},
        {"google": {"parts": ["text"]}},
        {"google": {"parts": 1}},
        {"google": 1},
        {"anthropic": {"parts": [{"functionCall": {"name": "f"}}]}},
    ],
)
def test_kept_parts_of_another_turn_are_not_sent(data: dict[str, Any]) -> None:
    parts = body(calls(("a", "f"), provider_data=data))["contents"][0]["parts"]
    assert parts == [{"functionCall": {"id": "a", "name": "f", "args": {}}}]


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("data:image/PNG;base64,iVBO+/w=", {"inlineData": {"mimeType": "image/png", "data": "iVBO+/w="}}),
        ("data:image/svg+xml,%3Csvg%3E", {"inlineData": {"mimeType": "image/svg+xml", "data": "PHN2Zz4="}}),
        (
            "data:image/png;name=a;base64,aQ==",
            {"inlineData": {"mimeType": "image/png", "data": "aQ=="}},
        ),
        ("https://h/a.JPG?x=1.png", {"fileData": {"fileUri": "https://h/a.JPG?x=1.png", "mimeType": "image/jpeg"}}),
        ("https://h/a", {"fileData": {"fileUri": "https://h/a"}}),
    ],
)
def test_images_are_data_or_links(url: str, part: dict[str, Any]) -> None:
    assert body(image(url))["contents"][0]["parts"] == [part]


def test_a_data_url_without_data_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        body(image("data:image/png;base64"))


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "f"}}, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
    ],
)
def test_the_choice_of_tools(choice: Any, written: dict[str, Any]) -> None:
    assert body(tools=TOOLS, tool_choice=choice)["toolConfig"] == {"functionCallingConfig": written}
    assert "toolConfig" not in body(tool_choice=choice)


def test_tools_have_json_schemas() -> None:
    schema = {"type": "object", "$defs": {}, "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema, "strict": True}}
    assert body(tools=[tool, *TOOLS])["tools"] == [
        {
            "functionDeclarations": [
                {"name": "f", "description": "d", "parametersJsonSchema": schema},
                {"name": "f"},
            ]
        }
    ]


def test_response_formats() -> None:
    schema = {"type": "object"}
    assert config(response_format={"type": "text"}) == {}
    assert config(response_format={"type": "json_object"}) == {"responseMimeType": "application/json"}
    assert config(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}) == {
        "responseMimeType": "application/json",
        "responseJsonSchema": schema,
    }


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        (BUDGETED, "none", {"thinkingBudget": 0}),
        (BUDGETED, "low", {"includeThoughts": True, "thinkingBudget": 1024}),
        (BUDGETED, "max", {"includeThoughts": True, "thinkingBudget": 24576}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
        (LEVELLED, "none", {"thinkingLevel": "LOW"}),
        (LEVELLED, "minimal", {"includeThoughts": True, "thinkingLevel": "LOW"}),
        (LEVELLED, "medium", {"includeThoughts": True, "thinkingLevel": "MEDIUM"}),
        (LEVELLED, "xhigh", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ("models/gemini-3-flash-preview", "minimal", {"includeThoughts": True, "thinkingLevel": "MINIMAL"}),
        ("gemini-3.1-flash-lite", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3-pro-preview", "medium", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ("gemini-3.1-pro-preview", "medium", {"includeThoughts": True, "thinkingLevel": "MEDIUM"}),
        ("gemini-flash-latest", "high", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        (OLD, "high", None),
        ("gemma-3", "high", None),
    ],
)
def test_effort_is_thinking(model: str, effort: str, thinking: dict[str, Any] | None) -> None:
    assert config(model, reasoning_effort=effort).get("thinkingConfig") == thinking


@pytest.mark.parametrize(
    ("model", "fields", "says"),
    [
        (LEVELLED, {"stop": list("abcdef")}, "at most 5 stop"),
        (BUDGETED, {"tools": TOOLS, "response_format": {"type": "json_object"}}, "both call tools and answer in JSON"),
        (OLD, {"messages": [image("https://h/a.png")]}, "does not fetch images"),
    ],
)
def test_what_cannot_be_done_is_refused(model: str, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedFeature, match=says):
        check_supported(request(**fields), model=model)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (BUDGETED, {"stop": list("abcde")}),
        (BUDGETED, {"tools": TOOLS, "response_format": {"type": "text"}}),
        (LEVELLED, {"tools": TOOLS, "response_format": {"type": "json_object"}}),
        (OLD, {"messages": [image("data:image/png;base64,aQ==")]}),
        (OLD, {"messages": [image("https://generativelanguage.googleapis.com/v1beta/files/abc")]}),
        (BUDGETED, {"messages": [image("https://h/a.png")]}),
    ],
)
def test_what_can_be_done_is_not_refused(model: str, fields: dict[str, Any]) -> None:
    check_supported(request(**fields), model=model)


@pytest.mark.parametrize(
    ("model", "fields", "note"),
    [
        (BUDGETED, {"parallel_tool_calls": False, "tools": TOOLS}, "parallel_tool_calls: false is ignored"),
        (BUDGETED, {"seed": 2**31}, "seed is ignored"),
        (OLD, {"reasoning_effort": "low"}, "reasoning_effort is ignored"),
        (LEVELLED, {"reasoning_effort": "none"}, f"{LEVELLED} always thinks"),
        (BUDGETED, {"messages": [image("https://h/a.png", "low")]}, "the detail of images"),
        (BUDGETED, {"messages": [{"role": "user", "content": "Hi", "name": "Ada"}]}, "the names of messages"),
    ],
)
def test_what_has_no_effect_is_said(model: str, fields: dict[str, Any], note: str) -> None:
    (said,) = ignored(request(**fields), model=model)
    assert said.startswith(note)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (BUDGETED, {"parallel_tool_calls": True, "tools": TOOLS, "seed": -(2**31)}),
        (BUDGETED, {"reasoning_effort": "none"}),
        (OLD, {"reasoning_effort": "none"}),
        (LEVELLED, {"reasoning_effort": "high", "messages": [image("https://h/a.png", "auto")]}),
    ],
)
def test_what_has_its_effect_is_not_mentioned(model: str, fields: dict[str, Any]) -> None:
    assert ignored(request(**fields), model=model) == ()


def test_further_options_are_merged_into_objects() -> None:
    before = {"a": {"b": 1, "c": [1]}, "d": 1}
    assert merged(before, {"a": {"c": [2], "e": 3}, "d": {"f": 4}}) == {"a": {"b": 1, "c": [2], "e": 3}, "d": {"f": 4}}
    assert before == {"a": {"b": 1, "c": [1]}, "d": 1}
