"""The outbox's rows: who gets a notice, whose turn it is, and how it went.

Several admin APIs share the work: a row is taken by one of them, and comes again when that one died with it.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, and_, delete, func, insert, literal, not_, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB, distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.notices.delivery import Channel, Hook, Outgoing, Target
from contracts.notices import ALERT_KINDS
from migrations.schema import notice_deliveries, notices, tenants, webhooks

LEASE = timedelta(seconds=60)
"""Longer than any sender takes."""
KEPT = timedelta(days=30)
_ROUTED_AT_ONCE = 200
Rows = Select[*tuple[Any, ...]]

_EMPTY_LIST = literal([], JSONB)

_deliveries = notice_deliveries.c
_OPEN = and_(_deliveries.delivered_at.is_(None), _deliveries.dead_at.is_(None))
_DUE = and_(_OPEN, _deliveries.next_at <= func.now())


async def route(connection: AsyncConnection, *, email: bool, emails_of_all: bool) -> int:
    """Writes the deliveries of new notices; returns how many notices there were.

    `email`: a mail server is set. `emails_of_all`: somebody gets the alerts of all tenants.
    """
    new = select(notices.c.seq).where(notices.c.routed_at.is_(None)).order_by(notices.c.seq).limit(_ROUTED_AT_ONCE)
    taken = update(notices).where(notices.c.seq.in_(new.with_for_update(skip_locked=True)))
    routed = (await connection.scalars(taken.values(routed_at=func.now()).returning(notices.c.seq))).all()
    if not routed:
        return 0
    notice = notices.c.seq.label("notice")
    to_nats = select(notice, literal(Channel.NATS).label("channel"))
    concerned = or_(webhooks.c.tenant.is_(None), webhooks.c.tenant == notices.c.tenant)
    of_wanted_kind = or_(webhooks.c.kinds == _EMPTY_LIST, webhooks.c.kinds.op("?")(notices.c.kind))
    was_there = webhooks.c.created_at <= notices.c.created_at
    to_webhooks = select(notice, literal(Channel.WEBHOOK).label("channel"), webhooks.c.id.label("webhook")).join(
        webhooks, and_(concerned, of_wanted_kind, was_there)
    )
    selections: list[Rows] = [to_nats, to_webhooks]
    if email:
        somebody = or_(literal(value=emails_of_all), tenants.c.alert_emails != _EMPTY_LIST)
        to_email = select(notice, literal(Channel.EMAIL).label("channel"))
        to_email = to_email.outerjoin(tenants, tenants.c.slug == notices.c.tenant)
        selections.append(to_email.where(notices.c.kind.in_(ALERT_KINDS), somebody))
    for deliveries in selections:
        rows = deliveries.where(notices.c.seq.in_(routed)).order_by(notices.c.seq)
        await connection.execute(insert(notice_deliveries).from_select(list(rows.selected_columns.keys()), rows))
    return len(routed)


async def claim(connection: AsyncConnection, *, busy: Collection[Target]) -> list[Outgoing]:
    """Takes what is due, the oldest delivery of each target that is not `busy`. It is ours for `LEASE`.

    Several admin APIs do this at once. A row that another one is about to take is locked and skipped; one that it has
    just taken is no longer due, which is looked at again once the row is locked.
    """
    channel, hook = _deliveries.channel, _deliveries.webhook
    of_busy = [and_(channel == at, hook.is_not_distinct_from(which)) for at, which in busy]
    firsts = (
        select(_deliveries.id)
        .ext(distinct_on(channel, hook))
        .where(_DUE, not_(or_(literal(value=False), *of_busy)))
        .order_by(channel, hook, _deliveries.next_at, _deliveries.id)
    )
    free = select(_deliveries.id).where(_deliveries.id.in_(firsts), _DUE).with_for_update(skip_locked=True)
    taken = (
        update(notice_deliveries)
        .where(_deliveries.id.in_(free))
        .values(attempts=_deliveries.attempts + 1, next_at=func.now() + LEASE)
    )
    claimed = (await connection.scalars(taken.returning(_deliveries.id))).all()
    if not claimed:
        return []
    return [
        Outgoing(
            delivery=row.id,
            channel=Channel(row.channel),
            attempts=row.attempts,
            notice_id=row.notice_id,
            kind=row.kind,
            tenant=row.tenant,
            event=row.event.encode(),
            hook=Hook(row.webhook, row.webhook_tenant, row.url, row.sealed_secret) if row.webhook else None,
            emails=tuple(row.alert_emails or ()),
        )
        for row in await connection.execute(_CONTENTS.where(_deliveries.id.in_(claimed)))
    ]


async def delivered(connection: AsyncConnection, outgoing: Outgoing) -> None:
    """Notes that a delivery was made."""
    made = {"delivered_at": func.now(), "last_error": None}
    await _note(connection, outgoing, made, of_hook={"last_success_at": func.now()})


async def undelivered(connection: AsyncConnection, outgoing: Outgoing, why: str, *, again_in: timedelta | None) -> None:
    """Notes that a delivery failed, and when it is due again; `again_in` None: never again."""
    next_turn = {"dead_at": func.now()} if again_in is None else {"next_at": func.now() + again_in}
    failed = {"last_failure_at": func.now(), "last_error": why}
    await _note(connection, outgoing, {"last_error": why, **next_turn}, of_hook=failed)


async def _note(
    connection: AsyncConnection, outgoing: Outgoing, outcome: dict[str, Any], *, of_hook: dict[str, Any]
) -> None:
    """Writes how it went into the delivery's row, and into that of the webhook, when it went to one."""
    await connection.execute(update(notice_deliveries).where(_deliveries.id == outgoing.delivery).values(outcome))
    if outgoing.hook is not None:
        await connection.execute(update(webhooks).where(webhooks.c.id == outgoing.hook.id).values(of_hook))


async def waiting(connection: AsyncConnection) -> dict[str, int]:
    """How many deliveries are still to be made, by channel."""
    counts = select(_deliveries.channel, func.count().label("waiting")).where(_OPEN).group_by(_deliveries.channel)
    return {row.channel: row.waiting for row in await connection.execute(counts)}


async def forget_old(connection: AsyncConnection) -> None:
    """Deletes notices that were delivered, or given up, long ago."""
    waits = select(_deliveries.id).where(_deliveries.notice == notices.c.seq, _OPEN).exists()
    old = notices.c.created_at < func.now() - KEPT
    await connection.execute(delete(notices).where(old, notices.c.routed_at.is_not(None), not_(waits)))


_CONTENTS = (
    select(
        _deliveries.id,
        _deliveries.channel,
        _deliveries.attempts,
        _deliveries.webhook,
        notices.c.id.label("notice_id"),
        notices.c.kind,
        notices.c.tenant,
        notices.c.event,
        webhooks.c.tenant.label("webhook_tenant"),
        webhooks.c.url,
        webhooks.c.sealed_secret,
        tenants.c.alert_emails,
    )
    .join(notices, notices.c.seq == _deliveries.notice)
    .outerjoin(webhooks, webhooks.c.id == _deliveries.webhook)
    .outerjoin(tenants, tenants.c.slug == notices.c.tenant)
)
