"""Questions in floods: what is taken of them, what is kept, and that others are answered meanwhile."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import nats.errors
import pytest
from nats.aio.msg import Msg

from contracts import subjects
from contracts.events import Cancelled, Delta
from contracts.requests import MAX_REQUEST_BYTES
from contracts.rpc import MAX_SHORT_QUESTION_BYTES, Models
from contracts.subjects import RpcMethod
from contracts.wire import WireModel
from runtime.broker import Broker
from tests.driven_clock import DrivenClock
from tests.kit import Plane, connected, plane
from tests.patience import PATIENCE_S, until
from tests.servers import Vault
from workers.clock import Clock
from workers.control.question_feed import QuestionFeed
from workers.control.questions import Questions
from workers.control.rpc import Rpc

MODELS = subjects.rpc("mock", RpcMethod.MODELS, "acme")


class Hanging(Rpc):
    """The vendor of `mallory` answers nobody."""

    def __init__(self) -> None:
        self.questions: Questions | None = None
        self.asked = 0
        self.most_bytes = 0

    async def answer(self, provider: str, method: str, tenant: str, data: bytes, *, time_left_s: float) -> WireModel:
        self.asked += 1
        if self.questions is not None:
            self.most_bytes = max(self.most_bytes, self.questions.rpcs.held_bytes)
        if tenant == "mallory":
            await asyncio.Event().wait()
        return Models(models=())


class Scene:
    """A worker's questions, and an agent of each tenant on one connection."""

    def __init__(self, plane: Plane, broker: Broker) -> None:
        self.plane = plane
        self.agent = plane.client
        self.rpc = Hanging()
        self.questions = Questions(broker, self.rpc, providers=["mock", "openai"], tenants=list, clock=Clock())
        self.rpc.questions = self.questions
        self.answers: list[dict[str, Any]] = []

    async def flood(self, subject: str, payload: bytes, count: int) -> None:
        async def hear(msg: Msg) -> None:
            self.answers.append(json.loads(msg.data) if msg.data else {})

        inbox = self.agent.new_inbox()
        await self.agent.subscribe(inbox, cb=hear)
        for _ in range(count):
            await self.agent.publish(subject, payload, reply=inbox)
        await self.agent.flush(timeout=int(PATIENCE_S))

    async def ask(self, subject: str, payload: bytes = b"{}") -> dict[str, Any]:
        return json.loads((await self.agent.request(subject, payload, timeout=PATIENCE_S)).data)


@pytest.fixture
async def scene(nats_url: str, vault: Vault) -> AsyncGenerator[Scene]:
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(plane(nats_url, vault, "acme"))
        await control.make_streams()
        broker = await stack.enter_async_context(connected(nats_url))
        scene = Scene(control, broker)
        await scene.questions.subscribe()
        await subscribed(broker)
        stack.push_async_callback(scene.questions.close)
        yield scene


async def subscribed(broker: Broker) -> None:
    """Returns when the server has heard of all subscriptions: nats-py (2.16) lets a PING overtake them, but not two."""
    for _ in range(2):
        await broker.client.flush(timeout=int(PATIENCE_S))


def rpc(method: RpcMethod, tenant: str, *, provider: str = "mock") -> str:
    return subjects.rpc(provider, method, tenant)


async def test_a_tenant_whose_vendor_hangs_keeps_nobody_waiting(scene: Scene) -> None:
    reply = subjects.reply("acme", "a", "r1")
    await scene.agent.publish(reply, Cancelled(request_id="r1", attempt=1, seq=0).to_json())
    for provider in ("mock", "openai"):
        await scene.flood(rpc(RpcMethod.MODELS, "mallory", provider=provider), b"{}", 1000)

    assert await scene.ask(MODELS) == {"models": []}
    resumes = [
        scene.ask(subjects.resume("acme"), json.dumps({"request_id": "r1", "agent": "a"}).encode()) for _ in range(12)
    ]
    assert {answer["type"] for answer in await asyncio.gather(*resumes)} == {"cancelled"}
    held = scene.questions.rpcs.held
    assert held == 8 + 32, "of both pools together"
    assert scene.rpc.asked == 8 + 1
    await until(lambda: len(scene.answers) == 2000 - held)
    assert {(a["error"]["code"], a["error"]["retryable"], a["error"]["retry_after_s"]) for a in scene.answers} == {
        ("provider_unavailable", True, 1.0)
    }


async def test_a_flood_of_resumes_keeps_no_other_question_waiting(scene: Scene) -> None:
    await scene.flood(subjects.resume("mallory"), b'{"request_id": "r1", "agent": "a"}', 1000)

    assert await scene.ask(MODELS) == {"models": []}
    await until(lambda: len(scene.answers) == 1000)
    assert {answer["error"]["code"] for answer in scene.answers} <= {"provider_unavailable", "invalid_request"}


async def test_few_bytes_of_large_questions_are_kept(scene: Scene) -> None:
    question = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 7_000_000}]}).encode()

    subject = rpc(RpcMethod.COUNT_TOKENS, "mallory")
    await scene.flood(subject, question, 2)
    await until(lambda: scene.rpc.asked == 2)
    refusals = [await scene.ask(subject, question) for _ in range(20)]

    assert {refusal["error"]["code"] for refusal in refusals} == {"provider_unavailable"}
    assert scene.rpc.most_bytes <= 2 * MAX_REQUEST_BYTES
    assert scene.questions.rpcs.held == scene.rpc.asked == 2
    assert await scene.ask(MODELS) == {"models": []}


@pytest.mark.parametrize(
    "subject", [rpc(RpcMethod.MODELS, "acme"), rpc(RpcMethod.HEALTH, "acme"), subjects.resume("acme")]
)
async def test_a_question_that_is_too_long_is_not_read(scene: Scene, subject: str) -> None:
    answer = await scene.ask(subject, b"x" * (MAX_SHORT_QUESTION_BYTES + 1))

    assert answer["error"]["code"] == "malformed_request"
    assert "4097 bytes" in answer["error"]["message"]
    assert scene.rpc.asked == scene.questions.resumes.held == 0


async def test_a_stream_of_large_events_is_resumed_in_parts(scene: Scene) -> None:
    heard: list[bytes] = []

    async def hear(msg: Msg) -> None:
        heard.append(msg.data)

    for seq in range(8):
        event = Delta(request_id="r1", attempt=1, seq=seq, text="x" * 3_000_000)
        await scene.agent.publish(subjects.reply("acme", "a", "r1"), event.to_json())
        await scene.agent.flush(timeout=int(PATIENCE_S))
    inbox = scene.agent.new_inbox()
    await scene.agent.subscribe(inbox, cb=hear)
    await scene.agent.publish(subjects.resume("acme"), b'{"request_id": "r1", "agent": "a"}', reply=inbox)
    await until(lambda: b"" in heard)

    assert [json.loads(data)["seq"] for data in heard[:-1]] == list(range(8))


class Feed(QuestionFeed):
    """Of the questions for `mock`, with one known tenant; none is answered."""

    def __init__(self, broker: Broker, clock: DrivenClock) -> None:
        self.taken: list[str] = []
        subject = subjects.all_rpcs("mock")
        super().__init__(
            broker.client, subject, tenant_at=5, tenants=lambda: ["acme"], queue="q", take=self._note, clock=clock
        )

    async def _note(self, msg: Msg) -> None:
        self.taken.append(msg.subject.rpartition(".")[2])


@pytest.mark.parametrize("payload", [b"{}", b"x" * 6_000_000], ids=["many", "large"])
async def test_in_a_flood_the_server_holds_each_tenant_to_a_rate(nats_url: str, vault: Vault, payload: bytes) -> None:
    count = 300 if len(payload) < 10 else 3
    clock = DrivenClock()
    async with plane(nats_url, vault, "acme") as control, connected(nats_url) as broker:
        agent = control.client
        feed = Feed(broker, clock)
        await feed.open()
        await subscribed(broker)
        for _ in range(count):
            await agent.publish(rpc(RpcMethod.MODELS, "mallory"), payload)
        await until(lambda: len(feed.taken) == count)

        await feed.look()
        assert feed.flooded
        await subscribed(broker)
        for _ in range(count):
            await agent.publish(rpc(RpcMethod.MODELS, "mallory"), payload)
        await agent.publish(MODELS, b"{}")
        await until(lambda: "acme" in feed.taken)
        of_mallory = feed.taken[count:].count("mallory")
        assert of_mallory == (64 if count == 300 else 0), "large ones are a debt at first"

        for _ in range(20):
            clock.pass_by(seconds=1)
            await feed.look()
        assert not feed.flooded
        await subscribed(broker)
        await agent.publish(rpc(RpcMethod.MODELS, "trudy"), b"{}")
        await until(lambda: "trudy" in feed.taken)


def subscriptions(broker: Broker) -> list[str]:
    """To questions, as they are made anew at a reconnect."""
    subs = broker.client._subs.values()  # pyright: ignore[reportPrivateUsage]
    return sorted(sub.subject for sub in subs if sub.subject.startswith("llm.v1.rpc"))


async def test_a_subscription_that_could_not_be_drained_does_not_come_back(
    nats_url: str, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server under a flood may answer too late for it."""
    clock = DrivenClock()

    async def no_answer() -> None:
        raise nats.errors.TimeoutError

    async with plane(nats_url, vault, "acme") as control, connected(nats_url) as broker:
        feed = Feed(broker, clock)
        await feed.open()
        await subscribed(broker)
        for _ in range(300):
            await control.client.publish(rpc(RpcMethod.MODELS, "mallory"), b"{}")
        await until(lambda: len(feed.taken) == 300)
        with monkeypatch.context() as patch:
            patch.setattr(broker.client, "flush", no_answer)
            with pytest.raises(nats.errors.TimeoutError):
                await feed.look()

        subs = broker.client._subs.values()  # pyright: ignore[reportPrivateUsage]
        open_now = [sub.subject for sub in subs if sub.subject.startswith("llm.v1.rpc")]
        assert sorted(open_now) == [
            rpc(RpcMethod.MODELS, tenant).replace("models", "*") for tenant in ("acme", "mallory")
        ]

        with monkeypatch.context() as patch:
            patch.setattr(broker.client, "flush", no_answer)
            for _ in range(20):
                clock.pass_by(seconds=1)
                await feed.look()
        assert subscriptions(broker) == ["llm.v1.rpc.mock.*.*"]


async def test_nobody_answers_an_unknown_verb(scene: Scene) -> None:
    await scene.agent.publish("llm.v1.control.acme.dance", b"x" * 7_000_000)

    assert await scene.ask(MODELS) == {"models": []}
    assert scene.questions.resumes.held == 0


async def test_headers_that_are_too_long_are_not_read(nats_url: str, vault: Vault) -> None:
    heard: list[Msg] = []

    async def hear(msg: Msg) -> None:
        heard.append(msg)

    async with plane(nats_url, vault, "acme") as control, connected(nats_url) as broker:
        await broker.client.subscribe("x", cb=hear)
        await subscribed(broker)
        for size in (100, 200_000):
            await control.client.publish("x", b"here", headers={"name": "y" * size})
        await until(lambda: len(heard) == 2)

    assert [msg.data for msg in heard] == [b"here", b"here"]
    assert [bool(msg.headers) for msg in heard] == [True, False]
