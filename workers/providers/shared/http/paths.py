"""The URLs that vendors are called at: base URLs that admins write, with names of tenants and agents behind them."""

from functools import lru_cache
from urllib.parse import quote, urlsplit

from contracts.errors import ModelNotFound

_PATH_SAFE = "!$%&'()*+,-./:;=@[\\]^_|~"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def in_path(name: str, *, provider: str, safe: str = "") -> str:
    """`name` as a part of a path that leads nowhere else; `safe` as of `quote`. Raises ModelNotFound."""
    if not {".", ".."}.isdisjoint(name.replace("\\", "/").split("/")):
        raise ModelNotFound(f"{provider} has no model of such a name", provider=provider)
    return quote(name, safe=safe)


@lru_cache(maxsize=1024)
def url_behind(base_url: str, path: str, *, query: str = "") -> str:
    """The URL of a path behind a base URL, in the form that the SDKs' HTTP client gives it: the host in lower case,
    without a default port, without segments that lead up, and with characters quoted that no path has."""
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    segments: list[str] = []
    for segment in f"{parts.path.removesuffix('/')}/{path}".split("/"):
        if segment == "..":
            del segments[max(len(segments) - 1, 1) :]
        elif segment != ".":
            segments.append(segment)
    whole = quote("/".join(segments), safe=_PATH_SAFE)
    return f"{parts.scheme}://{host}{port}{whole}{query and f'?{query}'}"
