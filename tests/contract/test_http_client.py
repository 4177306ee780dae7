"""Our HTTP client against servers on sockets, plain and over TLS, on both event loops."""

import asyncio
import inspect
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import wraps
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleet.simulator.tcp import listening
from runtime.egress import Egress
from runtime.networks import Address, ForbiddenAddress, parse_networks
from runtime.tasks import end
from tests.contract.adapters.test_hostile_pace import CHUNKED, ENDLESS, HELD_S, watched
from tests.contract.adapters.test_hostile_pace import answering as flooding
from tests.ports import free_port
from workers.providers.shared.http.client import (
    ConnectionBroken,
    HttpClient,
    HttpReply,
    HttpRequest,
    NotConnected,
)
from workers.providers.shared.http.request import encoded

LOOPBACK = parse_networks("127.0.0.0/8, ::1")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
CLOSED = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi"
LARGE = bytes(24 * 1024**2)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on asyncio's event loop, and on the one that the fleet runs on."""

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    @wraps(test)
    def on_one(run: Callable[[Coroutine[Any, Any, None]], None], **arguments: Any) -> None:
        run(test(**arguments))

    signature = inspect.signature(test)
    added = inspect.Parameter("run", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    on_one.__signature__ = signature.replace(parameters=[added, *signature.parameters.values()])  # pyright: ignore[reportAttributeAccessIssue] - pytest reads it
    return on_one


@dataclass
class Server:
    port: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list[bytes])
    bodies: list[bytes] = field(default_factory=list[bytes])
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/v1") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@asynccontextmanager
async def answering(*answers: bytes, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Server]:
    """A server that gives each request of a connection the next answer, byte by byte, and then hangs up."""
    server = Server()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            server.heads.append(head)
            sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            server.bodies.append(await reader.readexactly(int(sizes[0].split(b":")[1])) if sizes else b"")
            for at in range(len(answer)):
                writer.write(answer[at : at + 1])
                await asyncio.sleep(0)
        await writer.drain()
        server.hung_up.set()

    if tls is None:
        async with listening(talk) as server.port:
            yield server
        return

    async def talk_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    async with await asyncio.start_server(talk_and_close, "127.0.0.1", 0, ssl=tls) as listener:
        server.port = listener.sockets[0].getsockname()[1]
        yield server


@asynccontextmanager
async def client(egress: Egress | None = None) -> AsyncGenerator[HttpClient]:
    made = HttpClient(egress or Egress(LOOPBACK))
    try:
        yield made
    finally:
        await made.aclose()


async def ask(http: HttpClient, url: str, *, body: bytes = b"{}", tenant: str = "t", **headers: str) -> HttpReply:
    return await http.send(HttpRequest("POST", url, headers, body), tenant=tenant, connect_s=10)


async def said(http: HttpClient, url: str, **of_request: Any) -> bytes:
    return await (await ask(http, url, **of_request)).body(most=1024)


@on_both_loops
async def test_a_request_is_sent_as_it_was_made() -> None:
    async with answering(OK) as server, client() as http:
        assert await said(http, server.url("/v1/ä?q=1#fragment"), authorization="Bearer é") == b"hi"
    assert server.bodies == [b"{}"]
    assert server.heads == [
        b"POST /v1/%%C3%%A4?q=1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nauthorization: Bearer \xe9\r\n"
        b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n" % server.port
    ]


@on_both_loops
async def test_a_connection_is_used_again_by_its_tenant_alone() -> None:
    async with answering(OK, OK, OK) as server, client() as http:
        for tenant in ("a", "a", "b", "a"):
            assert await said(http, server.url(), tenant=tenant) == b"hi"
        assert server.connections == 2


@pytest.mark.parametrize("answer", [CLOSED, OK + b"{}", b"HTTP/1.0 200 OK\r\n\r\nhi", b"HTTP/1.1 200 OK\r\n\r\nhi"])
@on_both_loops
async def test_a_connection_that_is_over_is_not_used_again(answer: bytes) -> None:
    async with answering(answer) as server, client() as http:
        for _ in range(3):
            assert await said(http, server.url()) == b"hi"
        assert server.connections == 3


@on_both_loops
async def test_a_connection_that_the_server_closed_while_it_was_idle_is_not_used() -> None:
    """Also when the event loop has not looked at it since: nothing goes round between the two requests."""
    async with answering(OK) as server, client() as http:
        for _ in range(3):
            assert await said(http, server.url()) == b"hi"
            await server.hung_up.wait()
            server.hung_up.clear()
        assert server.connections == 3


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 X\r\n\r\n", b"SSH-2.0-X\r\n\r\n"])
@on_both_loops
async def test_what_may_have_reached_a_server_is_not_sent_again(answer: bytes) -> None:
    async with answering(OK, answer) as server, client() as http:
        assert await said(http, server.url()) == b"hi"
        with pytest.raises(ConnectionBroken):
            await said(http, server.url())
    assert (server.connections, len(server.heads)) == (1, 2)


@on_both_loops
async def test_a_large_body_is_sent_whole() -> None:
    async with answering(OK, OK) as server, client() as http:
        for _ in range(2):
            assert await said(http, server.url(), body=LARGE) == b"hi"
    assert server.bodies == [LARGE, LARGE]
    assert server.connections == 1


@on_both_loops
async def test_an_answer_before_the_body_was_sent_is_read() -> None:
    connections = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 X\r\ncontent-length: 3\r\n\r\nbig")
        await writer.drain()
        await reader.read()

    async with listening(refuse) as port, client() as http:
        for _ in range(2):
            reply = await ask(http, f"http://127.0.0.1:{port}", body=LARGE)
            assert (reply.status, await reply.body(most=100)) == (413, b"big")
    assert connections == 2


@pytest.mark.parametrize("body", [b"{}", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("begins", [b"", OK[:30], b"HTTP/1.1 200 OK\r\n\r\nhi"], ids=["nothing", "a head", "a body"])
@on_both_loops
async def test_who_gives_up_closes_the_connection(begins: bytes, body: bytes) -> None:
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begins)
        await writer.drain()
        asked.set()
        with suppress(ConnectionError):
            while await reader.read(1024**2):
                pass
        hung_up.set()

    async with listening(talk) as port, client() as http:
        asking = asyncio.create_task(said(http, f"http://127.0.0.1:{port}", body=body), name="ask")
        await asked.wait()
        await asyncio.sleep(0)
        await end(asking)
        await hung_up.wait()


@on_both_loops
async def test_a_reply_arrives_as_it_is_sent() -> None:
    go_on = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await go_on.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await writer.drain()
        await reader.read()

    taken: list[bytes] = []

    def take(data: bytes) -> None:
        taken.append(data)
        go_on.set()

    async with listening(talk) as port, client() as http:
        reply = await ask(http, f"http://127.0.0.1:{port}")
        ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        reply.deliver(take, ended.set_result)
        assert await ended is None
        reply.close()
    assert taken == [b"one", b"two"]


@on_both_loops
async def test_a_client_that_is_closed_breaks_replies_off() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhi")
        await reader.read()

    async with listening(talk) as port, client() as http:
        reply = await ask(http, f"http://127.0.0.1:{port}")
        reading = asyncio.create_task(reply.body(most=100), name="read")
        await http.aclose()
        with pytest.raises(ConnectionBroken):
            await reading


@on_both_loops
async def test_leave_to_send_is_asked_for_while_a_connection_is_made() -> None:
    async with answering(OK, OK) as server, client() as http:
        connected = asyncio.Event()

        async def may_send() -> None:
            while not server.connections:
                await asyncio.sleep(0)
            assert not server.heads
            connected.set()

        request = HttpRequest("POST", server.url(), {})
        reply = await http.send(request, tenant="t", connect_s=10, may_send=may_send)
        assert connected.is_set()
        await reply.body(most=10)


class Refused(Exception):
    pass


@on_both_loops
async def test_without_leave_nothing_is_sent_and_the_connection_is_kept() -> None:
    async with answering(OK, OK) as server, client() as http:

        async def may_send() -> None:
            while not server.connections:
                await asyncio.sleep(0)
            raise Refused

        await said(http, server.url())
        for _ in range(2):
            with pytest.raises(Refused):
                await http.send(HttpRequest("POST", server.url(), {}), tenant="t", connect_s=10, may_send=may_send)
        await said(http, server.url())
        assert (server.connections, len(server.heads)) == (1, 2)


async def nothing() -> None:
    pass


@pytest.mark.parametrize("may_send", [None, nothing])
@on_both_loops
async def test_where_nobody_listens_there_is_no_connection(may_send: Callable[[], Awaitable[None]] | None) -> None:
    async with client() as http:
        request = HttpRequest("POST", f"http://127.0.0.1:{free_port()}", {})
        with pytest.raises(NotConnected, match="Connection refused"):
            await http.send(request, tenant="t", connect_s=10, may_send=may_send)


def resolving(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[Address]]]:
    async def resolve(host: str, port: int) -> Sequence[Address]:
        return [ip_address(address) for address in addresses]

    return resolve


@on_both_loops
async def test_the_address_that_was_judged_is_connected_to() -> None:
    egress = Egress(LOOPBACK, resolve=resolving("10.0.0.1", "169.254.169.254", "127.0.0.1"))
    async with answering(OK) as server, client(egress) as http:
        assert await said(http, f"http://vendor.example:{server.port}/v1") == b"hi"
        assert b"\r\nHost: vendor.example:%d\r\n" % server.port in server.heads[0]


@pytest.mark.parametrize("host", ["inside.example", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
@on_both_loops
async def test_an_address_that_is_not_allowed_is_not_connected_to(host: str) -> None:
    egress = Egress(resolve=resolving("127.0.0.1")) if host == "inside.example" else Egress()
    async with answering(OK) as server, client(egress) as http:
        with pytest.raises(ForbiddenAddress):
            await said(http, f"http://{host}:{server.port}")
        assert not server.connections


@on_both_loops
async def test_a_name_without_an_address_has_no_connection() -> None:
    async def resolve(host: str, port: int) -> Sequence[Address]:
        await asyncio.get_running_loop().create_future()
        return []

    async with client(Egress(LOOPBACK, resolve=resolve)) as http:
        with pytest.raises(NotConnected, match=r"no connection within 0\.01 s"):
            await http.send(HttpRequest("POST", "http://vendor.example", {}), tenant="t", connect_s=0.01)


@pytest.mark.parametrize(
    ("url", "host", "asked"),
    [
        ("http://bücher.example", "xn--bcher-kva.example", "/"),
        ("http://vendor.example:80/a b".replace(" ", "%20"), "vendor.example", "/a%20b"),
        ("http://VENDOR.example/?a=ü", "vendor.example", "/?a=%C3%BC"),
        ("http://[2001:db8::1]/v1", "[2001:db8::1]", "/v1"),
    ],
)
def test_a_url_says_what_is_asked_for_and_where(url: str, host: str, asked: str) -> None:
    origin, head = encoded(HttpRequest("POST", url, {}))
    assert head.startswith(f"POST {asked} HTTP/1.1\r\nHost: {host}\r\n".encode())
    assert origin == ("http", host.strip("[]"), 80)


@pytest.mark.parametrize(
    "request_",
    [
        *[
            HttpRequest("POST", f"http://127.0.0.1/{blank}x", {})
            for blank in ("\r", "\n", "\0", " ", "\t", "\r\n", "\x7f")
        ],
        HttpRequest("POST", "http://127.0.0.1\r\nx", {}),
        HttpRequest("POST", "http://127.0.0.1 ", {}),
        HttpRequest("POST", "http://user:secret-1@127.0.0.1", {}),
        HttpRequest("POST", "http:///v1", {}),
        HttpRequest("POST", "ftp://127.0.0.1", {}),
        HttpRequest("POST", "/v1", {}),
        *[
            HttpRequest("POST", "http://127.0.0.1", {"a": value})
            for value in ("x\ry", "x\ny", "x\0y", " x", "x ", "€", "x\r\nb: c")
        ],
        *[
            HttpRequest("POST", "http://127.0.0.1", {name: "x"})
            for name in ("", "a b", "a:", "a\r\n", "é", "Host", "Transfer-Encoding", "content-length")
        ],
        *[HttpRequest(method, "http://127.0.0.1", {}) for method in ("", "GET /", "GET\r\n", "HEAD", "CONNECT")],
    ],
)
def test_a_request_that_would_be_read_as_another_is_refused(request_: HttpRequest) -> None:
    with pytest.raises(ValueError) as refused:
        encoded(request_)
    assert "secret-1" not in str(refused.value)


async def passed_on(reply: HttpReply) -> int:
    """How many bytes came until the reply's end. Raises what it ends with."""
    size = 0
    ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def take(data: bytes) -> None:
        nonlocal size
        size += len(data)

    reply.deliver(take, ended.set_result)
    try:
        if failure := await ended:
            raise failure
    finally:
        reply.close()
    return size


@pytest.mark.parametrize("what", [what for what in ENDLESS if what not in ("comments", "empty data", "a line")])
@on_both_loops
async def test_a_flood_is_broken_off_and_does_not_hold_the_loop(what: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.paced_stream.SHORT_LINES", 20_000)
        async with flooding(*ENDLESS[what]) as url, watched() as held, client() as http:
            with pytest.raises(ConnectionBroken):
                await passed_on(await ask(http, url))
    assert held.seconds < HELD_S


@on_both_loops
async def test_floods_leave_the_loop_to_others() -> None:
    event = b"data: " + b"x" * 60 + b"\n\n"
    async with (
        flooding(CHUNKED, b"%x\r\n%b\r\n" % (len(event), event)) as url,
        answering(*[OK] * 20) as server,
        watched() as held,
        client() as http,
    ):
        floods = [asyncio.create_task(passed_on(await ask(http, url)), name=f"flood {number}") for number in range(6)]
        for _ in range(20):
            assert await said(http, server.url(), tenant="other") == b"hi"
        running = [flood for flood in floods if not flood.done()]
        await end(*floods)
    assert len(running) == len(floods)
    assert held.seconds < HELD_S


class Authority:
    """Signs certificates of servers, and is trusted by who is told to."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of tests")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self._certificate = (
            self._builder(self._name, self._key, datetime.now(UTC) + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def trusted_by(self, egress: Egress) -> Egress:
        egress.tls.load_verify_locations(cadata=self._certificate.public_bytes(serialization.Encoding.DER))
        return egress

    def server(self, folder: Path, name: str, *, until: datetime | None = None) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            shown: x509.GeneralName = x509.IPAddress(ip_address(name))
        except ValueError:
            shown = x509.DNSName(name)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server of tests")])
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(subject, key, until or datetime.now(UTC) + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([shown]), critical=False)
            .add_extension(authority, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path = folder / "server.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime) -> x509.CertificateBuilder:
        begin = min(datetime.now(UTC) - timedelta(days=1), until - timedelta(days=1))
        return x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number(), begin, until)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def shown_names(context: ssl.SSLContext) -> list[str | None]:
    """The names that clients ask the server for, as they come."""
    names: list[str | None] = []

    def note(_: ssl.SSLSocket | ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        names.append(name)

    context.sni_callback = note
    return names


@pytest.mark.parametrize("host", ["vendor.example", "127.0.0.1"])
@on_both_loops
async def test_a_server_is_known_by_its_certificate(host: str, authority: Authority, tmp_path: Path) -> None:
    """Its name is shown to it, an address is not."""
    context = authority.server(tmp_path, host)
    names = shown_names(context)
    egress = authority.trusted_by(Egress(LOOPBACK, resolve=resolving("127.0.0.1")))
    async with answering(OK, OK, tls=context) as server, client(egress) as http:
        url = f"https://{host}:{server.port}/v1"
        assert await said(http, url, body=LARGE) == b"hi"
        assert await said(http, url) == b"hi"
        assert server.connections == 1
    assert names == [host if host == "vendor.example" else None]
    assert server.bodies == [LARGE, b"{}"]


@pytest.mark.parametrize(
    ("name", "until", "is_trusted", "why"),
    [
        ("other.example", None, True, "Hostname mismatch"),
        ("vendor.example", LONG_AGO, True, "certificate has expired"),
        ("vendor.example", None, False, "unable to get local issuer certificate"),
    ],
    ids=["another name", "expired", "unknown authority"],
)
@on_both_loops
async def test_a_server_with_another_certificate_is_sent_nothing(
    name: str, until: datetime | None, is_trusted: bool, why: str, authority: Authority, tmp_path: Path
) -> None:
    context = authority.server(tmp_path, name, until=until)
    egress = Egress(LOOPBACK, resolve=resolving("127.0.0.1"))
    if is_trusted:
        authority.trusted_by(egress)
    async with answering(OK, tls=context) as server, client(egress) as http:
        with pytest.raises(NotConnected, match=why) as refused:
            await said(http, f"https://vendor.example:{server.port}")
    assert "127.0.0.1" not in str(refused.value)
    assert not server.heads


@on_both_loops
async def test_a_server_that_speaks_no_tls_has_no_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with listening(talk) as port, client() as http:
        with pytest.raises(NotConnected, match="TLS failed"):
            await said(http, f"https://127.0.0.1:{port}")
