"""The commands of `keys`: vendors' keys imported and sealed anew, and new keys to seal them with."""

import os
from typing import Annotated

import typer

from fleet.commands.options import Refused, StateOption
from fleet.terminal.foreign_text import say

app = typer.Typer(no_args_is_help=True, help="Vendor keys, and the keys that seal them.")


@app.command()
def generate() -> None:
    """Print a new sealing key for LLM_ENCRYPTION_KEY: base64 of 32 random bytes."""
    from fleet.local.state import new_sealing_key

    typer.echo(new_sealing_key())


@app.command("import")
def import_keys(
    source: Annotated[
        str, typer.Option("--from", help="env, a .env, .csv or .json file, postgresql://…#table, sqlite:///file#table.")
    ],
    tenant: Annotated[
        str | None, typer.Option(help="Of keys whose source names none. Default: that of the local stack.")
    ] = None,
    weight: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Percent of the traffic for a key whose provider has another one."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make it the default key in the other one's place.")
    ] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(help="As key=encrypted_key, where a table has names of its own.", metavar="OURS=THEIRS"),
    ] = None,
    fernet_key_env: Annotated[
        str | None, typer.Option(help="Variable with the Fernet keys that open sealed ones, separated by commas.")
    ] = None,
    create_tenants: Annotated[bool, typer.Option("--create-tenants", help="Add tenants that are missing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    state: StateOption = None,
) -> int:
    """Import vendor keys, each tried with one call through a worker before it counts. Safe to repeat."""
    import asyncio

    from pydantic import SecretStr

    from fleet.operator import connection
    from fleet.operator.key_import import importing, rows, sources
    from fleet.operator.key_import.plan import Wish

    if weight is not None and replace:
        raise Refused("--weight and --replace exclude each other")
    sealed_with = os.environ.get(fernet_key_env) if fernet_key_env else None
    if fernet_key_env and not sealed_with:
        raise Refused(f"--fernet-key-env: the variable {fernet_key_env} is not set")
    reading = rows.Reading(
        rows.columns_of(column or []), rows.fernet_of(SecretStr(sealed_with)) if sealed_with else None
    )
    found = asyncio.run(sources.read(source, reading))
    options = importing.Options(
        tenant=tenant or connection.local_tenant(state=state),
        wish=Wish(share=weight, replaces=replace),
        dry_run=dry_run,
        adds_tenants=create_tenants,
    )
    imported = list(importing.run(connection.admin(state=state), found, options))
    say("\n".join(importing.lines(imported)) or "There is no key.")
    return 1 if any(row.outcome is importing.ImportOutcome.FAILED for row in imported) else 0


@app.command()
def reseal(state: StateOption = None) -> int:
    """Seal every key in Vault with the newest sealing key, while the fleet runs. Safe to break off and to repeat."""
    import asyncio

    from fleet.operator import connection
    from fleet.operator import reseal as resealing

    counts, failed = asyncio.run(resealing.run(connection.resealing(state=state)))
    for key in failed:
        say(f"{key.path}: {key.why}", err=True)
    typer.echo(", ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "There is no key in Vault.")
    return 1 if failed else 0
