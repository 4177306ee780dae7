"""Carries an import out through the admin API: each key is tried with one call through a worker before it counts."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

from contracts.subjects import token
from fleet.admin_client import AdminApi, AdminRefused
from fleet.operator.key_import.plan import Add, Join, Keep, Refuse, Wish, plan
from fleet.operator.key_import.rows import Found, FoundKey, Unusable
from runtime.sealing import fingerprint

_TRIES, _PAUSE_S = 3, 2.0
_TAKEN_BACK = "it was tried and taken back"


class ImportOutcome(StrEnum):
    """What became of a row, in the words that the command prints."""

    DONE = "done"
    THERE = "there already"
    PLANNED = "would be done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one row. `mark` is the key's fingerprint. Texts are empty where the row does not say so much."""

    origin: str
    outcome: ImportOutcome
    what: str
    tenant: str = ""
    provider: str = ""
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """How to import. `tenant` owns the keys whose source names no tenant; None: such keys are refused."""

    tenant: str | None
    wish: Wish
    dry_run: bool = False
    adds_tenants: bool = False


class _Failed(Exception):
    """A key cannot be imported. The message says why."""


class _Passing(_Failed):
    """A call failed for a reason that may pass: a worker is busy or has not heard of the provider yet, or the vendor
    cannot be reached."""


def run(admin: AdminApi, keys: Sequence[Found], options: Options) -> Iterator[Imported]:
    """Imports one key after the other. One that fails leaves things as they were, and the next one is taken."""
    for found in keys:
        match found:
            case Unusable():
                yield Imported(found.origin, ImportOutcome.FAILED, found.why)
            case FoundKey():
                yield _import(admin, found, options)


def lines(imported: Sequence[Imported]) -> Iterator[str]:
    """The lines of a table in plain text."""
    rows = [(row.origin, row.tenant, row.provider, row.mark, row.outcome, row.what) for row in imported]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _import(admin: AdminApi, found: FoundKey, options: Options) -> Imported:
    tenant = found.tenant or options.tenant

    def ended(outcome: ImportOutcome, what: str) -> Imported:
        return Imported(found.origin, outcome, what, tenant or "", found.provider, fingerprint(found.secret))

    if tenant is None:
        return ended(ImportOutcome.FAILED, "whose key is it? give --tenant")
    try:
        slug = token(tenant)
    except ValueError as exc:
        return ended(ImportOutcome.FAILED, f"its tenant cannot be one of ours: {exc}")
    try:
        exists = admin.exists(f"tenants/{slug}")
        if not exists and not options.adds_tenants:
            return ended(ImportOutcome.FAILED, "there is no such tenant; --create-tenants adds it")
        active = f"llm-providers?tenant={tenant}&type={found.provider}&active=true"
        providers = admin.get(active)["items"] if exists else []
        todo = plan(found, providers[0] if providers else None, options.wish)
        if isinstance(todo, Refuse):
            return ended(ImportOutcome.FAILED, todo.why)
        if isinstance(todo, Keep):
            return ended(ImportOutcome.THERE, todo.what)
        if options.dry_run:
            return ended(ImportOutcome.PLANNED, todo.what)
        if not exists:
            admin.post("tenants", {"slug": tenant})
        _carry_out(admin, found, tenant, todo)
        return ended(ImportOutcome.DONE, todo.what)
    except (AdminRefused, _Failed) as exc:
        return ended(ImportOutcome.FAILED, str(exc))


def _carry_out(admin: AdminApi, found: FoundKey, tenant: str, todo: Add | Join) -> None:
    """Does what the plan says. Raises AdminRefused, _Failed; then things are as they were."""
    match todo:
        case Add():
            secret = found.secret.get_secret_value()
            body = {"tenant": tenant, "provider_type": found.provider, "api_key": secret, "config": todo.config}
            path = f"llm-providers/{admin.post('llm-providers', body)['id']}"
            try:
                _try(admin, path, None)
            except (AdminRefused, _Failed):
                admin.delete(path)
                raise
        case Join():
            path = f"llm-providers/{todo.provider_id}"
            if todo.trial is not None:
                admin.put(path, todo.trial)
            try:
                _try(admin, path, todo.endpoint)
            except (AdminRefused, _Failed):
                if todo.trial is not None:
                    admin.put(path, todo.undo)
                raise
            admin.put(path, todo.then)


def _try(admin: AdminApi, path: str, endpoint: str | None) -> None:
    """Makes one call through a worker to an endpoint, or to each (None), and makes it again where a failure says
    nothing of the key. Raises _Failed with the vendor's words."""
    for _ in range(_TRIES - 1):
        with suppress(_Passing):
            _call(admin, path, endpoint)
            return
        time.sleep(_PAUSE_S)
    _call(admin, path, endpoint)


def _call(admin: AdminApi, path: str, endpoint: str | None) -> None:
    """Raises _Passing, _Failed, AdminRefused."""
    try:
        result = admin.post(f"{path}/test", None)
    except AdminRefused as exc:
        if exc.status in (None, HTTPStatus.SERVICE_UNAVAILABLE):
            raise _Passing(f"{_TAKEN_BACK}: {exc}") from exc
        raise
    checked = [e for e in result["endpoints"] if endpoint in (None, e["endpoint"])]
    errors = [e["error"] for e in checked if e.get("error")]
    if not checked:
        raise _Passing(f"{_TAKEN_BACK}: {result['error']['message'] if result.get('error') else 'nothing was tried'}")
    if errors:
        passing = all(error["retryable"] for error in errors)
        raise (_Passing if passing else _Failed)(f"{_TAKEN_BACK}: {errors[0]['message']}")
