"""Every endpoint of the admin API, and which kinds of caller may use it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a caller is, whether a stored token or an issuer's says so."""

    ADMIN = "admin"
    TENANT_ADMIN = "tenant_admin"
    VIEWER = "viewer"
    VIEWER_OF_ALL = "viewer of all"
    NOBODY = "nobody"
    """No token; or one that is not known, was revoked, or has expired."""


EVERYBODY = frozenset(Kind)
CALLERS = EVERYBODY - {Kind.NOBODY}
WHO_SEE_ALL = frozenset({Kind.ADMIN, Kind.VIEWER_OF_ALL})
WHO_CHANGE = frozenset({Kind.ADMIN, Kind.TENANT_ADMIN})
ADMINS = frozenset({Kind.ADMIN})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`{own}` in path and body is the tenant of the callers that have one, `{other}` another tenant; likewise
    `{own_provider}` and what else the test makes of each.
    """

    method: str
    path: str
    allowed: frozenset[Kind]
    body: Any = None
    answers: int | None = None
    """What who is allowed gets here; None: a 2xx."""


ENDPOINTS = (
    Endpoint("GET", "/healthz", EVERYBODY),
    Endpoint("GET", "/readyz", EVERYBODY),
    Endpoint("GET", "/metrics", EVERYBODY),
    Endpoint("GET", "/openapi.json", EVERYBODY),
    Endpoint("GET", "/api/v1/tenants", CALLERS),
    Endpoint("GET", "/api/v1/tenants/{own}", CALLERS),
    Endpoint("GET", "/api/v1/tenants/{other}", WHO_SEE_ALL),
    Endpoint("POST", "/api/v1/tenants", ADMINS, {"slug": "new"}),
    Endpoint("PUT", "/api/v1/tenants/{own}", WHO_CHANGE, {}),
    Endpoint("PUT", "/api/v1/tenants/{own}", WHO_CHANGE, {"aliases": {"fast": ["mock/echo"]}, "fallbacks": ["mock/b"]}),
    Endpoint("PUT", "/api/v1/tenants/{own}", ADMINS, {"limits": {"requests_per_minute": 0}}),
    Endpoint("PUT", "/api/v1/tenants/{own}", ADMINS, {"daily_budget_usd": 1}),
    Endpoint("PUT", "/api/v1/tenants/{own}", WHO_CHANGE, {"daily_cost_alert_usd": 3}),
    Endpoint("PUT", "/api/v1/tenants/{own}", ADMINS, {"prices": {"mock/b": {"input_mtok": 0, "output_mtok": 0}}}),
    Endpoint("PUT", "/api/v1/tenants/{own}", ADMINS, {"may_lower": False}),
    Endpoint("PUT", "/api/v1/tenants/{own}", ADMINS, {"max_keep_s": 604_800}),
    Endpoint("PUT", "/api/v1/tenants/{own}", WHO_CHANGE, {"lowered": {"daily_budget_usd": 1}}),
    Endpoint("PUT", "/api/v1/tenants/{other}", ADMINS, {}),
    Endpoint("GET", "/api/v1/llm-providers", CALLERS),
    Endpoint("GET", "/api/v1/llm-providers?tenant={other}", WHO_SEE_ALL),
    Endpoint("POST", "/api/v1/llm-providers", WHO_CHANGE, {"tenant": "{own}", "provider_type": "ollama"}),
    Endpoint("POST", "/api/v1/llm-providers", ADMINS, {"tenant": "{other}", "provider_type": "ollama"}),
    Endpoint("GET", "/api/v1/llm-providers/{own_provider}", CALLERS),
    Endpoint("GET", "/api/v1/llm-providers/{other_provider}", WHO_SEE_ALL),
    Endpoint("PUT", "/api/v1/llm-providers/{own_provider}", WHO_CHANGE, {}),
    Endpoint("PUT", "/api/v1/llm-providers/{other_provider}", ADMINS, {}),
    Endpoint("POST", "/api/v1/llm-providers/{own_provider}/test", WHO_CHANGE, answers=503),
    Endpoint("POST", "/api/v1/llm-providers/{other_provider}/test", ADMINS, answers=503),
    Endpoint("GET", "/api/v1/llm-providers/{own_provider}/usage", CALLERS),
    Endpoint("GET", "/api/v1/llm-providers/{other_provider}/usage", WHO_SEE_ALL),
    Endpoint("DELETE", "/api/v1/llm-providers/{own_provider}", WHO_CHANGE),
    Endpoint("DELETE", "/api/v1/llm-providers/{other_provider}", ADMINS),
    Endpoint("GET", "/api/v1/models", CALLERS),
    Endpoint("GET", "/api/v1/models?tenant={own}", CALLERS),
    Endpoint("GET", "/api/v1/models?tenant={other}", WHO_SEE_ALL),
    Endpoint("GET", "/api/v1/usage", CALLERS),
    Endpoint("GET", "/api/v1/usage?tenant={other}", WHO_SEE_ALL),
    Endpoint("GET", "/api/v1/tokens", WHO_CHANGE),
    Endpoint("POST", "/api/v1/tokens", ADMINS, {"name": "n", "role": "admin"}),
    Endpoint("POST", "/api/v1/tokens", ADMINS, {"name": "n", "role": "viewer"}),
    Endpoint("POST", "/api/v1/tokens", WHO_CHANGE, {"name": "n", "role": "tenant_admin", "tenant": "{own}"}),
    Endpoint("POST", "/api/v1/tokens", ADMINS, {"name": "n", "role": "viewer", "tenant": "{other}"}),
    Endpoint("DELETE", "/api/v1/tokens/{own_token}", WHO_CHANGE),
    Endpoint("DELETE", "/api/v1/tokens/{other_token}", ADMINS),
    Endpoint("GET", "/api/v1/alerts", CALLERS),
    Endpoint("GET", "/api/v1/alerts?tenant={other}", WHO_SEE_ALL),
    Endpoint("POST", "/api/v1/alerts/{own_alert}/acknowledge", WHO_CHANGE),
    Endpoint("POST", "/api/v1/alerts/{other_alert}/acknowledge", ADMINS),
    Endpoint("GET", "/api/v1/webhooks", WHO_CHANGE),
    Endpoint(
        "POST", "/api/v1/webhooks", WHO_CHANGE, {"tenant": "{own}", "url": "https://10.1.0.1/", "kinds": ["test"]}
    ),
    Endpoint("POST", "/api/v1/webhooks", ADMINS, {"tenant": "{other}", "url": "https://10.1.0.1/", "kinds": ["test"]}),
    Endpoint("POST", "/api/v1/webhooks", ADMINS, {"url": "https://10.1.0.1/", "kinds": ["test"]}),
    Endpoint("POST", "/api/v1/webhooks/{own_webhook}/test", WHO_CHANGE),
    Endpoint("POST", "/api/v1/webhooks/{other_webhook}/test", ADMINS),
    Endpoint("DELETE", "/api/v1/webhooks/{own_webhook}", WHO_CHANGE),
    Endpoint("DELETE", "/api/v1/webhooks/{other_webhook}", ADMINS),
    Endpoint("GET", "/api/v1/audit", CALLERS),
    Endpoint("GET", "/api/v1/audit?tenant={other}", WHO_SEE_ALL),
    Endpoint("GET", "/api/v1/audit?tenant={other}&format=jsonl", WHO_SEE_ALL),
    Endpoint("GET", "/api/v1/dead-letters", CALLERS),
    Endpoint("GET", "/api/v1/dead-letters?tenant={other}", WHO_SEE_ALL),
    Endpoint("GET", "/api/v1/dead-letters/{own_letter}", CALLERS),
    Endpoint("GET", "/api/v1/dead-letters/{other_letter}", WHO_SEE_ALL),
    Endpoint("POST", "/api/v1/dead-letters/{own_letter}/replay", WHO_CHANGE),
    Endpoint("POST", "/api/v1/dead-letters/{other_letter}/replay", ADMINS),
    Endpoint("DELETE", "/api/v1/dead-letters/{own_letter}", WHO_CHANGE),
    Endpoint("DELETE", "/api/v1/dead-letters/{other_letter}", ADMINS),
    Endpoint("GET", "/api/v1/fleet", WHO_SEE_ALL),
)
