"""The command `fleet`, also where only the client is installed: then it says what is missing."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line, or ends with exit code 2 and what to install."""
    try:
        from fleet.commands.main import main as run
    except ModuleNotFoundError as exc:
        print(  # noqa: T201
            f"fleet: this is the client alone, and its commands need {exc.name}, which is not installed; with them: "
            "pip install '/path/to/the/repository[cli]', or [local] for all that `fleet up` needs",
            file=sys.stderr,
        )
        sys.exit(2)
    run()
