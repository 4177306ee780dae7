"""Names of tenants and agents in the path of a URL."""

from urllib.parse import quote

from contracts.errors import ModelNotFound


def in_path(name: str, *, provider: str, safe: str = "") -> str:
    """`name` as a part of a path that leads nowhere else; `safe` as of `quote`. Raises ModelNotFound."""
    if not {".", ".."}.isdisjoint(name.replace("\\", "/").split("/")):
        raise ModelNotFound(f"{provider} has no model of such a name", provider=provider)
    return quote(name, safe=safe)
