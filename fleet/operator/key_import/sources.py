"""Where keys are found: variables, dotenv files, CSV, JSON, or a table of another database."""

import csv
import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import SecretStr
from sqlalchemy import literal_column, select
from sqlalchemy import table as named
from sqlalchemy.exc import SQLAlchemyError

from contracts.subjects import Provider
from fleet.operator.key_import.rows import Found, Reading, Unreadable, of_fields, of_rows
from migrations.engine import open_engine
from migrations.outages import UNREACHABLE, one_line

ENVIRONMENT = "env"
_POSTGRESQL = ("postgresql://", "postgres://")
_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class _Vendor:
    """The variables from which a vendor's own tools take a key; of several names the first that is set counts."""

    provider: Provider
    key: tuple[str, ...]
    base_url: tuple[str, ...]
    api_version: tuple[str, ...] = ()


_VENDORS = (
    _Vendor(Provider.OPENAI, ("OPENAI_API_KEY",), ("OPENAI_BASE_URL", "OPENAI_API_BASE")),
    _Vendor(Provider.ANTHROPIC, ("ANTHROPIC_API_KEY",), ("ANTHROPIC_BASE_URL",)),
    _Vendor(Provider.GOOGLE, ("GOOGLE_API_KEY", "GEMINI_API_KEY"), ("GOOGLE_GEMINI_BASE_URL",)),
    _Vendor(
        Provider.AZURE,
        ("AZURE_OPENAI_API_KEY",),
        ("AZURE_OPENAI_ENDPOINT",),
        ("AZURE_OPENAI_API_VERSION", "OPENAI_API_VERSION"),
    ),
    _Vendor(Provider.OLLAMA, ("OLLAMA_API_KEY",), ("OLLAMA_BASE_URL",)),
)
_ENTRA = {"tenant_id": "AZURE_TENANT_ID", "client_id": "AZURE_CLIENT_ID", "client_secret": "AZURE_CLIENT_SECRET"}


async def read(source: str, reading: Reading) -> list[Found]:
    """Reads the keys in `source`: `env`, a file that ends with .env, .csv or .json, `postgresql://…#table` or
    `sqlite:///file#table`. Raises Unreadable, Unreachable."""
    if source == ENVIRONMENT:
        return of_variables(os.environ, reading)
    if source.startswith((*_POSTGRESQL, _SQLITE)):
        address, _, table = source.partition("#")
        if not table:
            raise Unreadable("--from: name the table after a #, as postgresql://user@host/database#llm_providers")
        rows = await _postgresql(address, table) if address.startswith(_POSTGRESQL) else _sqlite(address, table)
        return of_rows(rows, reading, name=table)
    return _file(Path(source), reading)


def of_variables(variables: Mapping[str, str | None], reading: Reading) -> list[Found]:
    """Reads variables, by the names that the vendors' own tools read."""

    def first(names: Sequence[str]) -> tuple[str, str | None]:
        return next(((name, value) for name in names if (value := variables.get(name))), ("", None))

    found: list[Found] = []
    for vendor in _VENDORS:
        origin, key = first(vendor.key)
        row: dict[str, str | None] = {
            "provider": vendor.provider.value,
            "key": key,
            "base_url": first(vendor.base_url)[1],
            "api_version": first(vendor.api_version)[1],
        }
        is_azure = vendor.provider is Provider.AZURE and row["base_url"] is not None
        if key is None and is_azure and all(map(variables.get, _ENTRA.values())):
            credentials = {name: variables[variable] for name, variable in _ENTRA.items()}
            row["key"] = json.dumps(credentials)
            origin = _ENTRA["client_secret"]
        if row["key"]:
            found.append(of_fields(row, origin, reading))
    return found


def _file(path: Path, reading: Reading) -> list[Found]:
    try:
        match path.suffix or path.name:
            case ".csv":
                with path.open(newline="", encoding="utf-8-sig") as lines:
                    return of_rows(list(csv.DictReader(lines)), reading, name=path.name)
            case ".json":
                return _json(json.loads(path.read_text()), reading, name=path.name)
            case ".env":
                path.stat()  # the reader takes a missing file for an empty one
                return of_variables(dotenv_values(path, interpolate=False), reading)
            case _:
                raise Unreadable(
                    f"--from {path}: must be {ENVIRONMENT}, a .env, .csv or .json file, or a database's URL with #table"
                )
    except OSError as exc:
        raise Unreadable(f"{path} cannot be read: {exc.strerror}") from None
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError):
        raise Unreadable(f"{path} cannot be read: it is not what its name says") from None


def _json(content: Any, reading: Reading, *, name: str) -> list[Found]:
    """Reads a list of objects, an object that holds such a list and nothing else, or an object of variables."""
    match content:
        case [*rows] if all(isinstance(row, dict) for row in rows):
            return of_rows(rows, reading, name=name)
        case {**fields} if len(fields) == 1 and isinstance(rows := next(iter(fields.values())), list):
            return _json(rows, reading, name=name)
        case {**variables} if all(isinstance(value, str) for value in variables.values()):
            return of_variables(variables, reading)
        case _:
            raise Unreadable(f"{name} must be a list of objects, or an object of variables")


async def _postgresql(url: str, table: str) -> list[dict[str, Any]]:
    schema, _, name = table.rpartition(".")
    query = select(literal_column("*")).select_from(named(name, schema=schema or None))
    async with open_engine(SecretStr(url), application_name="fleet-keys-import", pool_size=1) as engine:
        try:
            async with engine.connect() as connection:
                await connection.execution_options(postgresql_readonly=True)
                return [dict(row) for row in (await connection.execute(query)).mappings()]
        except (*UNREACHABLE, SQLAlchemyError) as exc:
            raise Unreadable(f"the table {table} cannot be read: {one_line(exc)}") from None


def _sqlite(url: str, table: str) -> list[dict[str, Any]]:
    quoted = '"' + table.replace('"', '""') + '"'
    try:
        with closing(sqlite3.connect(f"file:{url.removeprefix(_SQLITE)}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f"SELECT * FROM {quoted}")]  # noqa: S608
    except sqlite3.Error as exc:
        raise Unreadable(f"the table {table} cannot be read: {exc}") from None
