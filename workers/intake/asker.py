"""Who asks: the agent and the id of a request, read at a glance whatever its size, before anything is parsed.

Turns between the agents of a tenant, and refusals that are to be cheap, need no more than that. So only the ends of a
body are read: agents write these fields before or after what is long. What a glance finds in valid JSON is what a
parser finds, unless a name is there twice.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from contracts.control import MSG_ID
from contracts.wire import TOKEN_PATTERN

_GLANCE = 4096
"""Bytes that are read at each end of a body."""
_TOKEN = re.compile(TOKEN_PATTERN)
_MEMBER = re.compile(
    rb"""\s*+ "(?P<name>[^"\\]*+)" \s*+:\s*+ (?: "(?P<text>[^"\\]*+)" | [\w.+-]++ ) \s*+""",
    re.VERBOSE,
)
"""A name and a value that is nested in nothing and has nothing nested in it, nor a backslash: what follows a bracket
inside a text can then not be taken for one, because its quotes would be odd in number."""
_TOLD = (b"agent", b"id")


class Asker(NamedTuple):
    """Whose turn it is: tenants take turns, and so do the agents of one tenant."""

    tenant: str
    agent: str
    """Empty when a glance does not tell."""


def who_asks(data: bytes, headers: dict[str, str], *, tenant: str) -> tuple[str, str] | None:
    """Agent and request id, as the body says them or else the message id `<tenant>.<agent>.<id>`.

    None when neither tells at a glance; then the body has to be parsed.
    """
    told = _at_start(data)
    if len(told) < len(_TOLD):
        told |= _at_end(data)
    if len(told) == len(_TOLD):
        agent, request_id = (told[name].decode("ascii", errors="replace") for name in _TOLD)
    else:
        of, _, rest = headers.get(MSG_ID, "").partition(".")
        agent, _, request_id = rest.partition(".")
        if of != tenant:
            return None
    return (agent, request_id) if _TOKEN.fullmatch(agent) and _TOKEN.fullmatch(request_id) else None


def _at_start(data: bytes) -> dict[bytes, bytes]:
    """What comes before the first value that has others nested in it."""
    opening = re.compile(rb"\s*+\{").match(data, 0, _GLANCE)
    return _told(data[opening.end() : _GLANCE]) if opening else {}


def _at_end(data: bytes) -> dict[bytes, bytes]:
    """What comes after the last value that has others nested in it, if that is all that does."""
    end = data[-_GLANCE:].rstrip()
    if not end.endswith(b"}"):
        return {}
    closing = max(end.rfind(b"]"), end.rfind(b"}", 0, -1))
    after = end[closing + 1 : -1].lstrip()
    if closing < 0 or not after.startswith(b","):
        return {}
    members = list(_members(after[1:]))
    return _told(after[1:]) if members and members[-1].end() == len(after) - 1 else {}


def _told(text: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for member in _members(text):
        name, value = member.groups()
        if name in _TOLD and value is not None:
            found[name] = value
    return found


def _members(text: bytes) -> Iterator[re.Match[bytes]]:
    """The members of an object from here on, with a comma between two of them."""
    at = 0
    while member := _MEMBER.match(text, at):
        yield member
        if text[member.end() : member.end() + 1] != b",":
            return
        at = member.end() + 1
