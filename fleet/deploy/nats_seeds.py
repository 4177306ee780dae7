"""The nkeys of NATS users: a seed for each in a folder. The server's configuration gets the public halves only."""

import secrets
from pathlib import Path

import nkeys

from fleet.deploy.nats_users import User
from fleet.files import private_folder, write_private


class SeedUnusable(Exception):
    """A file holds no seed of a user. The message names it."""


def public_key(user: User, *, folder: Path) -> str:
    """The public key of the seed in `<folder>/<user>.nk`. The seed is made, for its owner only, when it is not there.
    Raises SeedUnusable."""
    path = private_folder(folder) / f"{user.name}.nk"
    if not path.exists():
        write_private(path, nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER).decode() + "\n")
    try:
        public = bytes(nkeys.from_seed(bytearray(path.read_bytes().strip())).public_key).decode()
    except (nkeys.NkeysError, ValueError) as exc:
        raise SeedUnusable(f"{path} holds no seed of an nkey") from exc
    if not public.startswith("U"):
        raise SeedUnusable(f"{path} holds the seed of something else than a user")
    return public
