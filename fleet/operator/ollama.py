"""The models of Ollama servers: listed, pulled, created. The commands ask the servers themselves, past the fleet.

Source: Ollama's API reference, `/api/tags`, `/api/pull`, `/api/create`.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

from pydantic import SecretStr
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from fleet.admin_client import AdminApi
from fleet.operator.modelfile import Modelfile
from fleet.terminal.foreign_text import in_one_line
from fleet.terminal.tables import Column, Table, name

BASE_URL = "http://127.0.0.1:11434"
_SILENCE_S = 600
"""How long a server may say nothing; it checks a model of many gigabytes without a word."""


class OllamaRefused(Exception):
    """A server cannot be reached, or said no. The message says why."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that a server has. Empty texts: the server does not say."""

    name: str
    size_bytes: int
    parameters: str
    """Their number in words, as `3.2B`."""
    quantization: str


@dataclass(frozen=True, slots=True)
class Step:
    """What a server is doing, and how far it is."""

    status: str
    digest: str | None = None
    """The layer that is being transferred; None for a step without one."""
    total_bytes: int | None = None
    completed_bytes: int | None = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a key goes to the server that it is for, and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class OllamaServer:
    """Blocking calls of one server. Each raises OllamaRefused."""

    def __init__(self, base_url: str, *, key: SecretStr | None = None) -> None:
        """`key` None: the server needs none. Raises OllamaRefused when `base_url` is no address."""
        if not base_url.startswith(("http://", "https://")):
            raise OllamaRefused(f"{base_url!r} is no address of a server; it begins with http:// or https://")
        self.url = base_url.rstrip("/").removesuffix("/api")
        self._key = key
        self._opener = urllib.request.build_opener(_NoRedirect)

    def models(self) -> list[Model]:
        """The models that the server has."""
        with self._call("GET", "/api/tags") as answer:
            found = _object(answer.read()).get("models") or []
        models: list[Model] = []
        for entry in found:
            details = entry.get("details") or {}
            models.append(
                Model(
                    name=entry.get("model") or entry.get("name") or "",
                    size_bytes=entry.get("size") or 0,
                    parameters=details.get("parameter_size") or "",
                    quantization=details.get("quantization_level") or "",
                )
            )
        return models

    def pull(self, model: str) -> Iterator[Step]:
        """Gets a model from Ollama's registry. Raises OllamaRefused also when the server stops before it has it."""
        return self._work("/api/pull", {"model": model, "stream": True})

    def create(self, model: str, made: Modelfile) -> Iterator[Step]:
        """Makes the model as its Modelfile says."""
        return self._work("/api/create", {"model": model, "from": made.base, **made.fields, "stream": True})

    def _work(self, path: str, body: dict[str, Any]) -> Iterator[Step]:
        """The steps of what the server does, up to its `success`; each is a line of JSON."""
        with self._call("POST", path, body) as answer:
            status = ""
            for line in self._lines(answer):
                if error := line.get("error"):
                    raise OllamaRefused(f"Ollama at {self.url}: {error}")
                status = str(line.get("status") or "")
                yield Step(status, line.get("digest"), line.get("total"), line.get("completed"))
        if status != "success":
            raise OllamaRefused(f"Ollama at {self.url} stopped before it was done; run the command again to go on")

    def _lines(self, answer: HTTPResponse) -> Iterator[dict[str, Any]]:
        try:
            yield from map(_object, filter(bytes.strip, answer))
        except (OSError, HTTPException) as exc:
            raise OllamaRefused(f"Ollama at {self.url} broke the connection: {exc}") from None

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> HTTPResponse:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, method=method, data=data, headers=headers)  # noqa: S310
            return self._opener.open(request, timeout=_SILENCE_S)
        except urllib.error.HTTPError as exc:
            with exc:
                said = _object(exc.read()).get("error") or exc.reason
            raise OllamaRefused(f"Ollama at {self.url} answered {exc.code}: {said}") from None
        except (OSError, HTTPException, ValueError) as exc:
            why = getattr(exc, "reason", exc)
            raise OllamaRefused(f"Ollama at {self.url} cannot be used: {why}") from None


def servers_of(admin: AdminApi, *, tenant: str) -> list[str]:
    """The addresses of the tenant's provider `ollama`. Raises AdminRefused, OllamaRefused."""
    found = admin.get(f"llm-providers?tenant={tenant}&type=ollama&active=true")["items"]
    if not found:
        raise OllamaRefused(f"tenant {tenant} has no active provider ollama; add one, or give --base-url")
    config = found[0]["config"]
    endpoints = config.get("endpoints") or [config]
    return [endpoint.get("base_url") or BASE_URL for endpoint in endpoints]


def key_from_environment() -> SecretStr | None:
    """OLLAMA_API_KEY, which Ollama's cloud and proxies want; None when it is not set: one's own servers need none."""
    key = os.environ.get("OLLAMA_API_KEY")
    return SecretStr(key) if key else None


def table(models: Iterable[tuple[str, Model]]) -> Table:
    """The models as a table. Each comes with the address of its server."""
    columns = (name("model"), Column("parameters"), Column("quantization"), Column("size"), name("server"))
    rows = [(model.name, model.parameters, model.quantization, decimal(model.size_bytes), url) for url, model in models]
    return Table(columns, rows)


def show(steps: Iterable[Step], *, console: Console) -> None:
    """Prints the steps as they come: a bar for each layer, and a line for each of the other steps."""
    said_so_far = TextColumn("{task.description}", markup=False)
    columns = (said_so_far, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        bars: dict[str, TaskID] = {}
        said = ""
        for step in steps:
            if step.digest is None:
                if step.status != said:
                    console.print(Text(in_one_line(step.status)))
                said = step.status
                continue
            if step.digest not in bars:
                bars[step.digest] = progress.add_task(in_one_line(step.status), total=step.total_bytes)
            progress.update(bars[step.digest], total=step.total_bytes, completed=step.completed_bytes or 0)


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object of a body or a line; empty when it is none."""
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
