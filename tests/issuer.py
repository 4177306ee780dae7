"""An OpenID Connect issuer over HTTP: its discovery document, its keys, and tokens that it signs."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from contracts.wire import utc_now
from tests.ports import free_port
from tests.web import serving

AUDIENCE = "fleet"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class Issuer:
    """Signs with `keys[kid]`; publishes all of `published`, by default the same."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stack = AsyncExitStack()
        self.url = f"http://127.0.0.1:{port}/realms/fleet"
        self.claimed = self.url
        """What its discovery document calls it."""
        self.keys: dict[str, PrivateKey] = {"first": ec_key()}
        self.published: list[dict[str, Any]] | None = None
        self.reads = 0
        """How often its keys were read."""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/realms/fleet/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/keys", self._keys)
        await self._stack.enter_async_context(serving(app, self._port))

    async def stop(self) -> None:
        await self._stack.aclose()

    def token(self, *, kid: str = "first", named: bool = True, **claims: Any) -> str:
        """Claims that are None are left out, a timedelta is from now on. `named`: it says which key signed it."""
        now = utc_now()
        stated = {"iss": self.url, "aud": AUDIENCE, "sub": "somebody", "iat": now, "exp": timedelta(minutes=5)} | claims
        times = {name: now + value for name, value in stated.items() if isinstance(value, timedelta)}
        kept = {name: value for name, value in (stated | times).items() if value is not None}
        key = self.keys[kid]
        return jwt.encode(kept, key, algorithm=_algorithm(key), headers={"kid": kid} if named else None)

    async def _discovery(self, _: web.Request) -> web.Response:
        return web.json_response({"issuer": self.claimed, "jwks_uri": f"http://127.0.0.1:{self._port}/keys"})

    async def _keys(self, _: web.Request) -> web.Response:
        self.reads += 1
        own = [public(key, kid=kid) for kid, key in self.keys.items()]
        return web.json_response({"keys": self.published if self.published is not None else own})


def public(key: PrivateKey, **members: Any) -> dict[str, Any]:
    """The key as an issuer publishes it."""
    match key:
        case rsa.RSAPrivateKey():
            jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            jwk = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, **members}


def _algorithm(key: PrivateKey) -> str:
    match key:
        case rsa.RSAPrivateKey():
            return "RS256"
        case ec.EllipticCurvePrivateKey():
            return "ES256"
        case _:
            return "EdDSA"


@asynccontextmanager
async def running() -> AsyncGenerator[Issuer]:
    issuer = Issuer(free_port())
    await issuer.start()
    try:
        yield issuer
    finally:
        await issuer.stop()
