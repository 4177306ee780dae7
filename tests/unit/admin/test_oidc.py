"""What an issuer's claims make of their bearer."""

from typing import Any

import pytest

from admin_api.access.oidc import Claims, principal_of
from admin_api.access.principals import Role
from admin_api.http.problems import Problem
from admin_api.settings import OidcSettings

CLAIMS = Claims()


@pytest.mark.parametrize(
    ("claims", "role", "tenant"),
    [
        ({"roles": ["admin"]}, Role.ADMIN, None),
        ({"roles": ["admin"], "tenant": "*"}, Role.ADMIN, None),
        ({"roles": ["admin"], "tenant": "acme"}, Role.TENANT_ADMIN, "acme"),
        ({"roles": ["tenant_admin"], "tenant": "acme"}, Role.TENANT_ADMIN, "acme"),
        ({"roles": ["viewer"], "tenant": "acme"}, Role.VIEWER, "acme"),
        ({"roles": ["viewer"], "tenant": "*"}, Role.VIEWER, None),
        ({"roles": ["viewer", "other", "tenant_admin"], "tenant": "acme"}, Role.TENANT_ADMIN, "acme"),
        ({"roles": "viewer", "tenant": "acme"}, Role.VIEWER, "acme"),
        ({"roles": "openid viewer", "tenant": "acme"}, Role.VIEWER, "acme"),
    ],
)
def test_roles_and_tenants(claims: dict[str, Any], role: Role, tenant: str | None) -> None:
    caller = principal_of({"sub": "s", **claims}, CLAIMS)

    assert (caller.role, caller.tenant, caller.name) == (role, tenant, "oidc:s")


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"roles": []},
        {"roles": ["root"]},
        {"roles": {"admin": True}},
        {"roles": [["admin"]]},
        {"roles": ["viewer"]},
        {"roles": ["tenant_admin"]},
        {"roles": ["tenant_admin"], "tenant": "*"},
        {"roles": ["viewer"], "tenant": "a.b"},
        {"roles": ["viewer"], "tenant": ["acme"]},
        {"roles": ["admin"], "tenant": ""},
        {"roles": ["admin"], "tenant": "acme.>"},
    ],
)
def test_refuses_what_names_no_role_or_no_tenant(claims: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        principal_of({"sub": "s", **claims}, CLAIMS)

    assert caught.value.status == 403


@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["boss"]}}),
        ("https://example.com/roles", {"https://example.com/roles": ["boss"]}),
        ("a.b", {"a.b": ["boss"], "a": {"b": ["x"]}}),
    ],
)
def test_claims_may_be_nested_and_roles_named_otherwise(name: str, claims: dict[str, Any]) -> None:
    caller = principal_of({"sub": "s", **claims}, Claims(role=name, roles={"boss": Role.ADMIN}))

    assert caller.role is Role.ADMIN


def test_a_subject_enters_the_log_as_printable_text() -> None:
    caller = principal_of({"sub": "a\n\0" + "b" * 1000, "roles": ["admin"]}, CLAIMS)

    assert caller.name == "oidc:a??" + "b" * 197


def test_settings_name_issuer_audience_and_roles() -> None:
    values = {
        "llm_oidc_issuer": "https://login.example.com/",
        "llm_oidc_audience": "fleet",
        "llm_oidc_roles": "boss=admin, cn=x,ou=y = viewer".replace(",ou", ";ou"),
    }

    claims = OidcSettings.model_validate(values).claims()

    assert claims.roles == {"boss": Role.ADMIN, "cn=x;ou=y": Role.VIEWER}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"llm_oidc_issuer": "https://login.example.com"}, "LLM_OIDC_AUDIENCE"),
        ({"llm_oidc_issuer": "http://login.example.com", "llm_oidc_audience": "fleet"}, "https://"),
        ({"llm_oidc_issuer": "login.example.com", "llm_oidc_audience": "fleet"}, "https://"),
        ({"llm_oidc_roles": "boss=root"}, "admin"),
        ({"llm_oidc_roles": "boss"}, "admin"),
    ],
)
def test_refuses_settings_that_make_no_sense(values: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        OidcSettings.model_validate(values)
