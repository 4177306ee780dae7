"""A request over HTTP/1.1, as it is written to a connection.

Whatever would begin a line or a field of its own (RFC 9112, 2.2; RFC 9110, 5.5) is refused before there is a
connection.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import httpx2

from runtime.content_coding import ACCEPTED

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[^\x00-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?")
_NO_URL = re.compile(r"[\x00-\x20\x7f]")
_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""What says how a request is framed, or how its answer may be."""
_PORTS = {"http": 80, "https": 443}
_URLS = 1024


class Origin(NamedTuple):
    """Where a connection leads."""

    scheme: str
    host: str
    """A name in ASCII, or an address without brackets."""
    port: int


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What is sent. No text of it is in its `repr`: an URL, a header and a body may each hold a secret."""

    method: str
    """Any but HEAD and CONNECT, whose answers are framed in another way."""
    url: str = field(repr=False)
    """Absolute. Its fragment is not sent."""
    headers: Mapping[str, str] = field(repr=False)
    """Without those that say how the request is framed and what its answer may be packed in: these are added. Values
    are sent in ISO 8859-1."""
    body: bytes = field(default=b"", repr=False)


def encoded(request: HttpRequest) -> tuple[Origin, bytes]:
    """Where a request goes, and its head. Raises ValueError, which holds no value of a header and no URL."""
    if not _TOKEN.fullmatch(request.method) or request.method in ("HEAD", "CONNECT"):
        raise ValueError("no request can be made with this method")
    origin, host, path = _parts(request.url)
    lines = [f"{request.method} {path} HTTP/1.1", f"Host: {host}"]
    for name, value in request.headers.items():
        if not _TOKEN.fullmatch(name) or name.lower() in _OURS:
            raise ValueError(f"a request cannot have a header of the name {name!r}")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the header {name} holds characters that no header has")
        lines.append(f"{name}: {value}")
    lines.append(f"Accept-Encoding: {ACCEPTED}")
    lines.append("Connection: keep-alive")
    if request.body or request.method not in ("GET", "DELETE", "OPTIONS"):
        lines.append(f"Content-Length: {len(request.body)}")
    lines.append("\r\n")
    try:
        return origin, "\r\n".join(lines).encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError("a header holds characters that no header has") from None


@lru_cache(_URLS)
def _parts(url: str) -> tuple[Origin, str, str]:
    """The origin, the value of `Host`, and what is asked for there. Raises ValueError."""
    if _NO_URL.search(url):
        raise ValueError("the URL holds a blank or a control character")
    try:
        parts = httpx2.URL(url)
        host = parts.raw_host.decode("ascii")
        path = parts.raw_path.decode("ascii")
        origin = Origin(parts.scheme, host, parts.port or _PORTS[parts.scheme])
    except (httpx2.InvalidURL, KeyError, UnicodeError):
        raise ValueError("the URL is no absolute URL of HTTP") from None
    if not host or parts.userinfo:
        raise ValueError("the URL names no host, or a user")
    return origin, parts.netloc.decode("ascii"), path
