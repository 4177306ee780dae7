"""The tenant that a local stack starts with: the mock provider at once, OpenAI when there is a key for it."""

import hashlib
import os
from typing import Any

from fleet.admin_client import AdminApi, AdminRefused

DEMO_TENANT = "demo"
_NOT_FOUND = 404
_LIMITS = ("LLM_RATE_LIMIT_PER_MINUTE", "LLM_RATE_LIMIT_PER_DAY")


def set_up(admin: AdminApi, *, openai_key: str | None) -> None:
    """Safe to repeat; what was changed since stays, but a new key replaces the old one. Raises AdminRefused."""
    if not _exists(admin):
        admin.post("tenants", {"slug": DEMO_TENANT, "limits": _limits()})
    providers = {p["provider_type"]: p for p in admin.get(f"llm-providers?tenant={DEMO_TENANT}")["items"]}
    if "mock" not in providers:
        admin.post("llm-providers", {"tenant": DEMO_TENANT, "provider_type": "mock", "config": {}, "is_default": True})
    if openai_key:
        _set_key(admin, providers.get("openai"), openai_key)


def _limits() -> dict[str, int]:
    """None on a machine of one's own, unless the environment asks for some."""
    return {} if any(os.environ.get(name) for name in _LIMITS) else {"requests_per_minute": 0, "requests_per_day": 0}


def _exists(admin: AdminApi) -> bool:
    try:
        admin.get(f"tenants/{DEMO_TENANT}")
    except AdminRefused as exc:
        if exc.status == _NOT_FOUND:
            return False
        raise
    return True


def _set_key(admin: AdminApi, provider: dict[str, Any] | None, key: str) -> None:
    if provider is None:
        admin.post("llm-providers", {"tenant": DEMO_TENANT, "provider_type": "openai", "api_key": key, "config": {}})
    elif provider["key_fingerprint"] != hashlib.sha256(key.encode()).hexdigest()[:8]:
        admin.put(f"llm-providers/{provider['id']}", {"api_key": key})
