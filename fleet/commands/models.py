"""The commands of `models`: the models of Ollama servers, listed, pulled and created."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.commands.options import Refused, StateOption, TenantOption
from fleet.terminal.foreign_text import say

if TYPE_CHECKING:
    from fleet.operator.ollama import OllamaServer

app = typer.Typer(no_args_is_help=True, help="The models of Ollama servers.")

BaseUrlOption = Annotated[
    str | None,
    typer.Option(help="An Ollama server. Default: those of the tenant's provider ollama.", show_default=False),
]


@app.command("list")
def list_models(base_url: BaseUrlOption = None, tenant: TenantOption = None, state: StateOption = None) -> None:
    """Show the models that are there."""
    from fleet.operator import ollama
    from fleet.terminal import tables

    servers = _servers(base_url, tenant=tenant, state=state)
    tables.console().print(ollama.table((server.url, model) for server in servers for model in server.models()))


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="As llama3.2, or qwen3:8b.")],
    base_url: BaseUrlOption = None,
    tenant: TenantOption = None,
    state: StateOption = None,
) -> None:
    """Get a model onto every server. A pull that was broken off goes on where it was."""
    from fleet.operator import ollama
    from fleet.terminal import tables

    for server in _servers(base_url, tenant=tenant, state=state):
        say(f"{model} to {server.url}")
        ollama.show(server.pull(model), console=tables.console())


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Of the new model.")],
    file: Annotated[
        Path, typer.Option("--file", "-f", help="FROM, SYSTEM, TEMPLATE, PARAMETER, MESSAGE, LICENSE.", exists=True)
    ] = Path("Modelfile"),
    base_url: BaseUrlOption = None,
    tenant: TenantOption = None,
    state: StateOption = None,
) -> None:
    """Make a model from another one, as a Modelfile says, on every server."""
    from fleet.operator import modelfile, ollama
    from fleet.terminal import tables

    try:
        made = modelfile.parse(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise Refused(f"{file} is no Modelfile: it is no text") from None
    for server in _servers(base_url, tenant=tenant, state=state):
        say(f"{name} on {server.url}")
        ollama.show(server.create(name, made), console=tables.console())


def _servers(base_url: str | None, *, tenant: str | None, state: Path | None) -> "list[OllamaServer]":
    """The server at `base_url`, else those of the tenant's provider `ollama`, each once."""
    from fleet.operator import connection
    from fleet.operator.ollama import OllamaServer, key_from_environment, servers_of

    if base_url:
        urls = [base_url]
    else:
        tenant = tenant or connection.agent(tenant=None, state=state).tenant
        urls = servers_of(connection.admin(state=state), tenant=tenant)
    servers = [OllamaServer(url, key=key_from_environment()) for url in urls]
    return list({server.url: server for server in servers}.values())
