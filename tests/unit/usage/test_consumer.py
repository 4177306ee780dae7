"""What the consumer makes of messages, before anything is booked."""

from typing import cast

import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from tests.usage import record
from workers.usage.consumer import Batch, dead_subject


def message(subject: str, data: bytes) -> Msg:
    return Msg(cast(Nats, None), subject=subject, data=data)


async def test_a_batch_tells_records_from_what_is_none() -> None:
    good = [record() for _ in range(50)]
    messages = [message("llm.v1.usage.openai.acme", each.to_json()) for each in good]
    messages.insert(7, message("llm.v1.usage.openai.acme", b"{not json"))
    messages.append(message("llm.v1.usage.openai.other", good[0].to_json()))

    batch = await Batch.read(messages)

    assert [each for _, each in batch.items] == good
    assert [bad for bad, _ in batch.malformed] == [messages[7], messages[-1]]
    assert all(why for _, why in batch.malformed)


@pytest.mark.parametrize(
    ("subject", "dead"),
    [
        ("llm.v1.usage.openai.acme", "llm.v1.dead.openai.acme"),
        ("llm.v1.usage.nobody", "llm.v1.dead.unknown.unknown"),
        ("llm.v1.usage.openai.acme.deeper", "llm.v1.dead.unknown.unknown"),
        ("llm.v1.usage.openai.a b", "llm.v1.dead.unknown.unknown"),
    ],
)
def test_a_dead_letter_goes_to_its_provider_and_tenant_if_it_has_any(subject: str, dead: str) -> None:
    assert dead_subject(subject) == dead
