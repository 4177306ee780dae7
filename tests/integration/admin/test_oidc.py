"""Tokens of an OpenID Connect issuer, over real HTTP."""

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr

from admin_api.access import jwks
from admin_api.access.jwks import KeySet
from admin_api.access.oidc import Claims, IssuerAuthenticator
from admin_api.http.problems import Problem
from tests import issuer as issuers
from tests.issuer import AUDIENCE, Issuer, ec_key, public


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def issuer() -> AsyncGenerator[Issuer]:
    async with issuers.running() as issuer:
        yield issuer


@pytest_asyncio.fixture
async def oidc(issuer: Issuer, clock: Clock) -> AsyncGenerator[IssuerAuthenticator]:
    keys = KeySet(issuer.url, clock=clock)
    yield IssuerAuthenticator(keys, audience=AUDIENCE, claims=Claims())
    await keys.close()


async def status_of(oidc: IssuerAuthenticator, token: str) -> int:
    """What a request with the token gets from the authenticator; 200: its caller is known."""
    try:
        await oidc.authenticate(SecretStr(token))
    except Problem as problem:
        return problem.status
    return 200


async def test_knows_whom_the_issuer_vouches_for(oidc: IssuerAuthenticator, issuer: Issuer) -> None:
    caller = await oidc.authenticate(SecretStr(issuer.token(sub="jo", roles=["tenant_admin"], tenant="acme")))

    assert (caller.name, caller.role.value, caller.tenant) == ("oidc:jo", "tenant_admin", "acme")


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()])
async def test_takes_the_key_types_that_issuers_use(
    oidc: IssuerAuthenticator, issuer: Issuer, key: issuers.PrivateKey
) -> None:
    issuer.keys = {"other": key}

    assert await status_of(oidc, issuer.token(kid="other", roles=["admin"])) == 200


async def test_an_rsa_key_without_an_algorithm_verifies_each_of_its_type(
    oidc: IssuerAuthenticator, issuer: Issuer
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    issuer.published = [public(key, kid="k")]
    claims = jwt.decode(issuer.token(roles=["admin"]), options={"verify_signature": False})

    for algorithm in ("RS256", "RS512", "PS256"):
        assert await status_of(oidc, jwt.encode(claims, key, algorithm, headers={"kid": "k"})) == 200


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"aud": "another"}, 401),
        ({"aud": ["another", AUDIENCE]}, 200),
        ({"aud": None}, 401),
        ({"iss": "https://example.com"}, 401),
        ({"iss": None}, 401),
        ({"sub": None}, 401),
        ({"exp": None}, 401),
        ({"exp": timedelta(seconds=-30)}, 200),
        ({"exp": timedelta(minutes=-3)}, 401),
        ({"nbf": timedelta(seconds=30)}, 200),
        ({"nbf": timedelta(minutes=3)}, 401),
        ({"iat": timedelta(minutes=3)}, 401),
        ({"exp": "soon"}, 401),
        ({"sub": 7}, 401),
        ({"roles": []}, 403),
    ],
)
async def test_checks_what_a_token_says(
    oidc: IssuerAuthenticator, issuer: Issuer, claims: dict[str, Any], status: int
) -> None:
    stated: dict[str, Any] = {"roles": ["admin"], **claims}

    assert await status_of(oidc, issuer.token(**stated)) == status


def spliced(token: str, *, header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None) -> str:
    """The token with other contents and the same signature."""
    parts = token.split(".")
    for place, changes in ((0, header), (1, claims)):
        if changes is not None:
            text = parts[place] + "=" * (-len(parts[place]) % 4)
            changed = json.loads(base64.urlsafe_b64decode(text)) | changes
            parts[place] = base64.urlsafe_b64encode(json.dumps(changed).encode()).decode().rstrip("=")
    return ".".join(parts)


def unsigned(token: str, *, alg: str) -> str:
    return spliced(token, header={"alg": alg}).rpartition(".")[0]


def signed_with_the_public_key(token: str, issuer: Issuer) -> str:
    """As everybody can who takes it for the secret of HS256."""
    published = issuer.keys["first"].public_key()
    secret = published.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    message = unsigned(token, alg="HS256")
    signature = hmac.digest(secret, message.encode(), "sha256")
    return f"{message}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


async def test_refuses_forgeries(oidc: IssuerAuthenticator, issuer: Issuer) -> None:
    token = issuer.token(roles=["viewer"], tenant="acme")
    claims = jwt.decode(token, options={"verify_signature": False})
    stranger = ec_key()
    forgeries = {
        "other claims": spliced(token, claims={"roles": ["admin"]}),
        "no signature": unsigned(token, alg="none") + ".",
        "none, with a signature": spliced(token, header={"alg": "none"}),
        "the public key as a secret": signed_with_the_public_key(token, issuer),
        "another key": jwt.encode(claims, stranger, "ES256", headers={"kid": "first"}),
        "a key that it brings": jwt.encode(
            claims, stranger, "ES256", headers={"kid": "first", "jwk": public(stranger), "jku": "http://127.0.0.1:1/"}
        ),
        "a key of another kind": spliced(token, header={"alg": "RS256"}),
        "an unknown extension": spliced(token, header={"crit": ["x"], "x": 1}),
        "a kid that is no text": spliced(token, header={"kid": ["first"]}),
        "an alg that is no text": spliced(token, header={"alg": ["ES256"]}),
        "no header": "." + token.partition(".")[2],
        "nested deeply": base64.urlsafe_b64encode(b"[" * 100_000).decode().rstrip("=") + ".e30.x",
        "dots": "..",
    }

    statuses = {name: await status_of(oidc, forgery) for name, forgery in forgeries.items()}

    assert statuses == dict.fromkeys(forgeries, 401)
    assert await status_of(oidc, token) == 200


@pytest.mark.parametrize(
    "members",
    [{"use": "enc"}, {"alg": "RS512"}, {"x": "AA"}, {"kty": "oct", "k": "c2VjcmV0"}, {"kty": "EC", "crv": "secp256k1"}],
)
async def test_a_published_key_is_used_for_what_it_is_for(
    oidc: IssuerAuthenticator, issuer: Issuer, members: dict[str, Any]
) -> None:
    issuer.published = [public(issuer.keys["first"], kid="first", **members)]

    assert await status_of(oidc, issuer.token(roles=["admin"])) == 401


async def test_a_short_rsa_key_is_not_used(oidc: IssuerAuthenticator, issuer: Issuer) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    issuer.published = [public(weak, kid="weak")]
    claims = jwt.decode(issuer.token(roles=["admin"]), options={"verify_signature": False})
    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        token = jwt.encode(claims, weak, "RS256", headers={"kid": "weak"})

    assert await status_of(oidc, token) == 401


@pytest.mark.parametrize(("others", "status"), [((), 200), (("second",), 401)])
async def test_a_token_may_leave_out_which_key_it_means_when_there_is_one(
    oidc: IssuerAuthenticator, issuer: Issuer, others: tuple[str, ...], status: int
) -> None:
    issuer.keys |= {kid: ec_key() for kid in others}

    assert await status_of(oidc, issuer.token(named=False, roles=["admin"])) == status


async def test_a_rotated_key_is_found_at_once_and_the_old_one_no_longer_believed(
    oidc: IssuerAuthenticator, issuer: Issuer, clock: Clock
) -> None:
    old = issuer.token(roles=["admin"])
    assert await status_of(oidc, old) == 200

    issuer.keys = {"second": ec_key()}
    clock.now += jwks.PAUSE_S
    assert await status_of(oidc, issuer.token(kid="second", roles=["admin"])) == 200
    assert await status_of(oidc, old) == 401


async def test_unknown_keys_cost_the_issuer_one_reading_in_a_while(
    oidc: IssuerAuthenticator, issuer: Issuer, clock: Clock
) -> None:
    stranger = spliced(issuer.token(roles=["admin"]), header={"kid": "unknown"})
    for _ in range(50):
        assert await status_of(oidc, stranger) == 401
    assert issuer.reads == 1

    clock.now += jwks.PAUSE_S
    await status_of(oidc, stranger)
    assert issuer.reads == 2


async def test_known_keys_go_on_while_the_issuer_is_away(
    oidc: IssuerAuthenticator, issuer: Issuer, clock: Clock
) -> None:
    known, unknown = issuer.token(roles=["admin"]), spliced(issuer.token(), header={"kid": "unknown"})
    assert await status_of(oidc, known) == 200
    await issuer.stop()

    clock.now += jwks.KEPT_S
    assert (await status_of(oidc, known), await status_of(oidc, unknown)) == (200, 503)
    clock.now += jwks.PAUSE_S
    assert await status_of(oidc, known) == 503

    await issuer.start()
    clock.now += jwks.PAUSE_S
    assert (await status_of(oidc, known), await status_of(oidc, unknown)) == (200, 401)


@pytest.mark.parametrize("claimed", ["https://example.com", ""])
async def test_the_document_of_another_issuer_is_not_believed(
    oidc: IssuerAuthenticator, issuer: Issuer, claimed: str
) -> None:
    issuer.claimed = claimed

    assert await status_of(oidc, issuer.token(roles=["admin"])) == 503


@pytest.mark.parametrize("published", [[], [{}], [{"kid": "first"}], [{"kid": "first", "kty": 7}]])
async def test_odd_keys_are_passed_over(
    oidc: IssuerAuthenticator, issuer: Issuer, published: list[dict[str, Any]]
) -> None:
    issuer.published = published

    assert await status_of(oidc, issuer.token(roles=["admin"])) == 401


async def test_keys_are_read_before_anybody_asks(issuer: Issuer) -> None:
    keys = KeySet(issuer.url)
    reading = asyncio.create_task(keys.keep_fresh())
    async with asyncio.timeout(60):
        while issuer.reads == 0:
            await asyncio.sleep(0.01)
    assert await keys.find("first", "ES256") is not None
    assert issuer.reads == 1

    reading.cancel()
    await keys.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[::1]/", "http://localhost:80/x", "https://example.com"])
def test_keys_are_read_where_nobody_can_alter_them(url: str) -> None:
    jwks.check_url(url)


@pytest.mark.parametrize("url", ["http://example.com", "http://10.0.0.1", "ftp://127.0.0.1", "file:///etc/passwd", ""])
def test_and_nowhere_else(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        jwks.check_url(url)
