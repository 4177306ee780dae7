"""What the suite over all adapters calls: an adapter, pointed at the simulator."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from contracts.errors import FleetError
from contracts.providers import Endpoint, Timeouts
from contracts.requests import CompletionRequest
from fleet.simulator import Script, Simulator
from fleet.simulator.ledger import Entry
from runtime.egress import Egress
from runtime.networks import parse_networks
from runtime.tasks import end
from workers.providers.base import Call, Chunk, Completion, Finish, Gathering, Provider, StreamItem, Target

KEY = SecretStr("sk-proj-Zx81kQpvL0aa93Jw72mmDf55")
MODEL = "gpt-4o"
LOCAL = Egress(parse_networks("127.0.0.0/8"))
"""The simulator is at a private address."""
PATIENT = Timeouts(connect_s=5, first_token_s=10, idle_s=10, total_s=20)


@dataclass(frozen=True)
class Traits:
    """What the vendors do not have in common."""

    model: str = MODEL
    context_window: int = 128_000
    names_replies: bool = True
    """Whether a reply has an id."""
    names_calls: bool = True
    """Whether a tool call has an id."""
    filters: bool = True
    """Whether it can refuse or cut off a text for what it is about."""
    details_usage: bool = True
    """Whether cached and reasoning tokens are stated."""
    states_input_first: bool = False
    """Whether it counts the prompt before it answers."""
    names_tier: bool = True
    """Whether it says as what it served a call."""
    is_priced: bool = True
    refuses_apart: bool = True
    """Whether a refusal is another thing than a text."""
    statuses: Mapping[str, int] = field(default_factory=dict[str, int])
    """Of errors by their names in the suite, where they are not OpenAI's."""


TRAITS: Mapping[str, Traits] = {
    "openai": Traits(),
    "azure": Traits(),
    "anthropic": Traits(
        model="claude-sonnet-4-5", context_window=200_000, states_input_first=True, statuses={"overloaded": 529}
    ),
    "google": Traits(
        model="gemini-2.5-flash",
        context_window=1_048_576,
        states_input_first=True,
        refuses_apart=False,
        statuses={"invalid_api_key": 400},
    ),
    "ollama": Traits(
        model="llama3.2:latest",
        context_window=131_072,
        names_replies=False,
        names_calls=False,
        filters=False,
        details_usage=False,
        names_tier=False,
        is_priced=False,
        refuses_apart=False,
    ),
}


@dataclass(frozen=True)
class Vendor:
    adapter: Provider
    simulator: Simulator

    @property
    def traits(self) -> Traits:
        return TRAITS[self.name]

    @property
    def model(self) -> str:
        return self.traits.model

    @property
    def name(self) -> str:
        return self.adapter.name

    def says(self, *scripts: Script) -> None:
        self.simulator.script(self.model, *scripts)

    def target(
        self, *, timeouts: Timeouts = PATIENT, key: SecretStr | None = KEY, base_url: str | None = None
    ) -> Target:
        endpoint = Endpoint(base_url=base_url or self.simulator.base_url(self.name))
        return Target(endpoint=endpoint, timeouts=timeouts, key=key)

    def call(
        self, *, target: Target | None = None, time_left_s: float = 20, model: str | None = None, **fields: Any
    ) -> Call:
        model = model or self.model
        request = CompletionRequest.model_validate(
            {
                "id": "request-1",
                "tenant": "acme",
                "agent": "tester",
                "model": f"{self.name}/{model}",
                "messages": [{"role": "user", "content": "Where is the station?"}],
                **fields,
            }
        )
        return Call(request=request, model=model, target=target or self.target(), time_left_s=time_left_s)

    async def stream(self, **how: Any) -> AsyncGenerator[StreamItem | Finish]:
        """What a reply says as it arrives, then its end. Closing this cancels the call."""
        said = asyncio.Queue[StreamItem | None]()
        call = asyncio.create_task(self.adapter.stream_completion(self.call(**how), said.put_nowait), name="call")
        call.add_done_callback(lambda _: said.put_nowait(None))
        try:
            while (item := await said.get()) is not None:
                yield item
            yield await call
        finally:
            await end(call)

    async def complete(self, **how: Any) -> Completion:
        return await self.adapter.complete(self.call(**how))

    async def fails(self, **how: Any) -> tuple[str, FleetError]:
        """What was said before it failed, and how it failed."""
        gathering = Gathering()
        try:
            async for item in self.stream(**how):
                if isinstance(item, Chunk):
                    gathering.add(item)
        except FleetError as exc:
            return gathering.output_text(), exc
        raise AssertionError("it did not fail")

    @property
    def served(self) -> Entry:
        """The last request that reached the vendor."""
        return self.simulator.ledger.entries[-1]

    @property
    def body(self) -> dict[str, Any]:
        """What it was asked."""
        return self.simulator.ledger.bodies[-1]
