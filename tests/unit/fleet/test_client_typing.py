# pyright: reportUnnecessaryTypeIgnoreComment=true
"""The types of the client's calls. pyright checks this file in `make lint`: a wrong call has to be an error there, or
its comment is one; here the calls are made."""

import pytest

from contracts.errors import FleetError
from contracts.requests import AssistantMessage, Tool
from fleet import client, errors
from fleet.client import Client, MalformedRequest, RequestFields

CLIENT = Client(tenant="t", agent="a")
TOOL = Tool.model_validate({"function": {"name": "f"}})


def test_takes_what_a_request_may_hold() -> None:
    fields: RequestFields = {"max_tokens": 5, "stop": "."}
    CLIENT.stream("mock/echo", "Hi", **fields)
    CLIENT.stream("mock/echo", [{"role": "user", "content": "Hi"}, AssistantMessage(content="Ho")])
    CLIENT.stream(
        "mock/echo",
        "Hi",
        id="r1",
        priority="background",
        deadline_s=5,
        temperature=0.2,
        stop=[".", "!"],
        tools=[TOOL, {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}],
        tool_choice={"type": "function", "function": {"name": "g"}},
        response_format={"type": "json_object"},
        reasoning_effort="low",
        fallbacks=["openai/gpt-4o-mini"],
        on_interrupt="fail",
        provider_options={"mock": {"text": "x"}},
        metadata={"run": "42"},
    )


def test_refuses_what_no_request_holds() -> None:
    with pytest.raises(MalformedRequest):
        CLIENT.stream("mock/echo", "Hi", max_tokens="many")  # pyright: ignore[reportArgumentType]
    with pytest.raises(MalformedRequest):
        CLIENT.stream("mock/echo", "Hi", reasoning_effort="some")  # pyright: ignore[reportArgumentType]
    with pytest.raises(MalformedRequest):
        CLIENT.stream("mock/echo", "Hi", shouting=True)  # pyright: ignore[reportCallIssue]
    with pytest.raises(MalformedRequest):
        CLIENT.stream("mock/echo", "Hi", priority="soon")  # pyright: ignore[reportArgumentType]


async def test_complete_and_the_questions_refuse_it_too() -> None:
    with pytest.raises(MalformedRequest):
        await CLIENT.complete("mock/echo", "Hi", tools="f")  # pyright: ignore[reportArgumentType]
    with pytest.raises(MalformedRequest):
        await CLIENT.estimate_cost("mock/echo", "Hi", max_tokens="many")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("model", ["gpt-4o-mini", "fast"])
async def test_a_question_names_the_provider_that_is_asked(model: str) -> None:
    with pytest.raises(MalformedRequest, match="openai"):
        await CLIENT.count_tokens(model, "Hi")
    with pytest.raises(MalformedRequest, match="openai"):
        await CLIENT.models(model)


def test_every_error_can_be_imported_from_the_client() -> None:
    raised = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FleetError)}
    assert {getattr(client, kind.__name__) for kind in raised} == raised
    assert {kind.__name__ for kind in raised} <= set(client.__all__)
