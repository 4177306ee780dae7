"""Brings tenants and providers from the database into the KV bucket `llm_config`, where workers read them.

Each change is published after its commit. Whatever was missed (a crash in between, NATS away) is found by comparing
the bucket with the database at start, after each reconnect and every 30 s. The database is the truth; an older
revision never overwrites a newer one, because every write names the bucket's entry that it replaces.

Two numbers order what is written. The `revision` in a value counts the changes of its row in the database, and says
which of two values is newer. The `sequence` of a bucket's entry is JetStream's, and says whether anybody has written
since the entry was read.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
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
from runtime.tasks import every

log = logging.getLogger(__name__)

RECONCILE_EVERY_S = 30.0
_RETRY_AFTER_S = 2.0
_TIMEOUT_S = 5
_SNAPSHOT_TIMEOUT_S = 30
_PUT_TRIES = 5

_NATS_ERRORS = (nats.errors.Error, nats.js.errors.Error, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class BucketEntry:
    """What lies in the bucket under a key. `revision` None: nothing that can be read."""

    sequence: int
    value: bytes
    revision: int | None


@dataclass(frozen=True, slots=True)
class Differences:
    """What has to be done so that the bucket has what the database has, by the bucket's key."""

    put: Mapping[str, WorkerConfig]
    delete: tuple[str, ...]
    ahead: Mapping[str, int]
    """The revisions of entries that are newer than their rows, as after a backup of the database was restored."""


class ConfigPublisher:
    """Writes `llm_config`. Each admin API has one, and nobody else writes there."""

    def __init__(self, database: Database, broker: Broker, *, every_s: float = RECONCILE_EVERY_S) -> None:
        self._database = database
        self._broker = broker
        self._every_s = every_s
        self._due = asyncio.Event()
        self._bucket: KeyValue | None = None
        broker.on_reconnect.append(self._on_reconnect)

    async def publish(self, *rows: WorkerConfig | None) -> None:
        """Publishes what was committed; None stands for a row that this version cannot read, and is passed over.

        Raises nothing when NATS is away: the commit stands, and the reconciliation publishes it later.
        """
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
        """Reconciles at once, every 30 s, after a reconnect and after a publish that failed, until it is cancelled."""

        async def reconcile_if_connected() -> float | None:
            self._due.clear()
            if not self._broker.connected:
                return None
            if corrected := await self.reconcile():
                log.info("config_reconciled", extra={"corrected": corrected})
            return self._every_s

        async def until_due(seconds: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._due.wait()

        await every(
            _RETRY_AFTER_S,
            reconcile_if_connected,
            log=log,
            failure_event="config_reconcile_failed",
            expected=(*_NATS_ERRORS, DatabaseUnavailable),
            sleep=until_due,
        )

    async def reconcile(self) -> int:
        """Makes the bucket like the database; returns how many entries it had to correct."""
        # The bucket is read first. What lies in it was committed before it was published, so a row that is not in the
        # database afterwards is gone. The other way round, a row that was added in between would lose its entry.
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

    async def _on_reconnect(self) -> None:
        self._due.set()

    async def _rows(self) -> dict[str, WorkerConfig | None]:
        """Every row by its key in the bucket; None for one that this version cannot read, whose entry is left alone."""
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
        """Lifts rows above the revisions that the bucket has seen, so that workers take them for newer."""
        log.warning("config_ahead_of_database", extra={"keys": sorted(ahead)[:20], "count": len(ahead)})
        async with self._database.transaction() as connection:
            for key, revision in ahead.items():
                table, where = _row_of(key)
                # A row that was changed since it was read may be above the bucket's revision already.
                await connection.execute(
                    update(table).where(*where, table.c.revision <= revision).values(revision=revision + 1)
                )

    async def _snapshot(self) -> dict[str, BucketEntry]:
        """What lies in the bucket now, without the markers of deleted keys."""
        bucket = await self._open()
        watcher = await bucket.watchall(inactive_threshold=_SNAPSHOT_TIMEOUT_S)
        found: dict[str, BucketEntry] = {}
        try:
            async with asyncio.timeout(_SNAPSHOT_TIMEOUT_S):
                async for entry in watcher:
                    # nats-py's watcher gives None once it has shown all that was there when it began.
                    if entry is None:
                        break
                    # A key that is written while the snapshot is read comes twice: the later one counts.
                    found.pop(entry.key, None)
                    if entry.operation is None:
                        found[entry.key] = _entry(entry)
        finally:
            await watcher.stop()
        return found

    async def _put(self, row: WorkerConfig) -> None:
        """Writes `row` unless the bucket has it or something newer. Raises TimeoutError when others keep writing."""
        bucket = await self._open()
        key, value = worker_config.key(row), row.to_json()
        for _ in range(_PUT_TRIES):
            try:
                found = _entry(await bucket.get(key))
            except nats.js.errors.KeyNotFoundError as exc:
                # A deleted key still has an entry, its marker, whose sequence counts; a key that never was has 0.
                sequence = (exc.entry.revision or 0) if exc.entry else 0
                found = BucketEntry(sequence, b"", None)
            if found.value == value or (found.revision is not None and found.revision > row.revision):
                return
            try:
                await bucket.update(key, value, last=found.sequence)
            except nats.js.errors.KeyWrongLastSequenceError:
                # Another admin API was faster. What it wrote may be older than ours, so it is looked at again.
                continue
            return
        raise TimeoutError(f"{key} keeps changing")

    async def _delete(self, key: str, seen: BucketEntry) -> None:
        """Deletes what was seen under `key`, and nothing that was written there since."""
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
    """What to write so that the bucket has the rows and nothing else. A row that is None keeps the entry it has."""
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
    """The table and the condition of the row whose key in the bucket is `key`."""
    match key.split("."):
        case ["tenant", slug]:
            return tenants, (tenants.c.slug == slug,)
        case ["provider", tenant, provider]:
            return llm_providers, (llm_providers.c.tenant == tenant, llm_providers.c.provider_type == provider)
        case _:
            raise AssertionError(key)
