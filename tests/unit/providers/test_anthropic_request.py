"""A request in the format of Anthropic's Messages API."""

from typing import Any

import pytest

from contracts.errors import InvalidRequest, UnsupportedFeature
from contracts.requests import CompletionRequest
from workers.providers.anthropic.request import MessagesRequest, arguments_object, check, messages_request
from workers.providers.shared.requests.turns import OPENING

HI = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
THOUGHTS = [
    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "ZGF0YQ=="},
    {"type": "tool_use", "id": "c1", "name": "f", "input": {}},
]


def request(*messages: dict[str, Any], **fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate(
        {"id": "r", "tenant": "t", "agent": "a", "model": "anthropic/m", "messages": messages or (HI,), **fields}
    )


def asked(*messages: dict[str, Any], model: str = "claude-opus-4-6", **fields: Any) -> MessagesRequest:
    return messages_request(request(*messages, **fields), model=model)


def turns(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return asked(*messages).body["messages"]


def call(arguments: str = "{}", **fields: Any) -> dict[str, Any]:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}]
    return {"role": "assistant", "content": None, "tool_calls": calls, **fields}


def result(content: Any = "42", id: str = "c1") -> dict[str, Any]:  # noqa: A002
    return {"role": "tool", "tool_call_id": id, "content": content}


def test_system_messages_go_in_front() -> None:
    body = asked({"role": "system", "content": "A"}, HI, {"role": "developer", "content": "B"}).body
    assert body["system"] == [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


def test_blank_texts_are_left_out() -> None:
    empty = {"role": "assistant", "content": ""}
    parts = {"role": "user", "content": [{"type": "text", "text": " \n"}, {"type": "text", "text": "x"}]}
    assert turns({"role": "system", "content": ""}, HI, empty, parts) == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "x"}]}
    ]


def test_system_messages_alone_are_what_the_user_says() -> None:
    body = asked({"role": "system", "content": "Say hello."}, {"role": "developer", "content": "Twice."}).body
    assert "system" not in body
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Say hello."}, {"type": "text", "text": "Twice."}]}
    ]


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_request_without_a_word_is_refused_before_a_call(role: str) -> None:
    said = request({"role": role, "content": "\n"}, {"role": "user", "content": [{"type": "text", "text": ""}]})
    with pytest.raises(InvalidRequest, match="all messages of the request are blank"):
        check(said)
    with pytest.raises(InvalidRequest, match="all messages of the request are blank"):
        messages_request(said, model="claude-opus-4-6")


def test_a_history_that_was_cut_off_begins_with_the_user() -> None:
    found = turns(call(), result(), HI)
    assert [turn["role"] for turn in found] == ["user", "assistant", "user"]
    assert found[0]["content"] == [{"type": "text", "text": OPENING}]


def test_results_of_parallel_calls_are_one_turn_and_come_first() -> None:
    found = turns(HI, call(), HI, result("a"), result("b", id="c2"))
    assert [turn["role"] for turn in found] == ["user", "assistant", "user"]
    assert [block["type"] for block in found[2]["content"]] == ["tool_result", "tool_result", "text"]
    assert [block.get("content") for block in found[2]["content"]] == ["a", "b", None]


def test_a_result_of_parts_keeps_them() -> None:
    found = turns(HI, call(), result([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))
    assert found[2]["content"][0]["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def test_ids_of_other_vendors_become_ids_that_the_api_takes() -> None:
    calls = [{"id": "functions.f:0", "type": "function", "function": {"name": "f.g", "arguments": ""}}]
    found = turns(HI, {"role": "assistant", "content": None, "tool_calls": calls}, result(id="functions.f:0"))
    assert found[1]["content"] == [{"type": "tool_use", "id": "functions_f_0_d6bdd4de", "name": "f_g", "input": {}}]
    assert found[2]["content"][0]["tool_use_id"] == "functions_f_0_d6bdd4de"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        ("{broken", {"INVALID_JSON": "{broken"}),
        ("[1]", {"INVALID_JSON": "[1]"}),
        ("null", {}),
        ('{"a": NaN}', {"INVALID_JSON": '{"a": NaN}'}),
        ('{"a": "\\ud83d"}', {"INVALID_JSON": '{"a": "\\ud83d"}'}),
    ],
)
def test_arguments_become_an_object(text: str, value: dict[str, Any]) -> None:
    assert arguments_object(text) == value


def test_thoughts_go_back_untouched() -> None:
    turn = call(content="ignored", reasoning="Hm.", provider_data={"anthropic": {"content": THOUGHTS}})
    assert turns(HI, turn, result())[1]["content"] == THOUGHTS


def test_an_id_of_a_call_that_goes_back_untouched_stays_in_its_result() -> None:
    block = {"type": "tool_use", "id": "functions.f:0", "name": "f", "input": {}}
    calls = [{"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    kept = {"anthropic": {"content": [block]}}
    said = {"role": "assistant", "content": None, "tool_calls": calls, "provider_data": kept}
    found = turns(HI, said, result(id="functions.f:0"))
    assert found[1]["content"] == [block]
    assert found[2]["content"][0]["tool_use_id"] == "functions.f:0"


def test_ids_that_differ_only_in_what_the_api_refuses_stay_two() -> None:
    calls = [{"id": id_, "type": "function", "function": {"name": "f", "arguments": ""}} for id_ in ("a:b", "a.b")]
    said = {"role": "assistant", "content": None, "tool_calls": calls}
    found = turns(HI, said, result("1", id="a:b"), result("2", id="a.b"))
    ids = [block["id"] for block in found[1]["content"]]
    assert len(set(ids)) == 2
    assert [block["tool_use_id"] for block in found[2]["content"]] == ids


@pytest.mark.parametrize(
    "content",
    [
        THOUGHTS[:2],
        [*THOUGHTS[:2], {**THOUGHTS[2], "id": "c2"}],
        [*THOUGHTS[:2], {**THOUGHTS[2], "id": ["c1"]}],
        [*THOUGHTS, {**THOUGHTS[2], "id": "c2"}],
        [{"x": 1}],
    ],
    ids=["without the call", "with another call", "with an odd id", "with one more", "without a type"],
)
def test_blocks_that_make_other_calls_than_the_message_stay_here(content: list[Any]) -> None:
    said = call(content="Yes", provider_data={"anthropic": {"content": content}})
    assert [block["type"] for block in turns(HI, said, result())[1]["content"]] == ["text", "tool_use"]


@pytest.mark.parametrize("content", [["text"], [1, None], [{"type": "text", "text": 5}], {"a": 1}, "text"])
def test_odd_data_breaks_nothing(content: Any) -> None:
    assert turns(HI, {"role": "assistant", "content": "Yes", "provider_data": {"anthropic": {"content": content}}})


@pytest.mark.parametrize("data", [{"google": {"content": THOUGHTS}}, {"anthropic": {}}, {"anthropic": {"content": []}}])
def test_data_of_others_is_ignored(data: dict[str, Any]) -> None:
    assert turns(HI, call(provider_data=data), result())[1]["content"] == [
        {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
    ]


def test_a_begun_reply_ends_without_white_space() -> None:
    assert turns(HI, {"role": "assistant", "content": "It is: \n"})[1]["content"][0]["text"] == "It is:"


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("https://example.org/a", {"type": "url", "url": "https://example.org/a"}),
        ("data:image/png;base64,QQ==", {"type": "base64", "media_type": "image/png", "data": "QQ=="}),
        ("data:image/JPG;name=a;base64,QQ==", {"type": "base64", "media_type": "image/jpeg", "data": "QQ=="}),
        ("data:image/pjpeg;base64,Q Q", {"type": "base64", "media_type": "image/jpeg", "data": "QQ=="}),
        ("data:image/gif,GIF89a", {"type": "base64", "media_type": "image/gif", "data": "R0lGODlh"}),
    ],
)
def test_images_have_a_source(url: str, source: dict[str, str]) -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    assert turns(image)[0]["content"] == [{"type": "image", "source": source}]


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, {"type": "tool", "name": "f"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"type": "any", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": True}, None),
        ({}, None),
    ],
)
def test_tool_choice(fields: dict[str, Any], choice: dict[str, Any] | None) -> None:
    assert asked(tools=[TOOL], **fields).body.get("tool_choice") == choice


@pytest.mark.parametrize("tools", [None, []])
@pytest.mark.parametrize("fields", [{"tool_choice": "auto"}, {"tool_choice": "none"}, {"parallel_tool_calls": False}])
def test_no_choice_without_tools(fields: dict[str, Any], tools: list[Any] | None) -> None:
    found = asked(tools=tools, **fields)
    assert not {"tools", "tool_choice"} & found.body.keys()
    assert found.warnings == ()


def test_a_choice_that_would_have_forced_a_tool_is_ignored_aloud() -> None:
    found = asked(tool_choice="required", model="claude-sonnet-4-5", reasoning_effort="low")
    assert "tool_choice" not in found.body
    assert found.body["thinking"]
    assert found.warnings == ("anthropic takes no tool_choice without tools; it was ignored",)


def test_a_choice_among_tools_of_the_vendors_own_is_sent() -> None:
    search = {"anthropic": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}}
    assert asked(tool_choice="required", provider_options=search).body["tool_choice"] == {"type": "any"}


def test_a_tool_without_parameters_takes_an_object() -> None:
    assert asked(tools=[TOOL]).body["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "config"),
    [
        ("claude-opus-4-6", "low", {"type": "adaptive"}, {"effort": "low"}),
        ("claude-sonnet-5-5", "max", {"type": "adaptive"}, {"effort": "max"}),
        ("claude-sonnet-5-5", "minimal", {"type": "adaptive"}, {"effort": "low"}),
        ("claude-sonnet-5-5", "none", {"type": "disabled"}, None),
        ("claude-sonnet-4-5", "minimal", {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-sonnet-4-5", "high", {"type": "enabled", "budget_tokens": 16384}, None),
        ("claude-opus-4-1", "max", {"type": "enabled", "budget_tokens": 16000}, None),
        ("claude-3-5-haiku-latest", "high", None, None),
        ("claude-3-5-haiku-latest", "none", None, None),
        ("claude-sonnet-5-5", None, None, None),
    ],
)
def test_reasoning_effort(model: str, effort: str | None, thinking: dict[str, Any] | None, config: Any) -> None:
    body = asked(model=model, reasoning_effort=effort).body
    assert (body.get("thinking"), body.get("output_config")) == (thinking, config)


@pytest.mark.parametrize(
    ("model", "messages", "fields", "why"),
    [
        ("claude-3-haiku-20240307", [HI], {}, "the model cannot"),
        ("claude-opus-5-5", [HI], {"tools": [TOOL], "tool_choice": "required"}, "tool_choice forces a tool"),
        ("claude-sonnet-4-5", [HI], {"max_tokens": 2000}, "max_tokens leaves no room"),
        ("claude-sonnet-4-5", [HI, call(), result()], {}, "another vendor"),
    ],
)
def test_says_why_it_does_not_think(model: str, messages: list[Any], fields: dict[str, Any], why: str) -> None:
    found = asked(*messages, model=model, reasoning_effort="high", **fields)
    assert "thinking" not in found.body
    assert why in found.warnings[0]


def test_an_option_max_tokens_that_is_no_number_is_left_to_the_vendor() -> None:
    options = {"anthropic": {"max_tokens": "2000"}}
    body = asked(model="claude-sonnet-4-5", reasoning_effort="low", provider_options=options).body
    assert (body["max_tokens"], body["thinking"]) == ("2000", {"type": "enabled", "budget_tokens": 2048})


def test_goes_on_thinking_where_it_thought_before() -> None:
    turn = call(provider_data={"anthropic": {"content": THOUGHTS}})
    found = asked(HI, turn, result(), model="claude-sonnet-4-5", reasoning_effort="low")
    assert found.body["thinking"]["type"] == "enabled"


def test_a_schema_is_fitted_to_what_is_enforced() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    found = asked(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    sent = found.body["output_config"]["format"]["schema"]
    assert sent["additionalProperties"] is False
    assert sent["properties"]["n"] == {"type": "integer", "description": "{minimum: 1}"}
    assert "descriptions" in found.warnings[0]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
        {"type": "object", "properties": {"map": {"type": "object", "additionalProperties": {"type": "string"}}}},
        {"type": "object", "properties": {"anything": {}}},
    ],
    ids=["fits", "would lose its keys", "cannot be fitted"],
)
def test_a_schema_that_would_change_its_meaning_stays(schema: dict[str, Any]) -> None:
    found = asked(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert found.body["output_config"]["format"] == {"type": "json_schema", "schema": schema}
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("claude-3-opus-20240229", 4096),
        ("claude-3-5-sonnet-20241022", 8192),
        ("claude-3-7-sonnet-latest", 64_000),
        ("claude-opus-4-20250514", 32_000),
        ("anthropic.claude-opus-4-1-20250805-v1:0", 32_000),
        ("claude-4-sonnet-20250514", 64_000),
        ("claude-opus-4-5-20251101", 64_000),
        ("claude-haiku-4-5@20251001", 64_000),
        ("anthropic/claude-sonnet-4.6", 128_000),
        ("claude-opus-5-5", 128_000),
        ("claude-haiku-5-5", 64_000),
        ("claude-mythos-preview", 64_000),
        ("glm-5", 8192),
    ],
)
def test_the_output_is_bounded_by_what_the_model_can_say(model: str, most: int) -> None:
    assert asked(model=model).body["max_tokens"] == most
    assert asked(model=model, max_tokens=5).body["max_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"response_format": {"type": "json_object"}}, "json_schema"),
        ({"tools": [{"type": "function", "function": {"name": "a.b"}}]}, "'a.b'"),
    ],
)
def test_what_the_api_cannot_do_is_refused_before_a_call(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(UnsupportedFeature, match=what):
        check(request(**fields))


@pytest.mark.parametrize(
    "url", ["http://example.org/a.png", "data:image/svg+xml;base64,QQ==", "data:image/png;base64,*"]
)
def test_images_that_the_api_does_not_take_are_refused(url: str) -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    with pytest.raises(UnsupportedFeature, match="image"):
        check(request(image))


@pytest.mark.parametrize(
    "options",
    [{"cache": "system"}, {"cache": ["somewhere"]}, {"cache_ttl": "1d"}, {"betas": "x"}, {"betas": ["a\r\nb"]}],
)
def test_options_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"provider_options\.anthropic"):
        check(request(provider_options={"anthropic": options}))


def test_a_cache_mark_without_a_place_is_no_error() -> None:
    body = asked(provider_options={"anthropic": {"cache": ["system", "tools"]}}).body
    assert "cache_control" not in str(body)


def test_names_and_details_are_ignored_aloud() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "https://example.org/a", "detail": "low"}}]
    found = asked({"role": "user", "content": parts, "name": "bob"})
    assert found.warnings == (
        "anthropic takes no name of a message; it was ignored",
        "anthropic takes no detail of an image; it was ignored",
    )


def test_a_null_leaves_a_field_out_but_not_the_output_limit() -> None:
    options = {"stop_sequences": None, "max_tokens": None}
    body = asked(stop=["END"], max_tokens=5, provider_options={"anthropic": options}).body
    assert "stop_sequences" not in body
    assert body["max_tokens"] == 5


def test_what_the_options_say_themselves_is_not_warned_of() -> None:
    options = {"temperature": 1, "thinking": {"type": "enabled", "budget_tokens": 2000}}
    found = asked(temperature=0.5, reasoning_effort="high", provider_options={"anthropic": options})
    assert found.warnings == ()
    assert (found.body["temperature"], found.body["thinking"]) == (1, options["thinking"])
