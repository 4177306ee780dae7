"""The commands of `audit`: the audit log, checked and exported."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.commands.options import Refused
from fleet.terminal.foreign_text import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from admin_api.audit.verification import Anchor

app = typer.Typer(no_args_is_help=True, help="The log of every change, made or refused.")

OnlyTenantOption = Annotated[
    str | None, typer.Option("--tenant", help="Only this tenant's changes.", show_default=False)
]


@app.command()
def verify(
    tenant: OnlyTenantOption = None,
    against: Annotated[
        Path | None,
        typer.Option(help="An earlier export: each of its rows must still be there.", exists=True, dir_okay=False),
    ] = None,
) -> None:
    """Check that no row of the audit log was altered or removed. Needs DATABASE_URL."""
    import asyncio

    from admin_api.audit import verification
    from admin_api.database import open_database
    from runtime.settings import DatabaseSettings

    async def check() -> tuple[list[verification.Chain], list[verification.Anchor]]:
        async with open_database(DatabaseSettings.model_validate({}).database_url) as database:
            chains = await verification.verify(database, tenant=tenant)
            return chains, await verification.missing(database, _anchors(against, tenant)) if against else []

    chains, missing = asyncio.run(check())
    broken: list[str] = []
    for chain in chains:
        whose = chain.tenant or "(all tenants)"
        pruned = f"  pruned to row {chain.pruned_to}" if chain.pruned_to is not None else ""
        say(f"{whose}  {chain.rows} rows hold  {chain.head}".rstrip() + pruned)
        if chain.broken_at is not None:
            broken.append(f"{whose} at row {chain.broken_at}")
    broken += [f"{anchor.tenant or '(all tenants)'} lacks row {anchor.seq} of {against}" for anchor in missing[:10]]
    if broken:
        raise Refused(f"the audit log was altered, or rows were removed: {', '.join(broken)}")


def _anchors(export: Path, tenant: str | None) -> "Iterator[Anchor]":
    """The lines of an earlier export, as facts that the log must still hold. `tenant` None: those of all tenants."""
    from pydantic import ValidationError

    from admin_api.audit.verification import Anchor

    with export.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                anchor = Anchor.model_validate_json(line)
            except ValidationError as exc:
                raise Refused(f"{export}, line {number}, is no line of an export") from exc
            if tenant in (None, anchor.tenant):
                yield anchor


@app.command()
def export(
    tenant: OnlyTenantOption = None,
    first: Annotated[str | None, typer.Option("--from", help="A day (UTC), or a time with a zone.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="A day is included, a time is not.")] = None,
) -> None:
    """Print the audit log as JSON lines, the newest first. Needs DATABASE_URL."""
    import asyncio

    from admin_api.audit import log
    from admin_api.database import open_database
    from runtime.settings import DatabaseSettings

    wanted = log.AuditFilter(tenant=tenant, since=log.start(first), before=log.end(last))

    async def print_log() -> None:
        async with open_database(DatabaseSettings.model_validate({}).database_url) as database:
            async for lines in log.export(database, wanted):
                sys.stdout.write(lines)

    asyncio.run(print_log())
