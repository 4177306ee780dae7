"""Every user logs in as `fleet nats-config` writes it: by nkey and by TLS with certificates on both sides."""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from contracts.events import Completed
from fleet.client import Client
from fleet.deploy import nats_config, nats_seeds, nats_users
from fleet.local.servers import NatsServer
from fleet.simulator.tcp import listening
from runtime import broker
from runtime.settings import BrokerSettings
from tests.kit import Plane, worker, worker_settings
from tests.ports import free_port
from tests.servers import Vault

TENANT = "acme"
USERS = {user.name: user for user in nats_users.users(tenants=[TENANT, "globex"], providers=["mock"])}


class Authority:
    """Signs certificates for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")])
        self.path = str(folder / "ca.pem")
        ca = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        Path(self.path).write_bytes(_pem(ca.sign(self._key, hashes.SHA256())))

    def certificate(self, name: str) -> tuple[str, str]:
        """Paths of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        signed = self._builder(subject, key).add_extension(address, critical=False).sign(self._key, hashes.SHA256())
        paths = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        paths[0].write_bytes(_pem(signed))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(paths[0]), str(paths[1])

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(minutes=5),
            not_valid_after=now + timedelta(hours=1),
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Site:
    url: str
    authority: Authority
    seeds: Path
    certificate: tuple[str, str]

    def login(self, user: str) -> dict[str, Any]:
        cert, key = self.certificate
        return {
            "nats_nkey_seed_file": str(self.seeds / f"{user}.nk"),
            "nats_cacert": self.authority.path,
            "nats_tls_cert": cert,
            "nats_tls_key": key,
        }

    def settings(self, user: str, **changes: Any) -> dict[str, Any]:
        return {"nats_url": self.url, **self.login(user), **changes}

    def context(self) -> ssl.SSLContext:
        tls = ssl.create_default_context(cafile=self.authority.path)
        tls.load_cert_chain(*self.certificate)
        return tls


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncGenerator[Site]:
    authority = Authority(tmp_path / "ca")
    cert, key = authority.certificate("server")
    seeds = tmp_path / "seeds"
    login = nats_config.by_nkey(lambda user: nats_seeds.public_key(user, folder=seeds))
    server = NatsServer(
        tmp_path / "nats",
        port=free_port(),
        accounts=nats_config.accounts(list(USERS.values()), login=login),
        tls=nats_config.Tls(cert, key, authority.path),
    )
    await server.start()
    yield Site(server.url.replace("nats://", "tls://"), authority, seeds, authority.certificate("client"))
    await server.kill()


async def refusal(settings: dict[str, Any]) -> str:
    with pytest.raises(broker.Unreachable) as refused:
        async with broker.connect(BrokerSettings.model_validate(settings), name="a-test", inbox_prefix="_ROLE_admin"):
            pass
    return str(refused.value)


@pytest.mark.parametrize("name", USERS)
async def test_every_user_logs_in_with_its_nkey(site: Site, name: str) -> None:
    settings = BrokerSettings.model_validate(site.settings(name))
    async with broker.connect(settings, name=name, inbox_prefix=USERS[name].inbox_prefix) as connection:
        assert connection.connected


async def test_a_request_passes_from_agent_to_worker_and_back(site: Site, vault: Vault) -> None:
    admin = BrokerSettings.model_validate(site.settings("admin"))
    async with broker.connect(admin, name="admin", inbox_prefix="_ROLE_admin") as connection:
        await broker.ensure_streams(connection, admin)
        plane = Plane(connection.client, vault, TENANT)
        await plane.put_tenant()
        await plane.put_provider("mock")
        pool = worker_settings(site.url, vault, **site.login("worker-mock"))
        agent = Client(
            site.url,
            tenant=TENANT,
            agent="planner",
            nkeys_seed=str(site.seeds / f"agent-{TENANT}.nk"),
            tls=site.context(),
            tls_handshake_first=True,
        )
        async with worker(pool), agent:
            stream = agent.stream("mock/echo", "over the wall")
            events = [event async for event in stream]
            assert isinstance(events[-1], Completed)
            assert events[-1].message.content == "You said: over the wall"
            again = [event async for event in agent.resume(stream.request_id)]
            assert again[-1] == events[-1]


async def test_the_watcher_of_the_system_account_sees_the_servers(site: Site) -> None:
    settings = BrokerSettings.model_validate(site.settings("monitor"))
    async with broker.connect(settings, name="monitor", inbox_prefix="_ROLE_monitor") as connection:
        assert b'"FLEET"' in await connection.request("$SYS.REQ.SERVER.PING.JSZ", b'{"accounts": true}')


async def test_the_nkey_of_somebody_else_is_refused(site: Site, tmp_path: Path) -> None:
    nats_seeds.public_key(USERS["admin"], folder=tmp_path / "strangers")
    stranger = site.settings("admin", nats_nkey_seed_file=str(tmp_path / "strangers" / "admin.nk"))
    assert "authorization violation" in (await refusal(stranger)).lower()


async def test_a_server_whose_certificate_another_authority_signed_is_refused(site: Site, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    assert "certificate verify failed" in (await refusal(site.settings("admin", nats_cacert=other.path))).lower()


async def test_a_client_without_a_certificate_is_refused(site: Site) -> None:
    await refusal(site.settings("admin", nats_tls_cert=None, nats_tls_key=None))


async def test_nothing_is_said_to_a_server_that_offers_no_tls(tmp_path: Path) -> None:
    """As somebody on the way would do, to read the password."""
    heard = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"auth_required":true}\r\n')
        heard += await reader.read()

    async with listening(serve) as port:
        url = f"tls://127.0.0.1:{port}"
        said = await refusal({"nats_url": url, "nats_user": "admin", "nats_password": "not-for-you"})
    assert "offers no TLS" in said
    assert heard == b""


def test_the_command_writes_what_the_server_takes(tmp_path: Path) -> None:
    cert, key = Authority(tmp_path / "ca").certificate("server")
    arguments = ("--tenant", "acme", "--auth", "nkey", "--seeds", str(tmp_path / "seeds"))
    arguments += ("--jetstream-key", str(tmp_path / "jetstream-key.conf"))
    tls = ("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", str(tmp_path / "ca" / "ca.pem"))
    command = [sys.executable, "-m", "fleet", "nats-config", *arguments, *tls]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == second
    assert "password" not in first
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "seeds").iterdir()} == {0o600}
    config = tmp_path / "nats.conf"
    config.write_text(first)
    binary = Path(sys.executable).parent / "nats-server"
    subprocess.run([str(binary), "-t", "-c", str(config)], check=True, capture_output=True)
