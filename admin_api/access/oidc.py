"""Authenticates callers with a token of an OpenID Connect issuer: a JWT that it signed for us, whose claims say who
they are and what they may do.

A token never reaches beyond the tenant that it names; `*` is all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import jwt
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAudienceError,
    InvalidIssuerError,
    MissingRequiredClaimError,
    PyJWTError,
)
from pydantic import SecretStr, TypeAdapter, ValidationError

from admin_api.access.jwks import ALGORITHMS, IssuerUnavailable, KeySet
from admin_api.access.principals import Principal, Role
from admin_api.http.problems import forbidden, unauthorized, unavailable
from contracts.wire import Token

ALL_TENANTS = "*"

_CLOCK_SKEW = timedelta(seconds=60)
_MAX_SUBJECT = 200
_TENANT: TypeAdapter[str] = TypeAdapter(Token)
_REASONS: tuple[tuple[type[PyJWTError], str], ...] = (
    (ExpiredSignatureError, "it has expired"),
    (ImmatureSignatureError, "it is not valid yet"),
    (InvalidAudienceError, "it is for another audience"),
    (InvalidIssuerError, "it is another issuer's"),
    (MissingRequiredClaimError, "it lacks one of aud, exp, iss, sub"),
)


@dataclass(frozen=True, slots=True)
class Claims:
    """Where an issuer's tokens say what their bearer may do. A name with dots may lead into objects."""

    role: str = "roles"
    tenant: str = "tenant"
    roles: Mapping[str, Role] = field(default_factory=lambda: {role.value: role for role in Role})
    """Our role for each name that the issuer uses."""


class IssuerAuthenticator:
    """Says whom a token of one issuer belongs to."""

    def __init__(self, keys: KeySet, *, audience: str, claims: Claims) -> None:
        self._keys = keys
        self._audience = audience
        self._claims = claims
        self._jwt = jwt.PyJWT({"enforce_minimum_key_length": True})

    async def authenticate(self, token: SecretStr) -> Principal:
        """Raises a 401 problem; 403 when it gives no role here; 503 when its key is not known and cannot be read."""
        try:
            header = jwt.get_unverified_header(token.get_secret_value())
            if (algorithm := header.get("alg")) not in ALGORITHMS:
                raise unauthorized("the token's algorithm is not accepted")
            key = await self._keys.find(header.get("kid"), algorithm)
            if key is None:
                raise unauthorized("the issuer has no such key")
            verified = self._jwt.decode(
                token.get_secret_value(),
                key,
                # The key's own algorithm, not the token's: the header is the sender's word.
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._keys.issuer,
                leeway=_CLOCK_SKEW,
                options={"require": ["aud", "exp", "iss", "sub"]},
            )
            return principal_of(verified, self._claims)
        except PyJWTError as exc:
            why = next((why for kind, why in _REASONS if isinstance(exc, kind)), "it is malformed, or not signed by it")
            raise unauthorized(f"the issuer's token is refused: {why}") from exc
        except IssuerUnavailable as exc:
            raise unavailable(str(exc)) from exc


def principal_of(token: Mapping[str, Any], claims: Claims) -> Principal:
    """Whom a verified token speaks for. Raises a 403 problem."""
    named = _texts(_claim(token, claims.role))
    # Role lists the most powerful first, so a caller with several roles gets that one.
    role = next((role for role in Role if role in {claims.roles.get(name) for name in named}), None)
    if role is None:
        raise forbidden(f"the token's claim {claims.role} names no role of this API")
    subject = str(token["sub"])[:_MAX_SUBJECT]
    # The audit log and the process's log show it, so it is printable.
    name = f"oidc:{''.join(letter if letter.isprintable() else '?' for letter in subject)}"
    tenant: str | None = _claim(token, claims.tenant)
    if tenant is not None and tenant != ALL_TENANTS:
        try:
            tenant = _TENANT.validate_python(tenant)
        except ValidationError as exc:
            raise forbidden(f"the token's claim {claims.tenant} is not the name of a tenant") from exc
    match role, tenant:
        case Role.ADMIN, None | "*":
            return Principal(name, Role.ADMIN)
        case Role.ADMIN | Role.TENANT_ADMIN, str() if tenant != ALL_TENANTS:
            return Principal(name, Role.TENANT_ADMIN, tenant)
        case Role.VIEWER, str():
            return Principal(name, Role.VIEWER, None if tenant == ALL_TENANTS else tenant)
        case _:
            raise forbidden(f"the token names no tenant, which the role {role} needs")


def _claim(token: Mapping[str, Any], name: str) -> Any:
    """The claim of that name, or the one to which its parts between dots lead. The whole name comes first, because a
    claim's name may have dots itself, as `https://example.com/roles` has."""
    if name in token:
        return token[name]
    value: Any = token
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _texts(value: Any) -> list[str]:
    """The texts of a claim that is a list of them, or one text, which may consist of words as `scope` does."""
    if isinstance(value, str):
        return [value, *value.split()]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
