"""A body reaches the application whole and as strict JSON, or not at all."""

from collections.abc import Sequence

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message

from admin_api.http.json_bodies import strict


def parts(*bodies: bytes, end: Message | None = None) -> Sequence[Message]:
    """The messages of a request whose body comes in pieces; `end` in place of the last one."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    messages[-1] = end or {**messages[-1], "more_body": False}
    return messages


async def received(messages: Sequence[Message]) -> Message:
    left = list(messages)

    async def receive() -> Message:
        return left.pop(0)

    return await strict(receive)()


async def test_gives_the_pieces_on_in_one() -> None:
    message = await received(parts(b'{"a":', b" [1, ", b"2]}"))

    assert message == {"type": "http.request", "body": b'{"a": [1, 2]}', "more_body": False}


async def test_an_empty_body_is_no_json_and_passes() -> None:
    assert (await received(parts(b"")))["body"] == b""


async def test_a_caller_that_hangs_up_within_the_body_is_told_on() -> None:
    assert await received(parts(b"{", b"", end={"type": "http.disconnect"})) == {"type": "http.disconnect"}


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"NaN",
        b"[Infinity]",
        b'"\xff"',
        b'"\\ud800"',
        b"{} {}",
        b"[" * 300 + b"]" * 300,
        b'"\\u0000"',
        b'{"a": ["x", {"b\\u0000": 1}]}',
    ],
)
async def test_refuses_what_other_readers_would_not_take(body: bytes) -> None:
    with pytest.raises(HTTPException) as caught:
        await received(parts(body[:2], body[2:]))

    assert caught.value.status_code == 422


@pytest.mark.parametrize("body", [b'"\\\\u0000"', b'{"\\\\u0000": [1e400]}', b"[" * 100 + b"]" * 100])
async def test_takes_what_only_looks_like_nul_and_what_is_deep_but_not_too_deep(body: bytes) -> None:
    assert (await received(parts(body)))["body"] == body
