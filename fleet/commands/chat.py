"""`fleet chat`: one completion, from what was typed or what the standard input holds."""

import os
import sys
from typing import Annotated

import typer

from fleet.commands.options import Refused, StateOption


def chat(
    prompt: Annotated[str, typer.Argument(help="What to say; `-` reads it from the standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="As openai/gpt-4o-mini, or an alias.")],
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Default: the tenant of the local stack.")] = None,
    state: StateOption = None,
) -> int:
    """Stream one completion to the terminal."""
    import asyncio

    from fleet.operator import chat as chatting
    from fleet.operator import connection

    fleet = connection.agent(tenant=tenant, state=state)
    try:
        text = sys.stdin.buffer.read().decode() if prompt == "-" else _as_typed(prompt)
    except UnicodeDecodeError:
        raise Refused("the standard input is no UTF-8 text") from None
    about = None if system is None else _as_typed(system)
    return asyncio.run(chatting.run(fleet, model=_as_typed(model), prompt=text, system=about))


def _as_typed(argument: str) -> str:
    """An argument as it was typed, also where the locale cannot read it: Python keeps bytes that it cannot decode as
    lone surrogates (PEP 383). Raises Refused when the bytes are no UTF-8 text."""
    try:
        return os.fsencode(argument).decode() if any("\udc80" <= char <= "\udcff" for char in argument) else argument
    except UnicodeDecodeError:
        raise Refused("an argument is no UTF-8 text") from None
