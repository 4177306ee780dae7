"""Authenticates bearer tokens: the bootstrap admin's, those in the database, and those of an OpenID Connect issuer."""

import hashlib
import hmac
from datetime import timedelta

from pydantic import SecretStr
from sqlalchemy import or_, select, update

from admin_api.access.oidc import IssuerAuthenticator
from admin_api.access.principals import Principal, Role
from admin_api.database import Database
from admin_api.http.problems import unauthorized
from contracts.wire import utc_now
from migrations.schema import api_tokens

PREFIX = "fleet_"
"""What a token of ours begins with."""

_LAST_USE_IS_EXACT_TO = timedelta(minutes=1)
"""`last_used_at` is written once in this time, so that not every request writes."""


class Authenticator:
    """Says whom a bearer token belongs to."""

    def __init__(
        self, database: Database, *, bootstrap: SecretStr | None, issuer: IssuerAuthenticator | None = None
    ) -> None:
        """`bootstrap` None: there is no bootstrap admin. `issuer` None: no OpenID Connect issuer is trusted."""
        self._database = database
        self._bootstrap = hash_of(bootstrap) if bootstrap else None
        self._issuer = issuer

    async def authenticate(self, token: SecretStr) -> Principal:
        """Raises a 401 problem, DatabaseUnavailable, and what IssuerAuthenticator.authenticate raises."""
        token_hash = hash_of(token)
        if self._bootstrap is not None and hmac.compare_digest(token_hash, self._bootstrap):
            return Principal("bootstrap", Role.ADMIN)
        text = token.get_secret_value()
        # A JWT has two dots (RFC 7519); ours have none, and what begins like ours is never given to the issuer.
        if self._issuer is not None and not text.startswith(PREFIX) and text.count(".") == 2:
            return await self._issuer.authenticate(token)
        now = utc_now()
        columns = api_tokens.c
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(api_tokens).where(columns.token_hash == token_hash))).first()
            # How long an index takes may depend on what it compares; this comparison takes the same time always.
            if row is None or not hmac.compare_digest(token_hash, bytes(row.token_hash)):
                raise unauthorized("the bearer token is not known")
            if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
                raise unauthorized("the bearer token was revoked or has expired")
            stale_before = now - _LAST_USE_IS_EXACT_TO
            if row.last_used_at is None or row.last_used_at < stale_before:
                # Several requests may have read the same row: whoever comes first writes, the others find it done.
                stale = or_(columns.last_used_at.is_(None), columns.last_used_at < stale_before)
                await connection.execute(update(api_tokens).where(columns.id == row.id, stale).values(last_used_at=now))
        return Principal(f"token:{row.id}", Role(row.role), row.tenant)


def hash_of(token: SecretStr) -> bytes:
    """What is stored of a token. Tokens are random and long, so a plain SHA-256 cannot be guessed back."""
    return hashlib.sha256(token.get_secret_value().encode()).digest()
