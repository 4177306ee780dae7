"""`fleet nats-config` and `fleet asyncapi`: who may do what on NATS, and what is said there."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fleet.commands.options import Refused

if TYPE_CHECKING:
    from fleet.deploy.nats_users import User


def asyncapi() -> None:
    """Print the AsyncAPI 3 document of everything on NATS."""
    from contracts import asyncapi as description

    typer.echo(json.dumps(description.document(), indent=2))


def nats_config(
    tenant: Annotated[list[str] | None, typer.Option(help="Its agents get a user; may be repeated.")] = None,
    provider: Annotated[
        list[str] | None, typer.Option(help="Its pool gets a user; may be repeated. Default: all.")
    ] = None,
    listen: Annotated[str, typer.Option(help="Address of the server.")] = "0.0.0.0:4222",
    store_dir: Annotated[str, typer.Option(help="Where JetStream keeps its files.")] = "/data/jetstream",
    auth: Annotated[Literal["password", "nkey"], typer.Option(help="How users log in.")] = "password",
    seeds: Annotated[
        Path, typer.Option(help="Folder of the users' nkey seeds; those that are missing are made.", file_okay=False)
    ] = Path("nats-seeds"),
    passwords: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the users' passwords, beside the configuration, which includes them; those that are "
            "missing are made. Default: the server's environment has them.",
            file_okay=False,
        ),
    ] = None,
    encrypt: Annotated[
        bool, typer.Option(help="JetStream encrypts its files. Without: for a disk that is encrypted itself.")
    ] = True,
    jetstream_key: Annotated[
        Path | None,
        typer.Option(
            help="File with the key of JetStream's files, beside the configuration, which includes it; made when it "
            "is missing. Default: the server's environment has it.",
            dir_okay=False,
        ),
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(help="The server's certificate; turns TLS on.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="Its key.")] = None,
    tls_client_ca: Annotated[
        str | None, typer.Option(help="Who signs the certificates that clients must have.")
    ] = None,
) -> None:
    """Print a NATS server configuration with one user for each role, pool and tenant.

    A running server takes it at SIGHUP, twice, unless it needs secrets that its environment lacks, or is to encrypt its
    files from now on: then it has to be started again.
    """
    from contracts.subjects import Provider
    from fleet.deploy import nats_config as config
    from fleet.deploy import nats_users

    if passwords and auth == "nkey":
        raise Refused("--passwords is for --auth password")
    if bool(tls_cert) != bool(tls_key) or (tls_client_ca and not tls_cert):
        raise Refused("TLS needs --tls-cert and --tls-key")
    if jetstream_key and not encrypt:
        raise Refused("--jetstream-key is for files that are encrypted, without --no-encrypt")
    users = nats_users.users(tenants=tenant or [], providers=provider or [p.value for p in Provider])
    head, environment = "", list[str]()
    match auth:
        case "password":
            names = config.variables(users)
            login = config.by_password(lambda user: f"${names[user.name]}")
            if passwords:
                head = _includes(users, names, passwords)
            else:
                environment.extend(names.values())
        case "nkey":
            from fleet.deploy import nats_seeds

            login = config.by_nkey(lambda user: nats_seeds.public_key(user, folder=seeds))
    if jetstream_key:
        from fleet.deploy import nats_seeds

        nats_seeds.jetstream_key_file(jetstream_key)
        head += f"include {config.quoted(jetstream_key.name)}\n"
    elif encrypt:
        environment.extend((config.JETSTREAM_KEY, config.JETSTREAM_KEY_PREVIOUS))
    tls = config.Tls(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
    accounts = config.accounts(users, login=login)
    whole = config.server(listen=listen, store_dir=store_dir, accounts=accounts, tls=tls, encrypted=encrypt)
    typer.echo(_environment(environment) + head + whole)


def _environment(variables: Sequence[str]) -> str:
    names = "".join(f"#   {name}\n" for name in variables)
    return f"# The server reads these from its environment, each in double quotes:\n{names}" if names else ""


def _includes(users: "Sequence[User]", variables: Mapping[str, str], folder: Path) -> str:
    """The lines that include each user's password. NATS looks for them from the configuration's own folder on."""
    from fleet.deploy.nats_config import quoted
    from fleet.deploy.nats_seeds import password_file

    files = [password_file(user, variable=variables[user.name], folder=folder) for user in users]
    return "".join(f"include {quoted(f'{folder.absolute().name}/{file.name}')}\n" for file in files)
