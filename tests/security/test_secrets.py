"""A vendor that says the key back: in no row, in no event, in whatever form it says it."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

from contracts.events import Completed
from fleet.simulator.tcp import listening
from tests.patience import PATIENCE_S
from tests.security.fleet import Fleet, Tenant
from tests.security.neighbours import MODEL

FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda key: key,
    "upper case": str.upper,
    "reversed": lambda key: key[::-1],
    "hexadecimal": lambda key: key.encode().hex(),
    "spaced hexadecimal": lambda key: key.encode().hex(" "),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "spaced": " ".join,
    "dashed": "-".join,
    "a half": lambda key: key[: len(key) // 2],
    "the other half": lambda key: key[len(key) // 2 :],
    "percent": lambda key: "".join(f"%{ord(letter):02x}" for letter in key),
}


@asynccontextmanager
async def _echoing(*, status: int, said: Callable[[str], dict[str, Any]]) -> AsyncGenerator[int]:
    """A vendor that makes its answer of the key that it was called with."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        key = next(line for line in head.splitlines() if line.lower().startswith("authorization:")).split()[-1]
        body = json.dumps(said(key)).encode()
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()

    async with listening(talk) as port:
        yield port


def _answer(form: Callable[[str], str]) -> Callable[[str], dict[str, Any]]:
    def said(key: str) -> dict[str, Any]:
        told = form(key)
        return {
            "id": told,
            "object": "chat.completion",
            "created": 1,
            "model": told,
            "service_tier": told,
            "system_fingerprint": told,
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }

    return said


def _error(form: Callable[[str], str]) -> Callable[[str], dict[str, Any]]:
    def said(key: str) -> dict[str, Any]:
        return {"error": {"message": f"not with {form(key)}", "type": form(key), "code": form(key), "param": form(key)}}

    return said


ANSWERS: tuple[tuple[int, Callable[..., Callable[[str], dict[str, Any]]]], ...] = (
    (200, _answer),
    (400, _error),
    (401, _error),
    (500, _error),
)


async def test_a_key_that_the_vendor_says_is_neither_kept_nor_passed_on(fleet: Fleet, mallory: Tenant) -> None:
    warm = len(fleet.calls(mallory))
    said: dict[str, list[str]] = {}
    async with mallory.client() as client:
        for form, (status, make) in product(FORMS, ANSWERS):
            async with _echoing(status=status, said=make(FORMS[form])) as port:
                await fleet.use_vendor(mallory, "openai", f"http://127.0.0.1:{port}/v1")
                events = [e async for e in client.stream(MODEL, "Hello", stream=False, deadline_s=30)]
                said.setdefault(form, []).extend(event.to_json().decode() for event in events)
                assert isinstance(events[-1], Completed) or status != 200
    rows = await _booked(fleet, mallory, at_least=warm + len(FORMS))

    leaks = {
        form: [line[:300] for line in (*told, *(str(dict(row)) for row in rows)) if _holds(line, mallory.key, form)]
        for form, told in said.items()
    }
    assert {form: lines for form, lines in leaks.items() if lines} == {}


async def _booked(fleet: Fleet, tenant: Tenant, *, at_least: int) -> list[Any]:
    """The rows, when those of all answers are among them."""
    async with asyncio.timeout(PATIENCE_S):
        while len(rows := await fleet.rows(tenant)) < at_least:
            await asyncio.sleep(0.1)
    return rows


def _holds(text: str, key: str, form: str) -> bool:
    """Whether half of the key stands there in that form."""
    told = FORMS[form](key)
    return told[: len(told) // 2] in text or told[len(told) // 2 :] in text
