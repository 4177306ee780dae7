"""From the bytes of a delivery to what was asked, or to the reason why nobody can tell."""

import re
from dataclasses import dataclass
from typing import TypeGuard

from pydantic import ValidationError

from contracts import subjects
from contracts.control import HANDOVER, MSG_ID, REPLAY, Handover
from contracts.errors import MalformedRequest
from contracts.requests import CompletionRequest
from contracts.subjects import RequestAddress
from contracts.wire import TOKEN_PATTERN, errors_in_one_line
from runtime import lenient_json
from workers.endpoints.routing import PROVIDERS
from workers.intake import asker
from workers.intake.delivery import Delivery
from workers.request.handover import Handovers

_TOKEN = re.compile(TOKEN_PATTERN)


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    address: RequestAddress
    request: CompletionRequest
    body: bytes
    """The request's JSON, mended where an agent cut a character in two, so that every pool can read it."""
    handover: Handover | None
    """What the pool before this one told; None when the request comes from its agent."""
    is_replay: bool
    """Whether an admin has put it into the queue once more."""


def parse(delivery: Delivery, handovers: Handovers) -> ParsedRequest:
    """Nothing of a handover is believed before it is known to be the fleet's.

    Raises MalformedRequest; its message names fields and never repeats what stands in them.
    """
    try:
        address = subjects.parse_request(delivery.subject)
        told = handovers.told(delivery, address) if HANDOVER in delivery.headers else None
        request, body = lenient_json.parse(CompletionRequest, delivery.data)
    except ValidationError as exc:
        raise MalformedRequest(f"the request is not valid: {errors_in_one_line(exc)}") from None
    except ValueError as exc:
        raise MalformedRequest(str(exc)) from None
    if request.tenant != address.tenant:
        raise MalformedRequest(
            f"the request says tenant {request.tenant}, its subject says {address.tenant}; they must be the same"
        )
    named = request.model.partition("/")[0]
    if told is None and address.provider not in (subjects.AUTO, named) and named in PROVIDERS:
        raise MalformedRequest(
            f"the model is of {named}, but the request was sent to {address.provider}; "
            f"send it to {subjects.request(named, address.priority, address.tenant)}"
        )
    is_replay = delivery.headers.get(MSG_ID, "").startswith(REPLAY) and handovers.is_replay(delivery)
    return ParsedRequest(address, request, body, told, is_replay)


def who_asks(delivery: Delivery) -> tuple[str, str] | None:
    """Agent and request id, read at a glance: to refuse a request without parsing it. None when only parsing tells.

    Of a body that is not valid it may be another address than `reply_address` finds.
    """
    return asker.who_asks(delivery.data, delivery.headers, tenant=delivery.tenant)


def reply_address(delivery: Delivery) -> tuple[str, str] | None:
    """Agent and request id of a request that is not valid, where they can be known.

    The message id stands for an id that cannot be read. (The tenant is the subject's, whatever the body says.)
    """
    told = lenient_json.told(delivery.data, ("agent", "id"))
    agent = told.get("agent")
    named = delivery.headers.get(MSG_ID, "").split(".")  # `<tenant>.<agent>.<id>`, or the bare id
    request_id = next(filter(_is_token, (told.get("id"), named[2] if len(named) > 2 else named[0])), None)
    return (agent, request_id) if _is_token(agent) and request_id is not None else None


def _is_token(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None
