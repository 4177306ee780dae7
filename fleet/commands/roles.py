"""`fleet worker`, `admin` and `migrate`: the roles of the fleet, each as a process. (`fleet usage` is in usage.py.)"""

from typing import Annotated

import typer

from fleet.commands import loading
from fleet.commands.options import Refused


def worker(
    provider: Annotated[list[str], typer.Option(help="Which vendor to serve; may be repeated.")],
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests at the same time.")] = None,
) -> int:
    """Run one worker process of a pool."""
    with loading.for_good():
        from workers import app as worker_app
        from workers.providers import registry

    for name in provider:
        if name not in registry.available():
            raise Refused(f"there is no adapter for {name!r}; there are: {', '.join(registry.available())}")
    return worker_app.main(list(dict.fromkeys(provider)), concurrency=concurrency)


def admin() -> int:
    """Run the admin API."""
    with loading.for_good():
        from admin_api import app as admin_app

    return admin_app.main()


def migrate() -> None:
    """Bring the database's schema up to date. Safe to run by several at once."""
    with loading.for_good():
        from migrations import upgrade
        from runtime.settings import DatabaseSettings

    upgrade(DatabaseSettings.model_validate({}).database_url.get_secret_value())
    typer.echo("The database is up to date.")
