"""The keys that an OpenID Connect issuer signs with: found by discovery, kept while it is away, read anew when it
rotates them. https://openid.net/specs/openid-connect-discovery-1_0.html, RFC 7517.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import httpx2
from jwt import PyJWK
from jwt.exceptions import PyJWTError
from pydantic import BaseModel, Field, JsonValue

from contracts.wire import reason
from runtime.networks import literal_addresses
from runtime.tasks import every

log = logging.getLogger(__name__)

FRESH_S = 600
"""The time between two readings, unless a token names a key that is not known."""
KEPT_S = 86_400
"""How long keys are believed while the issuer does not answer; one that it withdrew is believed no longer than that."""
PAUSE_S = 10
"""The least time between two attempts, whoever asks. Tokens that name unknown keys cost the issuer no more."""

_TIMEOUT_S = 5
_MAX_BYTES = 1024 * 1024
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
ALGORITHMS = (*_RSA, *_CURVES.values())
"""Asymmetric ones only. With HS256 the public key would be the secret that signs (RFC 8725, 3.1)."""

Keys = Mapping[str, Mapping[str, PyJWK]]
"""An issuer's keys by their `kid` and by the algorithm that they verify."""


class IssuerUnavailable(Exception):
    """The issuer's keys cannot be read, and what is known of them does not suffice."""


class _Discovered(BaseModel):
    issuer: str
    jwks_uri: str


class _Published(BaseModel):
    keys: Annotated[list[dict[str, JsonValue]], Field(max_length=100)]


class KeySet:
    """The keys of one issuer, as they were last read."""

    def __init__(self, issuer: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.issuer = issuer
        self._clock = clock
        self._client = httpx2.AsyncClient(
            timeout=_TIMEOUT_S, verify=ssl.create_default_context(), follow_redirects=False, trust_env=False
        )
        self._keys: Keys = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading = asyncio.Lock()

    async def close(self) -> None:
        await self._client.aclose()

    async def keep_fresh(self) -> None:
        """Reads the keys now and every ten minutes, or every ten seconds while the issuer does not answer."""

        async def read() -> float:
            return FRESH_S if await self._read() else PAUSE_S

        await every(PAUSE_S, read, log=log, failure_event="issuer_unavailable")

    async def find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key with that `kid` for that algorithm; None when the issuer has no such key.

        Raises IssuerUnavailable when the key is not known and the issuer cannot be asked.
        """
        if (found := self._known(kid, algorithm)) is not None:
            return found
        answers = await self._read()
        found = self._known(kid, algorithm)
        if found is None and not answers:
            raise IssuerUnavailable(f"{self.issuer} does not answer, and the key of this token is not known")
        return found

    def _known(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """What was read of the key. Without a `kid` only an issuer's single key can be meant."""
        if self._read_at is None or self._clock() - self._read_at > KEPT_S:
            return None
        keys = self._keys.get(kid) if kid is not None else next(iter(self._keys.values()), None)
        if keys is None or (kid is None and len(self._keys) > 1):
            return None
        return keys.get(algorithm)

    async def _read(self) -> bool:
        """Reads the keys, unless somebody tried a moment ago. Returns whether the issuer answered the last attempt."""
        async with self._reading:
            now = self._clock()
            # Whoever waited for the lock finds that the reading it wanted has just been made.
            if self._tried_at is not None and now - self._tried_at < PAUSE_S:
                return self._read_at == self._tried_at
            self._tried_at = now
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    self._keys = await self._published()
            except (httpx2.HTTPError, OSError, TimeoutError, ValueError) as exc:
                log.warning("issuer_unavailable", extra={"issuer": self.issuer, "error": reason(exc)})
                return False
            self._read_at = now
            return True

    async def _published(self) -> Keys:
        """Raises httpx2.HTTPError, OSError, TimeoutError, ValueError."""
        url = f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"
        found = _Discovered.model_validate_json(await self._get(url))
        if found.issuer != self.issuer:
            # OpenID Connect Discovery 1.0, 4.3: else one issuer could speak for another.
            raise ValueError("the document at its address is another issuer's")
        check_url(found.jwks_uri)
        published = _Published.model_validate_json(await self._get(found.jwks_uri))
        return {str(jwk.get("kid", "")): usable for jwk in published.keys if (usable := dict(_usable(jwk)))}

    async def _get(self, url: str) -> bytes:
        async with self._client.stream("GET", url) as answer:
            answer.raise_for_status()
            body = b""
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > _MAX_BYTES:
                    raise ValueError("its answer is too large")
            return body


def check_url(url: str) -> None:
    """Raises ValueError unless nobody on the way can alter what is read there."""
    parts = httpx2.URL(url)
    addresses = literal_addresses(parts.host)
    if parts.scheme != "https" and not (parts.scheme == "http" and addresses and all(a.is_loopback for a in addresses)):
        raise ValueError("must be an https:// address; http:// only on this machine")


def _usable(jwk: Mapping[str, Any]) -> Iterator[tuple[str, PyJWK]]:
    """A published key for each algorithm that it verifies: the one that it names, else each of its type."""
    if jwk.get("use", "sig") != "sig":
        return
    fitting = _RSA if jwk.get("kty") == "RSA" else (_CURVES.get(str(jwk.get("crv"))),)
    for algorithm in fitting:
        if algorithm is not None and jwk.get("alg", algorithm) == algorithm:
            try:
                yield algorithm, PyJWK(dict(jwk), algorithm)
            except PyJWTError:
                log.warning("issuer_key_unusable", extra={"kid": jwk.get("kid"), "algorithm": algorithm})
