"""What an error body says, in every form in which vendors, gateways and proxies write one.

Nested as OpenAI and Anthropic do, flat as xAI and DashScope, in a list as Gemini's compatible endpoint, under `errors`
as Cloudflare, under `base_resp` as MiniMax. A gateway wraps the error of the vendor behind it: OpenRouter in
`metadata.raw`, Vercel in `value`, others as JSON inside the message.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from contracts.errors import FleetError

NOTHING = "no reason given"

_MOST_WRAPPINGS = 4
_MOST_WORDS = 10_000
_MOST_OF_A_NAME = 100
_MOST_DETAILS = 20
"""How much of one error is read, because a server may answer with megabytes: characters of its message and of each
name, and entries of its `details`."""
_MESSAGES = ("message", "Message", "msg", "error_msg", "error_message", "status_msg", "detail")
_INNER = ("value", "upstream_error", "provider_error", "original_error", "upstream", "cause")
"""Where gateways put what the vendor behind them answered: an object, or a text that holds one."""
_NO_CAUSE = frozenset({"", "error", "fail", "failed", "failure"})
"""Names that only say that it is an error."""
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)s$")
_STATUSES = ("status_code", "status", "code", "type", "http_code", "statusCode")
"""Where an HTTP status stands: OpenRouter and vLLM put it into `code`, Groq into `status_code`, Azure also into
`type`."""
_WAITS = ("retry_after", "retry_after_seconds", "retryAfter", "retryAfterSeconds")
_LONGEST_WAIT_S = 86_400
"""A larger number is a point in time."""
_PAGE = re.compile(r"\s*<[a-z!?]", re.IGNORECASE)
"""HTML or XML; DashScope's `<400> InternalError…` is neither."""
_OPENING = re.compile(r"\[?\{")
"""Where an object, or a list of them, begins inside a text."""
_OF_WELL = frozenset({"", "0", "200", "success", "ok", "none"})
"""Codes with which servers that always send one say that all is well."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What a body says about an error."""

    message: str = NOTHING
    names: tuple[str, ...] = ()
    """What it is called: code, reason, type, status name; then the same of the error that it wraps."""
    status: int | None = None
    """As the body gives it; the only one for an error inside a stream."""
    wording: str = ""
    """All that is said in words, also by the error that it wraps."""
    retry_after_s: float | None = None
    """As the body tells it: google.rpc.RetryInfo, or a field like Cloudflare's `retry_after`."""
    is_page: bool = False
    """It is an HTML page: something in between answered, not the API."""
    kind: type[FleetError] | None = None
    """What the body's form alone says that it is; None where names and words have to."""

    @property
    def headline(self) -> str | None:
        return self.names[0] if self.names else None


def reported(body: object, *, depth: int = 0) -> Reported:
    """What any body says about an error; the message is NOTHING when it says nothing. `depth`: how many errors wrap
    it."""
    if depth > _MOST_WRAPPINGS:
        return Reported()
    match body:
        case str():
            return _of_text(body.strip(), depth=depth)
        case [first, *_]:
            return reported(first, depth=depth + 1)
        case {"error": {**error}}:
            return _of_fields(error, depth=depth)
        case {"error": str(message), "message": str(more), **rest} if more:
            return _of_fields({**rest, "message": f"{message}: {more}"}, depth=depth)
        case {"error": str(message), **rest}:
            return _of_fields({**rest, "message": message}, depth=depth)
        case {"errors": [first, *_]} | {"error": [first, *_]} | {"detail": {} as first}:
            return reported(first, depth=depth + 1)
        case {"base_resp": {"status_code": int(code), **rest}}:
            return _of_fields({**rest, "code": f"base_resp {code}"}, depth=depth)
        case {"detail": [*_]}:  # pydantic's, which holds the input
            return Reported("the request did not validate")
        case {**fields}:
            return _of_fields(fields, depth=depth)
        case _:
            return Reported()


def is_error(body: object) -> bool:
    """Whether a body that came in place of a reply, with a status of success or in a stream, reports an error."""
    match body:
        case [{**first}, *_]:
            return is_error(first)
        case {"error": error} if error:
            return True
        case {"object": "error"} | {"type": "error"} | {"detail": _} | {"errors": [_, *_]} | {"success": False}:
            return True
        case {"base_resp": {"status_code": int(code)}}:
            return code != 0
        case {"status": status, "message": str()} | {"status": status, "msg": str()} if _says_error(status):
            return True
        case {"error_code": code, "error_msg": str()} | {"code": code, "message": str()} | {"code": code, "msg": str()}:
            return str(code).lower() not in _OF_WELL
        case _:
            return False


def _says_error(status: object) -> bool:
    return _is_status(str(status)) or str(status).lower() in _NO_CAUSE - {""}


def _of_text(text: str, *, depth: int) -> Reported:
    if _PAGE.match(text):
        return Reported(is_page=True)
    if text.startswith(("{", "[")) and (inner := _decoded(text)) is not None:
        return reported(inner, depth=depth + 1)
    text = text[:_MOST_WORDS]
    return Reported(text, wording=text) if text else Reported()


def _of_fields(fields: Mapping[object, object], *, depth: int) -> Reported:
    own = next((said for name in _MESSAGES if isinstance(said := fields.get(name), str) and said.strip()), "").strip()
    if _PAGE.match(own):
        return Reported(is_page=True)
    inner = _wrapped(fields, own, depth=depth)
    own = own[:_MOST_WORDS]
    given = fields.get("details")
    details: list[object] = given[:_MOST_DETAILS] if isinstance(given, list) else [given]
    statuses = (_as_text(fields.get(name)) for name in _STATUSES)
    retry_after_s = _retry_after_s(fields, details)
    return Reported(
        message=_joined(own, fields, inner)[:_MOST_WORDS],
        names=(*_names(fields, details), *inner.names),
        status=next((int(text) for text in statuses if _is_status(text)), inner.status),
        wording="\n".join(dict.fromkeys(filter(None, (own, inner.wording))))[:_MOST_WORDS],
        retry_after_s=inner.retry_after_s if retry_after_s is None else retry_after_s,
    )


def _wrapped(fields: Mapping[object, object], own: str, *, depth: int) -> Reported:
    """The error of the vendor behind a gateway: in a place that is known for it, or as JSON inside the message."""
    found: object = None
    opening = _OPENING.search(own)
    match fields:
        case {"metadata": {"raw": raw}} if raw:
            found = raw
        case {"message": {"detail": detail}}:
            found = {"detail": detail}
        case {"message": {} as message}:
            found = message
        case {"error": str() | {} as error} if error:
            found = error
        case _ if opening:
            found = _decoded(own[opening.start() :])
        case _:
            for place in map(fields.get, _INNER):
                if isinstance(place, str):
                    found = _decoded(place)
                elif isinstance(place, Mapping):
                    found = place or None
                if found is not None:
                    break
    return reported(found, depth=depth + 1)


def _joined(own: str, fields: Mapping[object, object], inner: Reported) -> str:
    """The message of a gateway with that of the vendor behind it: `Provider returned error (Nvidia): what Nvidia
    said`."""
    match fields.get("metadata"):
        case {"provider_name": str(provider)} if own and provider and provider not in own:
            own = f"{own} ({provider})"
        case _:
            pass
    if not own or (own.startswith(("{", "[")) and inner.message != NOTHING):
        return inner.message
    if inner.message == NOTHING or "{" in own or inner.message in own:
        return own
    return f"{own}: {inner.message}"


def _names(fields: Mapping[object, object], details: list[object]) -> tuple[str, ...]:
    """The code, the codes of the cause as Anthropic's `details` and google.rpc.ErrorInfo have them, type and status."""
    code, innererror = fields.get("code"), fields.get("innererror")
    if code in (None, "") and isinstance(innererror, Mapping):
        code = innererror.get("code")
    reasons: list[str] = []
    for detail in details:
        match detail:
            case {"error_code": str(reason)}:
                reasons.append(reason)
            case {"@type": str(kind), "reason": str(reason)} if kind.endswith(".ErrorInfo"):
                reasons.append(reason)
            case _:
                pass
    named = (code, fields.get("error_code"), *reasons, fields.get("type"), fields.get("__type"), fields.get("status"))
    texts = (_as_text(name)[:_MOST_OF_A_NAME] for name in named)
    return tuple(dict.fromkeys(text for text in texts if text.lower() not in _NO_CAUSE and not _is_status(text)))


def _retry_after_s(fields: Mapping[object, object], details: list[object]) -> float | None:
    """The seconds of google.rpc.RetryInfo, else those of a field beside the message or in a gateway's `metadata`."""
    delays = [
        detail["retryDelay"]
        for detail in details
        if isinstance(detail, Mapping) and "retryDelay" in detail and str(detail.get("@type")).endswith(".RetryInfo")
    ]
    delay = delays[-1] if delays else None
    match delay:  # a google.protobuf.Duration, in its text form (`34.07s`) or as an object
        case str():
            if found := _DURATION.match(delay):
                return float(found[1])
        case {"seconds": int() | str() as seconds}:
            digits = str(seconds)
            if digits.isascii() and digits.isdigit():
                # Digits become infinity where an integer would raise OverflowError; the caller bounds the wait.
                return float(digits)
        case _:
            pass
    metadata = fields.get("metadata")
    for place in (fields, metadata) if isinstance(metadata, Mapping) else (fields,):
        for name in _WAITS:
            wait = place.get(name)
            if isinstance(wait, int | float) and not isinstance(wait, bool) and 0 <= wait <= _LONGEST_WAIT_S:
                return float(wait)
    return None


def _as_text(value: object) -> str:
    """A name or a number; empty for what is neither."""
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _is_status(text: str) -> bool:
    return text.isascii() and text.isdigit() and 400 <= int(text[:9]) < 600


def _decoded(text: str) -> object:
    """The JSON that a text begins with; None when it does not."""
    try:
        value: object = json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None
