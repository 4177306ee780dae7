"""Subjects, as the contract spells them, and what may never enter one."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import subjects
from contracts.subjects import Priority, Provider, RequestAddress, RpcMethod
from tests.contract.test_bad_input import BAD_TOKENS

TOKENS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@pytest.mark.parametrize(
    ("built", "spelled"),
    [
        (subjects.request("openai", Priority.INTERACTIVE, "acme"), "llm.v1.request.openai.interactive.acme"),
        (subjects.request("auto", Priority.BACKGROUND, "acme"), "llm.v1.request.auto.background.acme"),
        (subjects.reply("acme", "planner-1", "r_1"), "llm.v1.reply.acme.planner-1.r_1"),
        (subjects.replies_of_agent("acme", "planner-1"), "llm.v1.reply.acme.planner-1.*"),
        (subjects.cancel("acme"), "llm.v1.control.acme.cancel"),
        (subjects.resume("acme"), "llm.v1.control.acme.resume"),
        (subjects.rpc("openai", RpcMethod.COUNT_TOKENS, "acme"), "llm.v1.rpc.openai.count_tokens.acme"),
        (subjects.all_rpcs("openai"), "llm.v1.rpc.openai.*.*"),
        (subjects.usage("openai", "acme"), "llm.v1.usage.openai.acme"),
        (subjects.dead("openai", "acme"), "llm.v1.dead.openai.acme"),
        (subjects.notice("budget", "acme"), "llm.v1.notice.budget.acme"),
        (subjects.inbox_prefix("acme"), "_INBOX_acme"),
        (subjects.config_key_of_tenant("acme"), "tenant.acme"),
        (subjects.config_key_of_provider("acme", "openai"), "provider.acme.openai"),
    ],
)
def test_is_spelled_as_the_contract_does(built: str, spelled: str) -> None:
    assert built == spelled


BUILDERS: list[Callable[[str], str]] = [
    lambda t: subjects.request(t, Priority.INTERACTIVE, "acme"),
    lambda t: subjects.request("openai", Priority.INTERACTIVE, t),
    lambda t: subjects.reply(t, "a", "r"),
    lambda t: subjects.reply("acme", t, "r"),
    lambda t: subjects.reply("acme", "a", t),
    lambda t: subjects.replies_of_agent(t, "a"),
    lambda t: subjects.replies_of_agent("acme", t),
    subjects.cancel,
    subjects.resume,
    lambda t: subjects.rpc(t, RpcMethod.HEALTH, "acme"),
    lambda t: subjects.rpc("openai", RpcMethod.HEALTH, t),
    subjects.all_rpcs,
    lambda t: subjects.usage(t, "acme"),
    lambda t: subjects.usage("openai", t),
    lambda t: subjects.dead(t, "acme"),
    lambda t: subjects.dead("openai", t),
    lambda t: subjects.notice(t, "acme"),
    lambda t: subjects.notice("budget", t),
    subjects.inbox_prefix,
    subjects.config_key_of_tenant,
    lambda t: subjects.config_key_of_provider(t, "openai"),
    lambda t: subjects.config_key_of_provider("acme", t),
]


@pytest.mark.parametrize("bad", BAD_TOKENS)
@pytest.mark.parametrize("build", BUILDERS)
def test_no_token_can_widen_or_split_a_subject(build: Callable[[str], str], bad: str) -> None:
    with pytest.raises(ValueError, match="not a subject token"):
        build(bad)


@given(provider=st.sampled_from([*Provider, "auto"]), priority=st.sampled_from(Priority), tenant=TOKENS)
def test_a_request_subject_is_read_as_it_was_built(provider: str, priority: Priority, tenant: str) -> None:
    built = subjects.request(provider, priority, tenant)
    assert subjects.parse_request(built) == RequestAddress(provider, priority, tenant)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "llm.v1.request.openai.interactive",
        "llm.v1.request.openai.interactive.acme.extra",
        "llm.v1.request.openai.interactive.*",
        "llm.v1.request.openai.interactive.a b",
        "llm.v1.request.openai.interactive.",
        "llm.v1.request.openai.urgent.acme",
        "llm.v1.request.bedrock.interactive.acme",
        "llm.v2.request.openai.interactive.acme",
        "llm.v1.reply.openai.interactive.acme",
    ],
)
def test_a_subject_that_is_no_request_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match=r"request subject|valid|token"):
        subjects.parse_request(subject)


@given(tenant=TOKENS, method=st.sampled_from(RpcMethod))
def test_control_and_rpc_subjects_tell_their_tenant(tenant: str, method: RpcMethod) -> None:
    assert subjects.tenant_of_control(subjects.cancel(tenant)) == tenant
    assert subjects.method_and_tenant_of_rpc(subjects.rpc("openai", method, tenant)) == (method, tenant)
