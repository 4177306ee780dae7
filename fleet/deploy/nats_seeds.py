"""Secrets of NATS users, one file each in a folder: nkey seeds, of which the server's configuration gets the public
halves only, and passwords, in files that the configuration includes.
"""

import re
import secrets
from pathlib import Path

import nkeys

from fleet.deploy.nats_config import quoted
from fleet.deploy.nats_users import User
from fleet.files import private_folder, write_private

_PASSWORD_BYTES = 32


class SecretUnusable(Exception):
    """A file holds no secret of a user. The message names it."""


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


def password_file(user: User, *, variable: str, folder: Path) -> Path:
    """The file `<folder>/<user>.conf`, which sets `variable` to the user's password as NATS configuration. It is made,
    for its owner only, when it is not there. Raises SecretUnusable when it sets another variable."""
    path = private_folder(folder) / f"{user.name}.conf"
    if not path.exists():
        write_private(path, f"{variable}: {quoted(secrets.token_urlsafe(_PASSWORD_BYTES))}\n")
    if not re.match(rf"\s*{variable}\b", path.read_text()):
        raise SecretUnusable(f"{path} does not set {variable}")
    return path
