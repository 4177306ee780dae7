"""The command `fleet`: its list of commands, and how what goes wrong becomes one line and an exit code.

A command imports what it needs when it is called, so that a worker never loads the database, nor `fleet --help`
anything of the fleet.
"""

import os
import sys
from io import TextIOWrapper
from typing import NoReturn

import typer

from fleet.commands import audit, chat, keys, models, nats, roles, stack, usage
from fleet.terminal.foreign_text import say

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="An LLM layer as an event-driven worker fleet.",
)
for command in (
    stack.up,
    roles.worker,
    roles.admin,
    roles.migrate,
    stack.status,
    chat.chat,
    stack.demo,
    nats.asyncapi,
    nats.nats_config,
    stack.simulator,
):
    app.command()(command)
app.add_typer(keys.app, name="keys")
app.add_typer(usage.app, name="usage")
app.add_typer(audit.app, name="audit")
app.add_typer(models.app, name="models")


def main() -> NoReturn:
    """Errors are one line on stderr and exit code 1, or 2 when the command line itself is wrong; LLM_LOG_LEVEL=DEBUG
    shows the traceback as well."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A character that the terminal's encoding lacks is shown as its escape.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False, prog_name="fleet")
    except typer.TyperException as exc:
        # Of a group without a command Typer has shown the help already, and the message is empty.
        if message := " ".join(exc.format_message().split()):
            context = getattr(exc, "ctx", None)
            say(f"fleet: {message.rstrip('.')}; see {context.command_path if context else 'fleet'} --help", err=True)
        sys.exit(exc.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as exc:  # noqa: BLE001 - the top of the process
        from runtime.tasks import leaves

        if os.environ.get("LLM_LOG_LEVEL") == "DEBUG":
            import traceback

            traceback.print_exception(exc)
        say(f"fleet: {'; '.join(dict.fromkeys(map(_line, leaves(exc))))}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _line(exc: BaseException) -> str:
    """One line, whatever the exception's text is."""
    from pydantic import ValidationError

    if isinstance(exc, ValidationError):
        from runtime.settings import explain

        return explain(exc)
    if isinstance(exc, OSError) and exc.filename and exc.strerror:
        return f"{os.fsdecode(exc.filename)}: {exc.strerror}"
    if isinstance(exc, ModuleNotFoundError):
        return f"{exc}; install the extra that brings it, or all of them: pip install '/path/to/the/repository[local]'"
    return " ".join(str(exc).split()) or type(exc).__name__
