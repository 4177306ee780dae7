"""Options that several commands have, and `Refused`, with which a command says no."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

StateOption = Annotated[
    Path | None, typer.Option("--state", help="Folder of the local stack.", file_okay=False, show_default=False)
]
TenantOption = Annotated[str | None, typer.Option(help="Default: the tenant of the local stack.", show_default=False)]
FirstDayOption = Annotated[
    datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day.", show_default=False)
]
LastDayOption = Annotated[
    datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day.", show_default=False)
]


class Refused(Exception):
    """A command cannot do what was asked. The message is what the user reads."""
