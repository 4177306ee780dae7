"""Recognises bearer tokens: the bootstrap admin's, those in the database, and those of an OpenID Connect issuer."""

import hashlib
import hmac
from datetime import timedelta

from pydantic import SecretStr
from sqlalchemy import or_, select, update

from admin_api.access.oidc import Oidc
from admin_api.access.principals import Principal, Role
from admin_api.database import Database
from admin_api.http.problems import unauthorized
from contracts.wire import utc_now
from migrations.schema import api_tokens

PREFIX = "fleet_"
"""What a token of ours begins with."""

_SEEN_EVERY = timedelta(minutes=1)
"""How exact `last_used_at` is: not every request writes."""


class Gate:
    """`oidc` None: no issuer is trusted."""

    def __init__(self, database: Database, bootstrap: SecretStr | None, oidc: Oidc | None = None) -> None:
        self._database = database
        self._bootstrap = hash_of(bootstrap) if bootstrap else None
        self._oidc = oidc

    async def recognise(self, token: SecretStr) -> Principal:
        """Raises a 401 problem; and what Oidc.recognise does."""
        presented = hash_of(token)
        if self._bootstrap is not None and hmac.compare_digest(presented, self._bootstrap):
            return Principal("bootstrap", Role.ADMIN)
        if self._oidc is not None and _is_jwt(token):
            return await self._oidc.recognise(token)
        return await self._recognise_stored(presented)

    async def _recognise_stored(self, presented: bytes) -> Principal:
        now = utc_now()
        async with self._database.transaction() as connection:
            row = (await connection.execute(select(api_tokens).where(api_tokens.c.token_hash == presented))).first()
            if row is None or not hmac.compare_digest(presented, bytes(row.token_hash)):
                raise unauthorized("the bearer token is not known")
            if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
                raise unauthorized("the bearer token was revoked or has expired")
            stale = or_(api_tokens.c.last_used_at.is_(None), api_tokens.c.last_used_at < now - _SEEN_EVERY)
            if row.last_used_at is None or row.last_used_at < now - _SEEN_EVERY:
                await connection.execute(
                    update(api_tokens).where(api_tokens.c.id == row.id, stale).values(last_used_at=now)
                )
        return Principal(f"token:{row.id}", Role(row.role), row.tenant)


def hash_of(token: SecretStr) -> bytes:
    """What is stored of a token. Tokens are random and long, so a plain SHA-256 cannot be guessed back."""
    return hashlib.sha256(token.get_secret_value().encode()).digest()


def _is_jwt(token: SecretStr) -> bool:
    text = token.get_secret_value()
    return not text.startswith(PREFIX) and text.count(".") == 2
