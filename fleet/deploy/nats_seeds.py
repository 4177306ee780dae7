"""Secrets of NATS, one file each: nkey seeds of users, of which the server's configuration gets the public halves only,
and passwords of users and the key of JetStream's files, in files that the configuration includes.
"""

import re
import secrets
from pathlib import Path

import nkeys

from fleet.deploy.nats_config import JETSTREAM_KEY, JETSTREAM_KEY_PREVIOUS, quoted
from fleet.deploy.nats_users import User
from fleet.files import private_folder, write_private

_PASSWORD_BYTES = 32
_KEY_BYTES = 32


class SecretUnusable(Exception):
    """A file does not hold the secret that it should. The message names it."""


def public_key(user: User, *, folder: Path) -> str:
    """The public key of the seed in `<folder>/<user>.nk`. The seed is made, for its owner only, when it is not there.
    Raises SecretUnusable."""
    path = private_folder(folder) / f"{user.name}.nk"
    if not path.exists():
        write_private(path, nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER).decode() + "\n")
    try:
        public = bytes(nkeys.from_seed(bytearray(path.read_bytes().strip())).public_key).decode()
    except (nkeys.NkeysError, ValueError) as exc:
        raise SecretUnusable(f"{path} holds no seed of an nkey") from exc
    if not public.startswith("U"):
        raise SecretUnusable(f"{path} holds the seed of something else than a user")
    return public


def new_jetstream_key() -> str:
    """A new key for JetStream's files: 32 random bytes as 64 hexadecimal digits."""
    return secrets.token_hex(_KEY_BYTES)


def jetstream_key_file(path: Path) -> None:
    """Makes the file, for its owner only, when it is not there: it sets the variables of JetStream's keys as NATS
    configuration, a new key and none before it. Raises SecretUnusable when one that is there does not set both."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, f'{JETSTREAM_KEY}: {quoted(new_jetstream_key())}\n{JETSTREAM_KEY_PREVIOUS}: ""\n')
    text = path.read_text()
    for variable in (JETSTREAM_KEY, JETSTREAM_KEY_PREVIOUS):
        if not re.search(rf"^\s*{variable}\s*[:=]", text, re.MULTILINE):
            raise SecretUnusable(f"{path} does not set {variable}")


def password_file(user: User, *, variable: str, folder: Path) -> Path:
    """The file `<folder>/<user>.conf`, which sets `variable` to the user's password as NATS configuration. It is made,
    for its owner only, when it is not there. Raises SecretUnusable when it sets another variable."""
    path = private_folder(folder) / f"{user.name}.conf"
    if not path.exists():
        write_private(path, f"{variable}: {quoted(secrets.token_urlsafe(_PASSWORD_BYTES))}\n")
    if not re.match(rf"\s*{variable}\b", path.read_text()):
        raise SecretUnusable(f"{path} does not set {variable}")
    return path
