"""Requests that could not be processed: their bytes go to `LLM_DEAD`, with the reason in headers."""

import logging
import re
from typing import TypeGuard

from contracts import subjects
from contracts.control import DEAD_AT, DEAD_CODE, DEAD_REASON, DEAD_SUBJECT, DEAD_TRUNCATED, MSG_ID
from contracts.errors import FleetError
from contracts.wire import TOKEN_PATTERN, utc_now
from runtime import lenient_json
from runtime.jetstream.publishing import Publisher, TooLarge
from workers import telemetry
from workers.intake.delivery import Delivery

log = logging.getLogger(__name__)

_TOKEN = re.compile(TOKEN_PATTERN)
_REASON_CHARS = 1000
_HEADROOM_BYTES = 16 * 1024


async def bury(publisher: Publisher, delivery: Delivery, error: FleetError, *, provider: str) -> None:
    """Returns when it is stored. A body at the broker's size limit is cut to make room for the headers."""
    headers = {
        DEAD_CODE: error.code,
        DEAD_REASON: error.message[:_REASON_CHARS].encode("ascii", "replace").decode().replace("\n", " "),
        DEAD_SUBJECT: delivery.subject,
        DEAD_AT: utc_now().isoformat(),
    }
    subject = subjects.dead(provider, delivery.tenant)
    msg_id = f"dead:{delivery.stream_seq}"
    try:
        await publisher.durable(subject, delivery.data, msg_id=msg_id, headers=headers)
    except TooLarge:
        kept = delivery.data[: len(delivery.data) - _HEADROOM_BYTES]
        await publisher.durable(subject, kept, msg_id=msg_id, headers={**headers, DEAD_TRUNCATED: "true"})
    telemetry.DEAD_LETTERS.labels(provider, error.code).inc()
    log.warning("request_dead", extra={"code": error.code, "subject": delivery.subject, "reason": error.message})


def reply_address(delivery: Delivery) -> tuple[str, str] | None:
    """Agent and request id of a request that is not valid, where they can be known.

    The message id stands for an id that cannot be read. (The tenant is the subject's, whatever the body says.)
    """
    told = lenient_json.told(delivery.data, ("agent", "id"))
    agent = told.get("agent")
    request_id = next(filter(_is_token, (told.get("id"), delivery.headers.get(MSG_ID))), None)
    return (agent, request_id) if _is_token(agent) and request_id is not None else None


def _is_token(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None
