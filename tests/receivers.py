"""Who gets notices: a webhook's receiver and a mail server, on loopback."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiohttp import web

from fleet.simulator.tcp import listening
from tests.web import serving


@dataclass(frozen=True, slots=True)
class Received:
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)

    def is_signed_with(self, secret: str) -> bool:
        """As https://www.standardwebhooks.com has a receiver check it."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return self.headers["webhook-signature"] == f"v1,{expected}"


@dataclass(slots=True)
class WebhookReceiver:
    """Keeps what it gets. `answers`: the status of each answer in turn, then 204 for ever; 0 hangs."""

    url: str
    received: list[Received] = field(default_factory=list[Received])
    answers: list[int] = field(default_factory=list[int])
    location: str = ""

    async def take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(headers, await request.read()))
        status = self.answers.pop(0) if self.answers else 204
        if not status:
            await asyncio.Event().wait()
        return web.Response(status=status, headers={"Location": self.location} if 300 <= status < 400 else {})


@asynccontextmanager
async def webhook_receiver(*answers: int) -> AsyncGenerator[WebhookReceiver]:
    receiver = WebhookReceiver("", answers=list(answers))
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    async with serving(app) as port:
        receiver.url = f"http://127.0.0.1:{port}/hook?token=of-the-receiver"
        yield receiver


@dataclass(slots=True)
class MailSink:
    """A mail server that keeps messages. `refuses`: how many of the next messages it has no room for."""

    port: int = 0
    refuses: int = 0
    messages: list[tuple[list[str], EmailMessage]] = field(default_factory=list[tuple[list[str], EmailMessage]])
    """Recipients of the envelope, and the message."""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())

        recipients: list[str] = []
        say("220 sink")
        while line := (await reader.readline()).decode().strip():
            match line.split(" ", 1)[0].upper():
                case "RCPT":
                    recipients.append(line[line.index("<") + 1 : line.index(">")])
                    say("250 ok")
                case "DATA":
                    say("354 go on")
                    text = (await reader.readuntil(b"\r\n.\r\n")).removesuffix(b".\r\n")
                    say(self._take(recipients, text))
                case "QUIT":
                    say("221 bye")
                    break
                case _:
                    say("250 ok")

    def _take(self, recipients: list[str], text: bytes) -> str:
        if self.refuses:
            self.refuses -= 1
            return "452 no room"
        message: Callable[..., Any] = message_from_bytes
        self.messages.append((list(recipients), message(text, policy=policy.default)))
        return "250 kept"


@asynccontextmanager
async def mail_sink() -> AsyncGenerator[MailSink]:
    sink = MailSink()
    async with listening(sink.talk) as sink.port:
        yield sink
