"""`fleet`: every command that an operator or a developer types.

Imports are inside the commands, so that each one loads only what it needs, and a worker never loads the database.
"""

import json
import os
import sys
from datetime import date, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from fleet.terminal.foreign_text import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from admin_api.audit.verification import Anchor
    from fleet.operator.ollama import OllamaServer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="An LLM layer as an event-driven worker fleet.",
)
keys = typer.Typer(no_args_is_help=True, help="Vendor keys, and the keys that seal them.")
app.add_typer(keys, name="keys")
usage = typer.Typer(invoke_without_command=True, help="Book usage; report, check and price anew what was booked.")
app.add_typer(usage, name="usage")
audit = typer.Typer(no_args_is_help=True, help="The log of every change, made or refused.")
app.add_typer(audit, name="audit")
models = typer.Typer(no_args_is_help=True, help="The models of Ollama servers.")
app.add_typer(models, name="models")

StateOption = Annotated[
    Path | None, typer.Option("--state", help="Folder of the local stack.", file_okay=False, show_default=False)
]
BaseUrlOption = Annotated[
    str | None,
    typer.Option(help="An Ollama server. Default: those of the tenant's provider ollama.", show_default=False),
]
FirstDayOption = Annotated[
    datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First UTC day.", show_default=False)
]
LastDayOption = Annotated[
    datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last UTC day.", show_default=False)
]
OnlyTenantOption = Annotated[str | None, typer.Option("--tenant", help="Only this tenant.", show_default=False)]
TenantOption = Annotated[str | None, typer.Option(help="Default: the tenant of the local stack.", show_default=False)]


class Refused(Exception):
    """A command cannot do what was asked. The message is what the user reads."""


def main() -> NoReturn:
    """Errors are one line on stderr and exit code 1, or 2 when the command line itself is wrong; LLM_LOG_LEVEL=DEBUG
    shows the traceback as well."""
    _print_every_character()
    try:
        code = app(standalone_mode=False, prog_name="fleet")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as exc:  # noqa: BLE001 - the top of the process
        sys.exit(_explain(exc))
    sys.exit(code if isinstance(code, int) else 0)


def _print_every_character() -> None:
    """What a terminal's encoding lacks is shown as its escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@app.command()
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
    from fleet.local import up as stack_up
    from fleet.local.stack import Ports, Wishes, pool_sizes
    from fleet.local.state import default_folder
    from workers.providers import registry

    if ready_file and not ready_file.absolute().parent.is_dir():
        raise Refused(f"--ready-file {ready_file}: there is no such folder")
    ports = Ports(nats=nats_port, postgres=postgres_port, vault=vault_port, admin=admin_port)
    pools = pool_sizes(registry.available(), workers or [])
    return stack_up.main(state or default_folder(), Wishes(pools=pools, ports=ports, ready_file=ready_file))


@app.command()
def worker(
    provider: Annotated[list[str], typer.Option(help="Which vendor to serve; may be repeated.")],
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests at the same time.")] = None,
) -> int:
    """Run one worker process of a pool."""
    from workers import app as worker_app
    from workers.providers import registry

    for name in provider:
        if name not in registry.available():
            raise Refused(f"there is no adapter for {name!r}; there are: {', '.join(registry.available())}")
    return worker_app.main(list(dict.fromkeys(provider)), concurrency=concurrency)


@usage.callback()
def usage_consumer(
    context: typer.Context,
    retention_days: Annotated[
        int | None,
        typer.Option(min=1, max=36_500, help="Drop single events that are older; roll-ups stay.", show_default=False),
    ] = None,
) -> int | None:
    """Run the usage consumer, which books what the workers report. The commands look after what is booked."""
    if context.invoked_subcommand is not None:
        return None
    from workers.usage import app as usage_app

    return usage_app.main(retention_days=retention_days)


@usage.command("report")
def usage_report(
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
    from fleet.operator import connection
    from fleet.operator import usage_report as report
    from fleet.terminal import tables

    asked = {"group_by": group_by, "from": _day(first), "to": _day(last)}
    asked |= {"tenant": tenant, "provider": provider, "model": model, "agent": agent}
    query = {name: value for name, value in asked.items() if value is not None}
    found = report.fetch(connection.admin(state=state), query)
    tables.console().print(report.render(found, group_by=[group.strip() for group in group_by.split(",")]))


@usage.command("verify")
def usage_verify(first: FirstDayOption = None, last: LastDayOption = None) -> None:
    """Check that the roll-ups are what the events come to. Needs DATABASE_URL."""
    import asyncio

    from fleet.operator import ledger_checks
    from fleet.terminal import tables
    from workers.usage.verification import Period

    if not asyncio.run(ledger_checks.verify(Period(_date(first), _date(last)), console=tables.console())):
        raise Refused("roll-ups and events differ; `fleet usage rebuild` makes the roll-ups what the events come to")


@usage.command("rebuild")
def usage_rebuild(first: FirstDayOption = None, last: LastDayOption = None) -> None:
    """Make the roll-ups what the events come to; consumers may run meanwhile. Needs DATABASE_URL."""
    import asyncio

    from fleet.operator import ledger_checks
    from fleet.terminal import tables
    from workers.usage.verification import Period

    asyncio.run(ledger_checks.rebuild(Period(_date(first), _date(last)), console=tables.console()))


@usage.command("reprice")
def usage_reprice(
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


def _day(moment: datetime | None) -> str | None:
    return None if moment is None else moment.date().isoformat()


@app.command()
def admin() -> int:
    """Run the admin API."""
    from admin_api import app as admin_app

    return admin_app.main()


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date. Safe to run by several at once."""
    from migrations import upgrade
    from runtime.settings import DatabaseSettings

    upgrade(DatabaseSettings.model_validate({}).database_url.get_secret_value())
    typer.echo("The database is up to date.")


@app.command()
def status(state: StateOption = None) -> None:
    """Show the pools: workers, requests in flight and waiting."""
    from fleet.operator import connection, pool_table
    from fleet.terminal import tables

    tables.console().print(pool_table.render(connection.admin(state=state).get("fleet")))


@app.command()
def chat(
    prompt: Annotated[str, typer.Argument(help="What to say; `-` reads it from the standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="As openai/gpt-4o-mini, or an alias.")],
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Default: the tenant of the local stack.")] = None,
    state: StateOption = None,
) -> int:
    """Stream one completion to the terminal."""
    from fleet.operator import chat as chatting
    from fleet.operator import connection

    fleet = connection.agent(tenant=tenant, state=state)
    text = _standard_input() if prompt == "-" else _argument(prompt)
    about = None if system is None else _argument(system)
    return chatting.main(fleet, model=_argument(model), prompt=text, system=about)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise Refused("the standard input is no UTF-8 text") from None


def _argument(text: str) -> str:
    """As it was typed, also where the locale cannot read it: Python keeps such bytes as lone surrogates."""
    try:
        return os.fsencode(text).decode() if any("\udc80" <= char <= "\udcff" for char in text) else text
    except UnicodeDecodeError:
        raise Refused("an argument is no UTF-8 text") from None


@app.command()
def demo() -> int:
    """Start everything in a temporary folder, stream two completions, show the bill, stop."""
    from fleet.operator import demo as demonstration

    return demonstration.main()


@app.command()
def asyncapi() -> None:
    """Print the AsyncAPI 3 document of everything on NATS."""
    from contracts import asyncapi as description

    typer.echo(json.dumps(description.document(), indent=2))


@app.command("nats-config")
def nats_config(
    tenant: Annotated[list[str] | None, typer.Option(help="Its agents get a user; may be repeated.")] = None,
    provider: Annotated[
        list[str] | None, typer.Option(help="Its pool gets a user; may be repeated. Default: all.")
    ] = None,
    listen: Annotated[str, typer.Option(help="Address of the server.")] = "0.0.0.0:4222",
    store_dir: Annotated[str, typer.Option(help="Where JetStream keeps its files.")] = "/data/jetstream",
    auth: Annotated[Literal["password", "nkey"], typer.Option(help="How users log in.")] = "password",
    seeds: Annotated[
        Path, typer.Option(help="Folder of the users' nkey seeds; those that are missing are made.", file_okay=False)
    ] = Path("nats-seeds"),
    tls_cert: Annotated[str | None, typer.Option(help="The server's certificate; turns TLS on.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="Its key.")] = None,
    tls_client_ca: Annotated[
        str | None, typer.Option(help="Who signs the certificates that clients must have.")
    ] = None,
) -> None:
    """Print a NATS server configuration with one user for each role, pool and tenant."""
    from contracts.subjects import Provider
    from fleet.deploy import nats_config as config
    from fleet.deploy import nats_users

    if bool(tls_cert) != bool(tls_key) or (tls_client_ca and not tls_cert):
        raise Refused("TLS needs --tls-cert and --tls-key")
    users = nats_users.users(tenants=tenant or [], providers=provider or [p.value for p in Provider])
    head = ""
    match auth:
        case "password":
            login = config.by_password(config.placeholder)
            names = "\n".join(f"#   {config.placeholder(user)[1:]}" for user in users)
            head = f"# The server reads these passwords from its environment:\n{names}\n"
        case "nkey":
            from fleet.deploy import nats_seeds

            login = config.by_nkey(lambda user: nats_seeds.public_key(user, folder=seeds))
    tls = config.Tls(tls_cert, tls_key, tls_client_ca) if tls_cert and tls_key else None
    accounts = config.accounts(users, login=login)
    typer.echo(head + config.server(listen=listen, store_dir=store_dir, accounts=accounts, tls=tls))


@app.command()
def simulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> int:
    """Serve the vendors' wire formats over HTTP, with scripted faults, without any vendor."""
    from fleet.simulator import app as simulator_app

    return simulator_app.main(port=port)


@models.command("list")
def models_list(base_url: BaseUrlOption = None, tenant: TenantOption = None, state: StateOption = None) -> None:
    """Show the models that are there."""
    from fleet.operator import ollama as ollama
    from fleet.terminal import tables

    servers = _ollama_servers(base_url, tenant, state)
    tables.console().print(ollama.table((server.url, model) for server in servers for model in server.models()))


@models.command("pull")
def models_pull(
    model: Annotated[str, typer.Argument(help="As llama3.2, or qwen3:8b.")],
    base_url: BaseUrlOption = None,
    tenant: TenantOption = None,
    state: StateOption = None,
) -> None:
    """Get a model onto every server. A pull that was broken off goes on where it was."""
    from fleet.operator import ollama as ollama
    from fleet.terminal import tables

    for server in _ollama_servers(base_url, tenant, state):
        say(f"{model} to {server.url}")
        ollama.show(server.pull(model), console=tables.console())


@models.command("create")
def models_create(
    name: Annotated[str, typer.Argument(help="Of the new model.")],
    file: Annotated[
        Path, typer.Option("--file", "-f", help="FROM, SYSTEM, TEMPLATE, PARAMETER, MESSAGE, LICENSE.", exists=True)
    ] = Path("Modelfile"),
    base_url: BaseUrlOption = None,
    tenant: TenantOption = None,
    state: StateOption = None,
) -> None:
    """Make a model from another one, as a Modelfile says, on every server."""
    from fleet.operator import modelfile
    from fleet.operator import ollama as ollama
    from fleet.terminal import tables

    try:
        made = modelfile.parse(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise Refused(f"{file} is no Modelfile: it is no text") from None
    for server in _ollama_servers(base_url, tenant, state):
        say(f"{name} on {server.url}")
        ollama.show(server.create(name, made), console=tables.console())


def _ollama_servers(base_url: str | None, tenant: str | None, state: Path | None) -> "list[OllamaServer]":
    from fleet.operator import connection
    from fleet.operator.ollama import OllamaServer, key_from_environment, servers_of

    if base_url:
        urls = [base_url]
    else:
        tenant = tenant or connection.agent(tenant=None, state=state).tenant
        urls = servers_of(connection.admin(state=state), tenant=tenant)
    servers = [OllamaServer(url, key=key_from_environment()) for url in urls]
    return list({server.url: server for server in servers}.values())


@keys.command("generate")
def keys_generate() -> None:
    """Print a new sealing key for LLM_ENCRYPTION_KEY: base64 of 32 random bytes."""
    from fleet.local.state import new_sealing_key

    typer.echo(new_sealing_key())


@keys.command("import")
def keys_import(
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
    return 1 if any(row.outcome is importing.Outcome.FAILED for row in imported) else 0


@keys.command("reseal")
def keys_reseal(state: StateOption = None) -> int:
    """Seal every key in Vault with the newest sealing key, while the fleet runs. Safe to break off and to repeat."""
    import asyncio

    from fleet.operator import connection, reseal

    counts, failed = asyncio.run(reseal.run(connection.resealing(state=state)))
    for key in failed:
        say(f"{key.path}: {key.why}", err=True)
    typer.echo(", ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "There is no key in Vault.")
    return 1 if failed else 0


@audit.command("verify")
def audit_verify(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's changes.", show_default=False)] = None,
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


@audit.command("export")
def audit_export(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's changes.", show_default=False)] = None,
    first: Annotated[str | None, typer.Option("--from", help="A day (UTC), or a time with a zone.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="A day is included, a time is not.")] = None,
) -> None:
    """Print the audit log as JSON lines, the newest first. Needs DATABASE_URL."""
    import asyncio

    from admin_api.audit import log
    from admin_api.database import open_database
    from runtime.settings import DatabaseSettings

    wanted = log.Filter(tenant=tenant, since=log.start(first), before=log.end(last))

    async def export() -> None:
        async with open_database(DatabaseSettings.model_validate({}).database_url) as database:
            async for lines in log.export(database, wanted):
                sys.stdout.write(lines)

    asyncio.run(export())


def _anchors(export: Path, tenant: str | None) -> "Iterator[Anchor]":
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


def _explain(exc: BaseException) -> int:
    if isinstance(exc, typer.TyperException):
        return _explain_usage(exc)
    if isinstance(exc, typer.Abort):
        return 130
    if os.environ.get("LLM_LOG_LEVEL") == "DEBUG":
        import traceback

        traceback.print_exception(exc)
    say(f"fleet: {'; '.join(dict.fromkeys(map(_line, _leaves(exc))))}", err=True)
    return 1


def _explain_usage(exc: typer.TyperException) -> int:
    """A group without a command says nothing here: its help was shown."""
    if message := " ".join(exc.format_message().split()):
        context = getattr(exc, "ctx", None)
        say(f"fleet: {message.rstrip('.')}; see {context.command_path if context else 'fleet'} --help", err=True)
    return exc.exit_code


def _leaves(exc: BaseException) -> list[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for part in exc.exceptions for leaf in _leaves(part)]
    return [exc]


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
