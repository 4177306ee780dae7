"""`fleet usage`: the usage consumer, and the commands that report, check and price anew what it booked."""

from datetime import date, datetime
from typing import Annotated

import typer

from fleet.commands import loading
from fleet.commands.options import FirstDayOption, LastDayOption, Refused, StateOption

app = typer.Typer(invoke_without_command=True, help="Book usage; report, check and price anew what was booked.")

OnlyTenantOption = Annotated[str | None, typer.Option("--tenant", help="Only this tenant.", show_default=False)]


@app.callback()
def consume(
    context: typer.Context,
    retention_days: Annotated[
        int | None,
        typer.Option(min=1, max=36_500, help="Drop single events that are older; roll-ups stay.", show_default=False),
    ] = None,
) -> int | None:
    """Run the usage consumer, which books what the workers report. The commands look after what is booked."""
    if context.invoked_subcommand is not None:
        return None
    with loading.for_good():
        from workers.usage import app as usage_app

    return usage_app.main(retention_days=retention_days)


@app.command()
def report(
    group_by: Annotated[
        str, typer.Option("--by", help="One or several of day, hour, model, provider, tenant, agent.")
    ] = "day",
    first: FirstDayOption = None,
    last: LastDayOption = None,
    tenant: OnlyTenantOption = None,
    provider: Annotated[str | None, typer.Option(help="Only this vendor.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.", show_default=False)] = None,
    agent: Annotated[str | None, typer.Option(help="Only this agent.", show_default=False)] = None,
    state: StateOption = None,
) -> None:
    """Show what was used and what it cost, the last 30 days unless said otherwise."""
    from fleet.operator import connection, usage_report
    from fleet.terminal import tables

    asked = {"group_by": group_by, "from": _date(first), "to": _date(last)}
    asked |= {"tenant": tenant, "provider": provider, "model": model, "agent": agent}
    query = {name: str(value) for name, value in asked.items() if value is not None}
    found = usage_report.fetch(connection.admin(state=state), query)
    tables.console().print(usage_report.render(found, group_by=[group.strip() for group in group_by.split(",")]))


@app.command()
def verify(first: FirstDayOption = None, last: LastDayOption = None) -> None:
    """Check that the roll-ups are what the events come to. Needs DATABASE_URL."""
    import asyncio

    from fleet.operator import ledger_checks
    from fleet.terminal import tables
    from workers.usage.verification import Period

    if not asyncio.run(ledger_checks.verify(Period(_date(first), _date(last)), console=tables.console())):
        raise Refused("roll-ups and events differ; `fleet usage rebuild` makes the roll-ups what the events come to")


@app.command()
def rebuild(first: FirstDayOption = None, last: LastDayOption = None) -> None:
    """Make the roll-ups what the events come to; consumers may run meanwhile. Needs DATABASE_URL."""
    import asyncio

    from fleet.operator import ledger_checks
    from fleet.terminal import tables
    from workers.usage.verification import Period

    asyncio.run(ledger_checks.rebuild(Period(_date(first), _date(last)), console=tables.console()))


@app.command()
def reprice(
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day.")],
    tenant: OnlyTenantOption = None,
) -> None:
    """Price what was booked anew, after a price was corrected; the audit log says so. Needs DATABASE_URL."""
    import asyncio

    from fleet.operator import ledger_checks
    from fleet.terminal import tables
    from workers.usage.verification import Period

    asyncio.run(ledger_checks.reprice(Period(first.date(), last.date()), tenant=tenant, console=tables.console()))


def _date(moment: datetime | None) -> date | None:
    return None if moment is None else moment.date()
