"""Brings tenants and providers from the database into the KV bucket `llm_config`, where workers read them.

Each change is published after its commit. Whatever was missed (a crash in between, NATS away) is found by comparing
the bucket with the database at start, after each reconnect and every 30 s. The database is the truth; an older
revision never overwrites a newer one, because every write names the bucket's entry that it replaces.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nats.errors
import nats.js.errors
from nats.js.kv import KeyValue
from sqlalchemy import Table, select, update

from admin_api.database import Database, DatabaseUnavailable
from admin_api.publishing import worker_config
from admin_api.publishing.worker_config import WorkerConfig
from contracts import jetstream_codes, subjects
from contracts.wire import reason
from migrations.schema import llm_providers, tenants
from runtime.broker import Broker

log = logging.getLogger(__name__)

RECONCILE_EVERY_S = 30.0
_RETRY_AFTER_S = 2.0
_TIMEOUT_S = 5
_SNAPSHOT_TIMEOUT_S = 30
_PUT_TRIES = 5

_NATS_ERRORS = (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class BucketEntry:
    """What the bucket has under a key. `revision` None: nothing readable."""

    sequence: int
    value: bytes
    revision: int | None


@dataclass(frozen=True, slots=True)
class Differences:
    """What makes the bucket like the database."""

    put: Mapping[str, WorkerConfig]
    delete: tuple[str, ...]
    ahead: Mapping[str, int]
    """Keys whose entry is newer than the database, as after a restored backup; by the entry's revision."""


class ConfigPublisher:
    """Writes `llm_config`; the only one that does, in as many processes as there are admin APIs."""

    def __init__(self, database: Database, broker: Broker, *, every_s: float = RECONCILE_EVERY_S) -> None:
        self._database = database
        self._broker = broker
        self._every_s = every_s
        self._due = asyncio.Event()
        self._bucket: KeyValue | None = None
        broker.on_reconnect.append(self._reconnected)

    async def publish(self, *rows: WorkerConfig | None) -> None:
        """Publishes what was committed. When NATS is away the reconciliation does it later."""
        try:
            if not self._broker.connected:
                raise nats.errors.ConnectionReconnectingError
            async with asyncio.timeout(_TIMEOUT_S):
                for row in filter(None, rows):
                    await self._put(row)
        except _NATS_ERRORS as exc:
            log.warning("config_publish_deferred", extra={"error": reason(exc)})
            self._due.set()

    async def keep_reconciled(self) -> None:
        """Runs until cancelled."""
        while True:
            self._due.clear()
            wait_s = self._every_s if await self._try_to_reconcile() else _RETRY_AFTER_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._due.wait()
            except TimeoutError:
                pass

    async def reconcile(self) -> int:
        """Makes the bucket like the database; returns how many entries it had to correct."""
        # The bucket first: whatever is in it was committed before, so a row that is missing afterwards is gone.
        entries = await self._snapshot()
        found = differences(entries, await self._rows())
        if found.ahead:
            await self._overtake(found.ahead)
            found = differences(entries, await self._rows())
        for row in found.put.values():
            await self._put(row)
        for key in found.delete:
            await self._delete(key, entries[key])
        return len(found.put) + len(found.delete)

    async def _try_to_reconcile(self) -> bool:
        if not self._broker.connected:
            return False
        try:
            corrected = await self.reconcile()
        except (*_NATS_ERRORS, DatabaseUnavailable) as exc:
            log.warning("config_reconcile_failed", extra={"error": reason(exc)})
            return False
        except Exception:
            log.exception("config_reconcile_crashed")
            return False
        if corrected:
            log.info("config_reconciled", extra={"corrected": corrected})
        return True

    async def _reconnected(self) -> None:
        self._due.set()

    async def _rows(self) -> dict[str, WorkerConfig | None]:
        """By the bucket's key; None: a row that this version cannot read, to be left alone."""
        async with self._database.transaction() as connection:
            tenant_rows = (await connection.execute(select(tenants))).all()
            provider_rows = (await connection.execute(select(llm_providers))).all()
        rows: dict[str, WorkerConfig | None] = {}
        for row in tenant_rows:
            rows[subjects.config_key_of_tenant(row.slug)] = worker_config.tenant(row)
        for row in provider_rows:
            rows[subjects.config_key_of_provider(row.tenant, row.provider_type)] = worker_config.provider(row)
        return rows

    async def _overtake(self, ahead: Mapping[str, int]) -> None:
        """Lifts rows above the revision that the bucket has seen, so that the database can be published again."""
        log.warning("config_ahead_of_database", extra={"keys": sorted(ahead)[:20], "count": len(ahead)})
        async with self._database.transaction() as connection:
            for key, revision in ahead.items():
                table, where = _row_of(key)
                await connection.execute(
                    update(table).where(*where, table.c.revision <= revision).values(revision=revision + 1)
                )

    async def _snapshot(self) -> dict[str, BucketEntry]:
        bucket = await self._open()
        watcher = await bucket.watchall(inactive_threshold=_SNAPSHOT_TIMEOUT_S)
        found: dict[str, BucketEntry] = {}
        try:
            async with asyncio.timeout(_SNAPSHOT_TIMEOUT_S):
                async for entry in watcher:
                    if entry is None:
                        break
                    found.pop(entry.key, None)
                    if entry.operation is None:
                        found[entry.key] = _entry(entry)
        finally:
            await watcher.stop()
        return found

    async def _put(self, row: WorkerConfig) -> None:
        bucket = await self._open()
        key, value = worker_config.key(row), row.to_json()
        for _ in range(_PUT_TRIES):
            found = await self._get(bucket, key)
            if found.value == value or (found.revision is not None and found.revision > row.revision):
                return
            try:
                await bucket.update(key, value, last=found.sequence)
            except nats.js.errors.KeyWrongLastSequenceError:
                continue
            return
        raise TimeoutError(f"{key} keeps changing")

    async def _get(self, bucket: KeyValue, key: str) -> BucketEntry:
        try:
            return _entry(await bucket.get(key))
        except nats.js.errors.KeyNotFoundError as exc:
            tombstone = exc.entry
            return BucketEntry(tombstone.revision or 0 if tombstone else 0, b"", None)

    async def _delete(self, key: str, seen: BucketEntry) -> None:
        bucket = await self._open()
        try:
            await bucket.delete(key, last=seen.sequence)
        except nats.js.errors.APIError as exc:
            if exc.err_code not in jetstream_codes.LOST_COMPARE_AND_SET:
                raise

    async def _open(self) -> KeyValue:
        if self._bucket is None:
            jetstream = self._broker.client.jetstream(timeout=_TIMEOUT_S)
            self._bucket = await jetstream.key_value(subjects.CONFIG_BUCKET)
        return self._bucket


def differences(entries: Mapping[str, BucketEntry], rows: Mapping[str, WorkerConfig | None]) -> Differences:
    """What to write so that the bucket has the rows and nothing else. A row that is None keeps what it has."""
    put: dict[str, WorkerConfig] = {}
    ahead: dict[str, int] = {}
    for key, row in rows.items():
        entry = entries.get(key)
        if row is None:
            continue
        if entry is None or entry.revision is None or entry.revision < row.revision:
            put[key] = row
        elif entry.revision > row.revision:
            ahead[key] = entry.revision
        elif entry.value != row.to_json():
            put[key] = row
    return Differences(put=put, delete=tuple(key for key in entries if key not in rows), ahead=ahead)


def _entry(entry: KeyValue.Entry) -> BucketEntry:
    value = entry.value or b""
    try:
        revision = json.loads(value)["revision"]
    except (ValueError, KeyError, TypeError):
        revision = None
    return BucketEntry(entry.revision or 0, value, revision if isinstance(revision, int) else None)


def _row_of(key: str) -> tuple[Table, tuple[Any, ...]]:
    match key.split("."):
        case ["tenant", slug]:
            return tenants, (tenants.c.slug == slug,)
        case ["provider", tenant, provider]:
            return llm_providers, (llm_providers.c.tenant == tenant, llm_providers.c.provider_type == provider)
        case _:
            raise AssertionError(key)
