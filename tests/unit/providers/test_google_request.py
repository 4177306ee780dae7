"""Our vocabulary in Gemini's format: what is sent, what is refused, what is left out."""

from typing import Any

import pytest

from contracts.errors import InvalidRequest, UnsupportedFeature
from contracts.requests import CompletionRequest
from workers.providers.google.request import check_supported, ignored, request_body
from workers.providers.shared.requests.turns import OPENING

OLD, BUDGETED, LEVELLED = "gemini-2.0-flash", "gemini-2.5-flash", "gemini-3.8-flash"
PNG = "data:image/png;base64,iVBORw0KGgo="
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def request(*messages: dict[str, Any], **fields: Any) -> CompletionRequest:
    said = messages or ({"role": "user", "content": "Hi"},)
    return CompletionRequest.model_validate(
        {"id": "r", "tenant": "t", "agent": "a", "model": "google/x", "messages": said, **fields}
    )


def body(*messages: dict[str, Any], model: str = BUDGETED, **fields: Any) -> dict[str, Any]:
    return request_body(request(*messages, **fields), model=model)


def turns(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    """What follows on the user's first words."""
    return body({"role": "user", "content": "Hi"}, *messages, **fields)["contents"][1:]


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


@pytest.mark.parametrize("blank", ["", " \n\t", [], [{"type": "text", "text": ""}]])
@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_blank_messages_are_left_out(role: str, blank: Any) -> None:
    said = body({"role": role, "content": blank}, {"role": "user", "content": "Hi"}, {"role": role, "content": blank})
    assert said == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


def test_blank_parts_are_left_out_among_others() -> None:
    texts = [{"type": "text", "text": text} for text in ("", "Look:", "  ")]
    said = body({"role": "system", "content": texts}, {"role": "user", "content": [*texts, *image(PNG)["content"]]})
    assert said["systemInstruction"]["parts"] == [{"text": "Look:"}]
    assert said["contents"][0]["parts"] == [
        {"text": "Look:"},
        {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
    ]


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_request_without_a_word_is_refused_before_a_call(role: str) -> None:
    said = request({"role": role, "content": " "}, {"role": "user", "content": ""})
    with pytest.raises(InvalidRequest, match="all messages of the request are blank"):
        check_supported(said, model=BUDGETED)
    with pytest.raises(InvalidRequest, match="all messages of the request are blank"):
        request_body(said, model=BUDGETED)


def test_a_history_that_was_cut_off_before_a_call_begins_with_the_user() -> None:
    contents = body({"role": "system", "content": "A"}, calls(("a", "f")), result("a"))["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user"]
    assert contents[0]["parts"] == [{"text": OPENING}]


def test_a_call_that_follows_on_words_is_of_the_same_turn() -> None:
    said = {"role": "assistant", "content": "Let me look."}
    contents = turns(said, calls(("a", "f")), result("a"), calls(("b", "f")), result("b"))
    assert [content["role"] for content in contents] == ["model", "user", "model", "user"]
    assert [sorted(part) for part in contents[0]["parts"]] == [["text"], ["functionCall"]]


def test_kept_parts_are_not_changed_by_a_turn_that_is_continued() -> None:
    kept = [{"text": "a", "thoughtSignature": "s"}]
    said = {"role": "assistant", "content": "a", "provider_data": {"google": {"parts": kept}}}
    asked = request({"role": "user", "content": "Hi"}, said, calls(("a", "f")), result("a"))
    assert request_body(asked, model=BUDGETED) == request_body(asked, model=BUDGETED)


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
    contents = turns(calls(("a", "f"), ("b", "g")), result("b", "2"), result("a", '{"x": [1]}'))
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
    contents = turns(calls(("a", "f")), result("a"), calls(("a", "g")), result("a"))
    assert [contents[at]["parts"][0]["functionResponse"]["name"] for at in (1, 3)] == ["f", "g"]


def test_a_result_without_its_call_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'x'"):
        turns(calls(("a", "f")), result("x"))


@pytest.mark.parametrize("text", ["", " \n", "null", " null "])
def test_no_arguments_are_an_empty_object(text: str) -> None:
    assert turns(calls(("a", "f"), arguments=text))[0]["parts"][0]["functionCall"]["args"] == {}


@pytest.mark.parametrize("text", ["no json", "[1]", '"x"', "NaN", '{"x": NaN}', '{"x": '])
def test_arguments_that_are_no_object_are_kept_as_text(text: str) -> None:
    args = turns(calls(("a", "f"), arguments=text))[0]["parts"][0]["functionCall"]["args"]
    assert args == {"arguments": text}


@pytest.mark.parametrize("text", ["", "42", "[1]", "plain"])
def test_a_result_that_is_no_object_is_the_output(text: str) -> None:
    contents = turns(calls(("a", "f")), result("a", [{"type": "text", "text": text}]))
    assert contents[1]["parts"][0]["functionResponse"]["response"] == {"output": text}


def test_only_the_first_call_of_another_provider_needs_a_stand_in_for_its_signature() -> None:
    parts = turns(calls(("a", "f"), ("b", "g")), model=LEVELLED)[0]["parts"]
    assert ["thoughtSignature" in part for part in parts] == [True, False]


def test_kept_parts_go_back_untouched() -> None:
    kept = [{"text": "a", "thoughtSignature": "s"}, {"functionCall": {"name": "f", "args": {}}}, {"unknown": 1}]
    said = calls(("call_1", "f"), provider_data={"google": {"parts": kept}})
    contents = turns(said, result("call_1"), model=LEVELLED)
    assert contents[0] == {"role": "model", "parts": kept}
    assert contents[1]["parts"] == [{"functionResponse": {"name": "f", "response": {"output": "ok"}}}]


@pytest.mark.parametrize(
    "data",
    [
        {"google": {"parts": [{"text": "a", "thoughtSignature": "s"}]}},
        {"google": {"parts": ["text"]}},
        {"google": {"parts": []}},
        {"google": {"parts": 1}},
        {"google": 1},
        {"anthropic": {"parts": [{"functionCall": {"name": "f"}}]}},
    ],
)
def test_kept_parts_of_another_turn_are_not_sent(data: dict[str, Any]) -> None:
    parts = turns(calls(("a", "f"), provider_data=data))[0]["parts"]
    assert parts == [{"functionCall": {"id": "a", "name": "f", "args": {}}}]


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("data:image/PNG;base64,iVBO+/w=", {"inlineData": {"mimeType": "image/png", "data": "iVBO+/w="}}),
        ("data:image/jpg;base64,/9j/", {"inlineData": {"mimeType": "image/jpeg", "data": "/9j/"}}),
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


@pytest.mark.parametrize("url", ["data:image/png;base64", "data:image/png;base64,", "data:image/png;base64,*"])
def test_a_data_url_without_data_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="no data in base64"):
        body(image(url))


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


def test_an_answer_with_no_kept_parts_is_its_text() -> None:
    said = {"role": "assistant", "content": "Hi", "provider_data": {"google": {"parts": []}}}
    assert turns(said) == [{"role": "model", "parts": [{"text": "Hi"}]}]


def test_tools_have_json_schemas() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "string"}}}
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
        (BUDGETED, {"tool_choice": "required"}, "tool_choice is ignored"),
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
