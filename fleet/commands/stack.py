"""`fleet up`, `demo`, `status` and `simulator`: a fleet on this machine, how it does, and vendors that are none."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.commands import loading
from fleet.commands.options import Refused, StateOption


def up(
    state: StateOption = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Gets one JSON object when every part answers.", dir_okay=False)
    ] = None,
    workers: Annotated[
        list[str] | None, typer.Option(help="Processes of a pool, as openai=3; may be repeated.", metavar="P=N")
    ] = None,
    nats_port: Annotated[int | None, typer.Option(min=1, max=65535)] = None,
    postgres_port: Annotated[int | None, typer.Option(min=1, max=65535)] = None,
    vault_port: Annotated[int | None, typer.Option(min=1, max=65535)] = None,
    admin_port: Annotated[int | None, typer.Option(min=1, max=65535)] = None,
) -> int:
    """Start the whole stack on this machine: servers, control plane, usage consumer, worker pools."""
    with loading.for_good():
        from fleet.local import up as stack_up
        from fleet.local.stack import Ports, Wishes, pool_sizes
        from fleet.local.state import default_folder
        from workers.providers import registry

    if ready_file and not ready_file.absolute().parent.is_dir():
        raise Refused(f"--ready-file {ready_file}: there is no such folder")
    ports = Ports(nats=nats_port, postgres=postgres_port, vault=vault_port, admin=admin_port)
    pools = pool_sizes(registry.available(), workers or [])
    return stack_up.main(state or default_folder(), Wishes(pools=pools, ports=ports, ready_file=ready_file))


def demo() -> int:
    """Start everything in a temporary folder, stream two completions, show the bill, stop."""
    from fleet.operator import demo as demonstration

    return demonstration.main()


def status(state: StateOption = None) -> None:
    """Show the pools: workers, requests in flight and waiting."""
    from fleet.operator import connection, pool_table
    from fleet.terminal import tables

    tables.console().print(pool_table.render(connection.admin(state=state).get("fleet")))


def simulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> int:
    """Serve the vendors' wire formats over HTTP, with scripted faults, without any vendor."""
    from fleet.simulator import app as simulator_app

    return simulator_app.main(port=port)
