"""Messages that can never be worked on: copied to `LLM_DEAD`, where an operator reads them and replays what can be."""

from contracts import streams
from contracts.control import DEAD_AT, DEAD_CODE, DEAD_REASON, DEAD_SUBJECT, DEAD_TRUNCATED
from contracts.errors import ErrorCode
from contracts.wire import utc_now
from runtime.jetstream.publishing import Publisher, TooLarge

_REASON_CHARS = 1000
_HEADROOM_BYTES = 16 * 1024
"""More than the headers of a dead letter take."""


async def bury(
    publisher: Publisher, payload: bytes, *, came_on: str, to: str, code: str, reason: str, msg_id: str
) -> None:
    """Returns when JetStream has stored the copy; only then may the message itself be ended.

    `came_on` is the message's own subject and `to` that of the copy, see `contracts.subjects.dead`. `code` and
    `reason` say why it is dead. Whoever sees the message again must give the same `msg_id`, so that there is one copy.
    A malformed request is cut to `streams.MALFORMED_KEPT_BYTES`, because anybody can send many of them. Anything else
    is whole, but for a payload at the broker's size limit, which is cut to make room for the headers. Raises NotStored.
    """
    headers = {
        DEAD_CODE: code,
        DEAD_REASON: header_value(reason[:_REASON_CHARS]),
        DEAD_SUBJECT: header_value(came_on),
        DEAD_AT: utc_now().isoformat(),
    }
    cut = {**headers, DEAD_TRUNCATED: "true"}
    most = streams.MALFORMED_KEPT_BYTES
    if code == ErrorCode.MALFORMED_REQUEST and len(payload) > most:
        await publisher.durable(to, payload[:most], msg_id=msg_id, headers=cut)
        return
    try:
        await publisher.durable(to, payload, msg_id=msg_id, headers=headers)
    except TooLarge:
        kept = payload[: len(payload) - _HEADROOM_BYTES]
        await publisher.durable(to, kept, msg_id=msg_id, headers=cut)


def header_value(text: str) -> str:
    """The text in one line of printable ASCII, which is all that a NATS header may hold."""
    return "".join(c if " " <= c <= "~" else "?" for c in text.replace("\n", " "))
