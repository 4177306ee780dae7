"""How a role comes into Vault and stays there: AppRole, Kubernetes, renewal, refusal. Against a real server."""

import asyncio
import json
import ssl
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr, ValidationError

from fleet.local.vault_api import VaultApi
from runtime.broker import Unreachable
from runtime.settings import VaultSettings
from runtime.vault import VaultDenied, VaultSession
from tests.servers import Vault
from tests.web import serving


@asynccontextmanager
async def session(settings: VaultSettings) -> AsyncGenerator[VaultSession]:
    opened = VaultSession(settings)
    try:
        yield opened
    finally:
        await opened.close()


def about_self(client: Any) -> dict[str, Any]:
    return client.auth.token.lookup_self()["data"]


class Role:
    """An AppRole of this test's own, which reads nothing but its own token."""

    def __init__(self, root: VaultApi, name: str) -> None:
        self.root = root
        self.path = f"auth/approle/role/{name}"
        self.secret_id = ""

    async def create(self, **limits: str) -> None:
        await self.root.call("PUT", "sys/policies/acl/own-token", {"policy": OWN_TOKEN})
        fields = {"token_policies": ["own-token"], "token_no_default_policy": True, **limits}
        await self.root.call("POST", self.path, fields)
        await self.root.call("POST", f"{self.path}/role-id", {"role_id": self.path})
        await self.new_secret_id()

    async def new_secret_id(self) -> None:
        self.secret_id = (await self.root.call("POST", f"{self.path}/secret-id", {}))["data"]["secret_id"]

    async def withdraw_secret_id(self) -> None:
        await self.root.call("POST", f"{self.path}/secret-id/destroy", {"secret_id": self.secret_id})

    def settings(self, addr: str) -> VaultSettings:
        return VaultSettings(vault_addr=addr, vault_role_id=self.path, vault_secret_id=SecretStr(self.secret_id))


OWN_TOKEN = """
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
"""


@pytest.fixture
def role(vault: Vault, tenant: str) -> Role:
    return Role(vault.root, tenant)


async def test_a_token_is_renewed_until_vault_lets_it_go_on_no_longer(vault: Vault, role: Role) -> None:
    await role.create(token_ttl="2s", token_max_ttl="3s")
    seen: dict[str, float] = {}
    first_lived_s = 0.0
    async with session(role.settings(vault.addr)) as opened:
        began = time.monotonic()
        while len(seen) < 2 and time.monotonic() - began < 10:
            accessor = (await opened.call(about_self))["accessor"]
            seen.setdefault(accessor, time.monotonic())
            if len(seen) == 1:
                first_lived_s = time.monotonic() - began
            await asyncio.sleep(0.05)

    assert len(seen) == 2
    assert first_lived_s > 1.4  # renewed at two thirds of its first two seconds
    assert opened.usable


async def test_a_revoked_token_is_replaced_once_for_all_who_used_it(vault: Vault, role: Role) -> None:
    await role.create()
    async with session(role.settings(vault.addr)) as opened:
        accessor = (await opened.call(about_self))["accessor"]
        await vault.root.call("POST", "auth/token/revoke-accessor", {"accessor": accessor})

        found = await asyncio.gather(*(opened.call(about_self) for _ in range(20)))

    assert {about["accessor"] for about in found} != {accessor}
    assert len({about["accessor"] for about in found}) == 1


async def test_a_refused_login_shows_and_heals(vault: Vault, role: Role) -> None:
    await role.create()
    async with session(role.settings(vault.addr)) as opened:
        accessor = (await opened.call(about_self))["accessor"]
        assert opened.usable
        await role.withdraw_secret_id()
        await vault.root.call("POST", "auth/token/revoke-accessor", {"accessor": accessor})

        with pytest.raises(VaultDenied, match="VAULT_SECRET_ID"):
            await opened.call(about_self)
        assert not opened.usable

        custom = {"secret_id": role.secret_id}
        await vault.root.call("POST", f"{role.path}/custom-secret-id", custom)
        assert (await opened.call(about_self))["accessor"] != accessor
        assert opened.usable


async def test_a_given_token_is_renewed_too(vault: Vault) -> None:
    made = await vault.root.call("POST", "auth/token/create", {"ttl": "1h", "policies": ["default"]})
    async with session(VaultSettings(vault_addr=vault.addr, vault_token=made["auth"]["client_token"])) as opened:
        assert (await opened.call(about_self))["last_renewal_time"] is not None
    async with session(VaultSettings(vault_addr=vault.addr, vault_token=SecretStr(vault.root_token))) as opened:
        assert "root" in (await opened.call(about_self))["policies"]


# Kubernetes

NAMESPACE, ACCOUNT = "fleet", "worker-openai"


class Kubernetes:
    """The one call of a Kubernetes API server that Vault makes: TokenReview. Knows the tokens that are valid."""

    def __init__(self) -> None:
        self.valid: set[str] = set()
        self.url = ""
        self.certificate = ""

    def new_token(self, *, account: str = ACCOUNT, number: int = 1) -> str:
        """A service account's token; its signature is the API server's business alone, and this one checks none."""
        user = f"system:serviceaccount:{NAMESPACE}:{account}"
        claims = {
            "sub": user,
            "jti": str(number),
            "kubernetes.io": {"namespace": NAMESPACE, "serviceaccount": {"name": account, "uid": "u-1"}},
        }
        parts = [json.dumps({"alg": "RS256", "typ": "JWT"}).encode(), json.dumps(claims).encode(), b"signature"]
        token = ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
        self.valid.add(token)
        return token

    async def review(self, request: web.Request) -> web.Response:
        review = await request.json()
        token = review["spec"]["token"]
        if token not in self.valid:
            return web.json_response({**review, "status": {"authenticated": False}}, status=201)
        payload = token.split(".")[1]
        user = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
        status = {"authenticated": True, "user": {"username": user, "uid": "u-1", "groups": []}}
        return web.json_response({**review, "status": status}, status=201)


def self_signed(file: Path) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return file


@pytest_asyncio.fixture
async def kubernetes(tmp_path: Path) -> AsyncGenerator[Kubernetes]:
    cluster = Kubernetes()
    app = web.Application()
    app.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", cluster.review)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(self_signed(tmp_path / "api-server.pem"))
    cluster.certificate = (tmp_path / "api-server.pem").read_text().partition("-----BEGIN PRIVATE")[0]
    async with serving(app, tls=tls) as port:
        cluster.url = f"https://127.0.0.1:{port}"
        yield cluster


@pytest_asyncio.fixture
async def kubernetes_role(vault: Vault, kubernetes: Kubernetes, tenant: str) -> AsyncGenerator[str]:
    """The mount of an auth method that lets the service account in as `worker-openai`."""
    mount = f"kubernetes-{tenant}"
    await vault.root.call("POST", f"sys/auth/{mount}", {"type": "kubernetes"})
    api_server = {"kubernetes_host": kubernetes.url, "kubernetes_ca_cert": kubernetes.certificate}
    await vault.root.call("POST", f"auth/{mount}/config", {**api_server, "disable_local_ca_jwt": True})
    bound = {
        "bound_service_account_names": [ACCOUNT],
        "bound_service_account_namespaces": [NAMESPACE],
        "token_policies": ["worker-openai"],
        "token_no_default_policy": True,
        "token_period": "1h",
        "audience": "",
    }
    await vault.root.call("POST", f"auth/{mount}/role/worker-openai", bound)
    yield mount
    await vault.root.call("DELETE", f"sys/auth/{mount}")


async def test_a_service_account_logs_in_with_the_token_that_it_has_now(
    vault: Vault, kubernetes: Kubernetes, kubernetes_role: str, tmp_path: Path, tenant: str
) -> None:
    await vault.root.call("POST", f"llm/data/openai/{tenant}", {"data": {"sealed": "x", "key_version": 1}})
    file = tmp_path / "token"
    file.write_text(kubernetes.new_token() + "\n")
    settings = VaultSettings(
        vault_addr=vault.addr,
        vault_k8s_role="worker-openai",
        vault_k8s_mount=kubernetes_role,
        vault_k8s_token_path=str(file),
    )
    async with session(settings) as opened:
        await opened.start()
        accessor = (await opened.call(about_self))["accessor"]
        read = await opened.call(lambda client: client.read(f"llm/data/openai/{tenant}"))
        assert read["data"]["data"]["sealed"] == "x"

        kubernetes.valid.clear()
        await vault.root.call("POST", "auth/token/revoke-accessor", {"accessor": accessor})
        with pytest.raises(VaultDenied, match="VAULT_K8S_ROLE"):
            await opened.call(about_self)
        assert not opened.usable

        file.write_text(kubernetes.new_token(number=2))
        assert (await opened.call(about_self))["accessor"] != accessor


async def test_another_service_account_is_refused(
    vault: Vault, kubernetes: Kubernetes, kubernetes_role: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(kubernetes.new_token(account="somebody-else"))
    settings = {"vault_addr": vault.addr, "vault_k8s_role": "worker-openai", "vault_k8s_mount": kubernetes_role}
    for path, why in ((file, "VAULT_K8S_ROLE"), (tmp_path / "missing", "VAULT_K8S_TOKEN_PATH")):
        async with session(VaultSettings.model_validate({**settings, "vault_k8s_token_path": str(path)})) as opened:
            with pytest.raises(Unreachable, match=why):
                await opened.start()


def test_two_ways_in_are_refused() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        VaultSettings(vault_role_id="a", vault_k8s_role="b")
