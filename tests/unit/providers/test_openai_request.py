"""Our vocabulary in OpenAI's format: what OpenAI gets, and what each other server that speaks it."""

from typing import Any

import pytest

from contracts.errors import InvalidRequest
from contracts.requests import CompletionRequest
from workers.providers.openai.request import check, ignored, request_body
from workers.providers.openai.servers import Server, server_at, server_of_azure

ASKED = {"role": "user", "content": "Hi"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
OPENAIS, GATEWAY = ("api.openai.com", "gpt-5"), ("gateway.example.org", "gpt-5")
DEEPSEEK, GEMINI = ("api.deepseek.com", "deepseek-v4"), ("generativelanguage.googleapis.com", "gemini-3-flash")
GROQ, MISTRAL, VLLM = ("api.groq.com", "qwen3"), ("api.mistral.ai", "magistral-small"), ("127.0.0.1", "qwen3")
LONG = "call_" + "c2lnbmF0dXJl" * 20


def request(*messages: dict[str, Any], **fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate(
        {"id": "r", "tenant": "t", "agent": "a", "model": "openai/x", "messages": messages or (ASKED,), **fields}
    )


def body(*messages: dict[str, Any], server: Server | tuple[str, str] = OPENAIS, **fields: Any) -> dict[str, Any]:
    at = server if isinstance(server, Server) else server_at(server[0], model=server[1])
    return request_body(
        request(*messages, **fields), model="m", max_tokens_field="max_tokens", stream_options=None, server=at
    )


def sent(*messages: dict[str, Any], server: Server | tuple[str, str] = OPENAIS, **fields: Any) -> list[dict[str, Any]]:
    return body(*messages, server=server, **fields)["messages"]


def called(*ids: str, **fields: Any) -> dict[str, Any]:
    calls = [{"id": id_, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id_ in ids or ("c1",)]
    return {"role": "assistant", "content": None, "tool_calls": calls, **fields}


def answered(call: str = "c1", content: Any = "42") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": content}


def kept(provider: str = "openai", **fields: Any) -> dict[str, Any]:
    return {"provider_data": {provider: fields}}


@pytest.mark.parametrize(
    ("server", "field"),
    [
        (OPENAIS, None),
        (GATEWAY, None),
        (DEEPSEEK, "reasoning_content"),
        (VLLM, "reasoning_content"),
        (GROQ, None),
        (MISTRAL, None),
        (("gateway.example.org", "mistralai/mistral-large"), None),
    ],
)
def test_reasoning_goes_back_with_tool_calls_to_servers_that_may_want_it(
    server: tuple[str, str], field: str | None
) -> None:
    message = sent(ASKED, called(reasoning="Hm."), answered(), server=server)[1]
    assert {name: message[name] for name in ("reasoning", "reasoning_content") if name in message} == (
        {field: "Hm."} if field else {}
    )


@pytest.mark.parametrize("server", [OPENAIS, GATEWAY, DEEPSEEK, GROQ, MISTRAL, VLLM])
def test_reasoning_of_a_plain_turn_stays_here(server: tuple[str, str]) -> None:
    message = {"role": "assistant", "content": "Yes", "reasoning": "Hm."}
    assert sent(ASKED, message, server=server)[1] == {"role": "assistant", "content": "Yes"}


@pytest.mark.parametrize(
    ("server", "named", "field"),
    [
        (OPENAIS, "reasoning_content", None),
        (GATEWAY, "reasoning", "reasoning"),
        (DEEPSEEK, "reasoning_content", "reasoning_content"),
        (VLLM, "reasoning", "reasoning"),
        (GROQ, "reasoning", "reasoning"),
        (GROQ, "reasoning_content", None),
        (MISTRAL, "reasoning_content", None),
    ],
)
@pytest.mark.parametrize("calls", [True, False])
def test_reasoning_goes_back_in_the_field_that_it_came_in(
    server: tuple[str, str], named: str, field: str | None, calls: bool
) -> None:
    said = called(reasoning="Hm.", **kept(reasoning_field=named))
    message = sent(ASKED, said if calls else {**said, "content": "Yes", "tool_calls": None}, server=server)[1]
    assert [name for name in ("reasoning", "reasoning_content") if name in message] == ([field] if field else [])


def test_every_call_of_a_thinking_model_has_the_field() -> None:
    """DeepSeek refuses a call that nothing was thought before when the field is missing, Moonshot when it is empty."""
    messages = sent(ASKED, called(reasoning="Hm."), answered(), called(), answered(), server=DEEPSEEK)
    assert [message.get("reasoning_content") for message in messages] == [None, "Hm.", None, " ", None]
    assert "reasoning_content" not in str(sent(ASKED, called(), answered(), server=DEEPSEEK))


@pytest.mark.parametrize(
    ("option", "server", "field"),
    [
        (None, DEEPSEEK, None),
        ("reasoning", VLLM, "reasoning"),
        ("reasoning_content", GROQ, "reasoning_content"),
        ("reasoning", GATEWAY, "reasoning"),
    ],
)
def test_an_option_says_where_reasoning_goes_back(
    option: str | None, server: tuple[str, str], field: str | None
) -> None:
    options = {"openai": {"reasoning_field": option}}
    check(request(provider_options=options), provider="openai")
    message = sent(ASKED, called(reasoning="Hm."), server=server, provider_options=options)[1]
    assert [name for name in ("reasoning", "reasoning_content") if name in message] == ([field] if field else [])


@pytest.mark.parametrize("option", ["thoughts", "", 1, [], {}])
def test_an_option_that_is_none_is_refused(option: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"provider_options\.openai\.reasoning_field"):
        check(request(provider_options={"openai": {"reasoning_field": option}}), provider="openai")


def test_fields_that_a_server_added_go_back_to_it() -> None:
    signed = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    details = [{"type": "reasoning.encrypted", "data": "ZGF0YQ=="}]
    said = called("a", "b", **kept(message={"reasoning_details": details}, tool_calls=[signed]))
    message = sent(ASKED, said, server=VLLM)[1]
    assert message["reasoning_details"] == details
    first, second = message["tool_calls"]
    assert first == {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}, **signed}
    assert second == {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("server", [OPENAIS, server_of_azure(["gpt-4o"]), server_of_azure(["mine", "o4-mini"])])
def test_openai_gets_none_of_them(server: Server | tuple[str, str]) -> None:
    fields = {"reasoning_field": "reasoning", "message": {"x": 1}, "tool_calls": [{"y": 1}]}
    said = called(reasoning="Hm.", provider_data={"openai": fields, "azure": fields})
    assert sent(ASKED, said, server=server)[1] == called()


@pytest.mark.parametrize("names", [["DeepSeek-V3.2"], ["mine"]])
def test_azure_gives_back_what_its_server_named(names: list[str]) -> None:
    server = server_of_azure(names)
    fields = kept("azure", reasoning_field="reasoning_content", tool_calls=[{"y": 1}])
    message = sent(ASKED, called(reasoning="Hm.", **fields), server=server)[1]
    assert (message["reasoning_content"], message["tool_calls"][0]["y"]) == ("Hm.", 1)
    assert sent(ASKED, called(reasoning="Hm."), server=server)[1] == called()


@pytest.mark.parametrize(
    "data",
    [
        {"anthropic": {"message": {"x": 1}}},
        {"azure": {"message": {"x": 1}}},
        {"openai": None},
        {"openai": ["x"]},
        {"openai": {"message": ["x"], "tool_calls": {"x": 1}, "reasoning_field": ["reasoning"]}},
        {"openai": {"message": "x", "tool_calls": ["x"], "reasoning_field": {}}},
        {"openai": {"tool_calls": [{"x": 1}, {"x": 2}], "reasoning_field": "role"}},
        {"openai": {"message": {"role": "system", "content": "x", "tool_calls": [], "tool_call_id": "x", "name": "x"}}},
        {"openai": {"tool_calls": [{"id": "x", "type": "x", "function": {}, "index": 9}]}},
    ],
)
def test_data_of_another_form_or_of_others_is_passed_over(data: dict[str, Any]) -> None:
    assert sent(ASKED, called(provider_data=data), server=VLLM)[1] == called()


def test_gemini_takes_calls_of_others_with_a_stand_in_for_their_signature() -> None:
    first, second = sent(ASKED, called("a", "b"), server=GEMINI)[1]["tool_calls"]
    assert first["extra_content"] == {"google": {"thought_signature": "skip_thought_signature_validator"}}
    assert "extra_content" not in second
    signed = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    own = sent(ASKED, called("a", **kept(tool_calls=[signed])), server=GEMINI)[1]["tool_calls"]
    assert own[0]["extra_content"] == signed["extra_content"]
    older = sent(ASKED, called("a"), server=(GEMINI[0], "gemini-2.5-flash"))[1]["tool_calls"]
    assert "extra_content" not in older[0]


@pytest.mark.parametrize("server", [OPENAIS, GATEWAY, DEEPSEEK])
@pytest.mark.parametrize("calls", [None, []])
def test_answers_without_calls_have_no_list_of_them(server: tuple[str, str], calls: Any) -> None:
    said = {"role": "assistant", "content": "Yes", "tool_calls": calls}
    nothing = {"role": "assistant", "content": "", "reasoning": "Hm.", "tool_calls": calls}
    assert sent(ASKED, said, nothing, ASKED, server=server) == [ASKED, {"role": "assistant", "content": "Yes"}, ASKED]


def test_a_request_without_any_message_to_send_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no message of the request"):
        check(request({"role": "assistant", "content": None}), provider="openai")
    check(request({"role": "user", "content": ""}), provider="openai")


@pytest.mark.parametrize("choice", ["auto", "none", "required", {"type": "function", "function": {"name": "f"}}])
@pytest.mark.parametrize("tools", [None, []])
def test_a_choice_of_tools_needs_some(choice: Any, tools: Any) -> None:
    fields: dict[str, Any] = {"tool_choice": choice, "parallel_tool_calls": True}
    assert not {"tools", *fields} & body(tools=tools, **fields).keys()
    assert body(tools=TOOLS, **fields)["tool_choice"] == choice
    vendors = {"openai": {"tools": [{"type": "web_search"}]}}
    assert body(provider_options=vendors, **fields)["parallel_tool_calls"] is True


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"tool_choice": "required"}, 1),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": []}, 1),
        ({"tool_choice": "required", "tools": TOOLS}, 0),
        ({"tool_choice": "auto"}, 0),
        ({"parallel_tool_calls": True}, 0),
    ],
)
def test_a_choice_that_would_have_forced_a_call_is_ignored_aloud(fields: dict[str, Any], count: int) -> None:
    assert len(ignored(request(**fields), provider="openai")) == count


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
def test_text_parts_are_a_text_where_a_list_may_be_refused(role: str) -> None:
    parts = [{"type": "text", "text": text} for text in ("One.", "", "Two.")]
    message = answered(content=parts) if role == "tool" else {"role": role, "content": parts}
    assert sent(ASKED, called(), message, server=DEEPSEEK)[2]["content"] == "One.\nTwo."
    assert sent(ASKED, called(), message, server=OPENAIS)[2]["content"] == parts
    assert sent(ASKED, called(), {**message, "content": []}, server=OPENAIS)[2]["content"] == ""


@pytest.mark.parametrize("arguments", ["", " ", "null"])
def test_a_call_without_arguments_has_an_empty_object(arguments: str) -> None:
    said = called()
    said["tool_calls"][0]["function"]["arguments"] = arguments
    assert sent(ASKED, said, answered())[1]["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize(("name", "goes_out"), [("Bob", "Bob"), (" Bob Smith ", "Bob_Smith"), ("a<|>/b", "a_b")])
def test_a_name_goes_out_without_what_openai_refuses(name: str, goes_out: str) -> None:
    assert sent({**ASKED, "name": name})[0]["name"] == goes_out
    assert "name" not in sent({**ASKED, "name": " "})[0]


@pytest.mark.parametrize("parameters", [None, {}])
def test_a_tool_without_parameters_has_none_at_openai_and_an_empty_object_elsewhere(parameters: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    assert body(tools=tools)["tools"] == [{"type": "function", "function": {"name": "f"}}]
    (tool,) = body(tools=tools, server=MISTRAL)["tools"]
    assert tool["function"]["parameters"] == {"type": "object", "properties": {}}


def test_parts_beside_an_image_stay_and_its_label_is_the_registered_one() -> None:
    text = {"type": "text", "text": "What is it?"}
    image = {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,/9j/", "detail": "low"}}
    found = sent({"role": "user", "content": [text, image]}, server=DEEPSEEK)[0]["content"]
    assert found == [
        text,
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/", "detail": "low"}},
    ]


def test_a_refusal_is_a_text_where_only_openai_knows_it() -> None:
    said = {"role": "assistant", "content": None, "refusal": "No."}
    assert sent(ASKED, said, server=OPENAIS)[1] == said
    assert sent(ASKED, said, server=VLLM)[1] == {"role": "assistant", "content": "No."}


@pytest.mark.parametrize(
    ("server", "call", "longest"),
    [
        (OPENAIS, LONG, 40),
        (GATEWAY, LONG, 40),
        (server_of_azure(["gpt-4o"]), LONG, 40),
        (server_of_azure(["mine"]), LONG, 40),
        (server_of_azure(["Mistral-Large-3"]), "call_1", 9),
        (MISTRAL, "call_1", 9),
    ],
)
def test_an_id_that_a_server_refuses_becomes_another_one_everywhere(server: Any, call: str, longest: int) -> None:
    said = sent(ASKED, called(call, f"{call}2"), answered(call), answered(f"{call}2"), server=server)
    ids = [made["id"] for made in said[1]["tool_calls"]]
    assert [len(id_) for id_ in ids] == [longest, longest]
    assert len(set(ids)) == 2
    assert ids == [message["tool_call_id"] for message in said[2:]]


@pytest.mark.parametrize(
    ("server", "call"),
    [(OPENAIS, "x" * 40), (VLLM, LONG), (GEMINI, LONG), (DEEPSEEK, "functions.f:0"), (MISTRAL, "aB3xK9mP2")],
)
def test_an_id_that_a_server_takes_goes_back_as_it_came(server: tuple[str, str], call: str) -> None:
    said = sent(ASKED, called(call), answered(call), server=server)
    assert (said[1]["tool_calls"][0]["id"], said[2]["tool_call_id"]) == (call, call)


@pytest.mark.parametrize("text", ["\x00", "\ufffd", "\U0001f600"])
def test_odd_characters_are_sent_as_they_are(text: str) -> None:
    assert sent({"role": "user", "content": [{"type": "text", "text": text}]}, server=VLLM)[0]["content"] == text
