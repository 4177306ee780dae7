"""The tenant that a local stack starts with: the mock provider at once, OpenAI when there is a key for it."""

import os

from pydantic import SecretStr

from fleet.admin_client import AdminApi
from runtime.sealing import fingerprint

DEMO_TENANT = "demo"
_LIMITS = ("LLM_RATE_LIMIT_PER_MINUTE", "LLM_RATE_LIMIT_PER_DAY")


def set_up(admin: AdminApi, *, openai_key: SecretStr | None) -> None:
    """Adds what is missing of the tenant and its providers, and gives `openai` a key that is new.

    Safe to repeat: what was changed since the last start stays. Raises AdminRefused.
    """
    if not admin.exists(f"tenants/{DEMO_TENANT}"):
        # A machine of one's own needs no limits, unless the environment asks for some.
        asked_for = any(os.environ.get(name) for name in _LIMITS)
        limits = {} if asked_for else {"requests_per_minute": 0, "requests_per_day": 0}
        admin.post("tenants", {"slug": DEMO_TENANT, "limits": limits})
    providers = {p["provider_type"]: p for p in admin.get(f"llm-providers?tenant={DEMO_TENANT}")["items"]}
    if "mock" not in providers:
        admin.post("llm-providers", {"tenant": DEMO_TENANT, "provider_type": "mock", "config": {}, "is_default": True})
    if openai_key is None:
        return
    key, provider = {"api_key": openai_key.get_secret_value()}, providers.get("openai")
    if provider is None:
        admin.post("llm-providers", {"tenant": DEMO_TENANT, "provider_type": "openai", "config": {}, **key})
    elif provider["key_fingerprint"] != fingerprint(openai_key):
        admin.put(f"llm-providers/{provider['id']}", key)
