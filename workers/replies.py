"""Reading back the events of a request from `LLM_REPLIES`: for resume, and to go on where a dead worker stopped.

Uses JetStream's batched direct get (nats-server 2.11, ADR-31): one request, many answers, ended by status 204.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from nats.aio.msg import Msg

from contracts import streams
from contracts.events import Event, parse
from runtime.broker import Broker

_BATCH = 1000
_ANSWER_TIMEOUT_S = 5.0


async def stored(broker: Broker, subject: str) -> AsyncGenerator[bytes]:
    """Every stored event of a reply subject, oldest first. Raises TimeoutError when the server does not answer."""
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = broker.client.new_inbox()
    subscription = await broker.client.subscribe(inbox, cb=answers.put)
    try:
        next_seq = 1
        while True:
            ask = {"seq": next_seq, "next_by_subj": subject, "batch": _BATCH}
            await broker.client.publish(f"$JS.API.DIRECT.GET.{streams.REPLIES}", json.dumps(ask).encode(), reply=inbox)
            while True:
                msg = await asyncio.wait_for(answers.get(), _ANSWER_TIMEOUT_S)
                headers = msg.headers or {}
                if status := headers.get("Status"):
                    break
                next_seq = int(headers["Nats-Sequence"]) + 1
                yield msg.data
            if status != "204" or headers.get("Nats-Num-Pending", "0") == "0":
                return
    finally:
        await subscription.unsubscribe()


async def events(broker: Broker, subject: str) -> list[Event]:
    """The stored events, parsed."""
    async with aclosing(stored(broker, subject)) as found:
        return [parse(data) async for data in found]
