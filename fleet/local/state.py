"""What a local stack keeps in its folder: secrets, ports, logs, the ready file, and a lock against a second stack."""

import base64
import errno
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fleet.deploy.nats_config import JETSTREAM_KEY, JetStreamKeys
from fleet.deploy.nats_seeds import new_jetstream_key
from fleet.files import private_folder, write_private
from fleet.local.process import PortTaken, free_port, port_is_free, read_json

_LOOPBACK = "127.0.0.1"
_BACKLOG = 2048
_JETSTREAM_KEY, _JETSTREAM_KEY_PREVIOUS = "jetstream_key", "jetstream_key_previous"


class StateInUse(Exception):
    """Another stack runs on the same folder."""


class State:
    """The folder of one stack, readable by its owner only, and the sockets of its roles, open while it is locked."""

    def __init__(self, folder: Path) -> None:
        self.folder = private_folder(folder.absolute())
        self.logs = private_folder(self.folder / "logs")
        self._ports = self.folder / "ports.json"
        self.ready_file = self.folder / "ready.json"
        self._listeners = ExitStack()

    @contextmanager
    def locked(self) -> Generator[None]:
        """Keeps every other stack from this folder; the kernel gives the lock up when the process dies. Closes the
        listeners at the end. Raises StateInUse."""
        with (self.folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise StateInUse(
                    f"another stack (pid {lock.read().strip() or 'unknown'}) runs on {self.folder}; "
                    "stop it, or give this one a folder of its own with --state"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            with self._listeners:
                yield

    def secret(self, name: str, make: Callable[[], str]) -> str:
        """The secret of that name; made and kept when there is none yet."""
        kept = _read(self.folder / "secrets.json")
        if name not in kept:
            kept[name] = make()
            self._keep_secrets(kept)
        return kept[name]

    def secrets_below(self, prefix: str) -> list[str]:
        """What follows `prefix` in the names of the secrets that are kept and begin with it."""
        kept = _read(self.folder / "secrets.json")
        return sorted(name.removeprefix(prefix) for name in kept if name.startswith(prefix))

    def sealing_keys(self) -> dict[str, str]:
        """The variables with the sealing keys. A key of the environment takes the place of the stack's own, which stays
        as a previous one, so that what it sealed can be opened."""
        own = self.secret("encryption_key", new_sealing_key)
        newest = os.environ.get("LLM_ENCRYPTION_KEY") or own
        previous = [os.environ.get("LLM_ENCRYPTION_KEY_PREVIOUS", ""), own if own != newest else ""]
        return {"LLM_ENCRYPTION_KEY": newest, "LLM_ENCRYPTION_KEY_PREVIOUS": ",".join(filter(None, previous))}

    def jetstream_keys(self) -> JetStreamKeys:
        """What NATS' files are encrypted with: the key of the environment, else that of the last run, else a new one.

        A key that takes the place of another one leaves it behind as the previous one, until `jetstream_key_holds`.
        Before that no further key is taken, because the files may still be of either.
        """
        kept = _read(self.folder / "secrets.json")
        key = kept.get(_JETSTREAM_KEY, "")
        if previous := kept.get(_JETSTREAM_KEY_PREVIOUS, ""):
            return JetStreamKeys(key, previous)
        newest = os.environ.get(JETSTREAM_KEY) or key or new_jetstream_key()
        if newest == key:
            return JetStreamKeys(key)
        self._keep_secrets({**kept, _JETSTREAM_KEY: newest, **({_JETSTREAM_KEY_PREVIOUS: key} if key else {})})
        return JetStreamKeys(newest, key)

    def jetstream_key_holds(self) -> None:
        """Forgets the previous key of NATS' files: the server has started with the newest one, and written anew what
        was of the one before."""
        kept = _read(self.folder / "secrets.json")
        if kept.pop(_JETSTREAM_KEY_PREVIOUS, None) is not None:
            self._keep_secrets(kept)

    def _keep_secrets(self, kept: Mapping[str, str]) -> None:
        write_private(self.folder / "secrets.json", json.dumps(kept))

    def port(self, name: str, *, wanted: int | None = None) -> int:
        """A port for a server that opens it itself, and may find it taken by then: `wanted`, else that of the last run
        if it is free, else any free one. Raises PortTaken when `wanted` is not free."""
        if wanted is not None:
            _open(name, wanted).close()
        before: int | None = _read(self._ports).get(name)
        port = wanted or (before if before and port_is_free(before) else free_port())
        self._keep_port(name, port)
        return port

    def listener(self, name: str, *, wanted: int | None = None) -> socket.socket:
        """A socket that listens at `wanted`, else at the port of the last run if it is free, else at any free one. It
        is open for as long as the stack runs. Raises PortTaken when `wanted` is not free."""
        try:
            found = _open(name, wanted or _read(self._ports).get(name) or 0)
        except PortTaken:
            if wanted is not None:
                raise
            found = _open(name, 0)
        self._listeners.enter_context(found)
        self._keep_port(name, found.getsockname()[1])
        return found

    def _keep_port(self, name: str, port: int) -> None:
        kept = _read(self._ports) | {name: port}
        write_private(self._ports, json.dumps(kept))

    def log(self, name: str) -> Path:
        """Makes a fresh log, and keeps the one before as `<name>.log.1`. Returns its path."""
        log = self.logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        os.close(os.open(log, os.O_CREAT | os.O_WRONLY, 0o600))
        return log

    def write_ready(self, facts: Mapping[str, Any], also: Path | None) -> None:
        """Writes the ready file, and a copy of it to `also` if there is one."""
        for path in filter(None, (self.ready_file, also)):
            write_private(path, json.dumps(facts, indent=2) + "\n")

    def forget_ready(self, also: Path | None) -> None:
        """Removes the ready file and its copy: nothing answers as they say."""
        for path in filter(None, (self.ready_file, also)):
            path.unlink(missing_ok=True)


def _open(name: str, port: int) -> socket.socket:
    try:
        return socket.create_server((_LOOPBACK, port), backlog=_BACKLOG)
    except OSError as exc:
        taken = exc.errno == errno.EADDRINUSE
        why = "is taken by another program" if taken else f"cannot be used: {os.strerror(exc.errno or 0)}"
        raise PortTaken(f"port {port} for {name} {why}") from exc


def new_sealing_key() -> str:
    """A new key for LLM_ENCRYPTION_KEY: base64 of 32 random bytes."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def default_folder() -> Path:
    """Where a stack keeps its state unless it is told otherwise: below XDG_STATE_HOME, else below the home folder."""
    base = os.environ.get("XDG_STATE_HOME")
    return Path(base).expanduser() / "fleet" if base else home_folder()


def home_folder() -> Path:
    """The default where the environment has no XDG_STATE_HOME."""
    return Path("~/.local/state/fleet").expanduser()


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}
