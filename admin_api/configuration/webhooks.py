"""Webhooks: where notices go besides NATS. Their secrets are shown once and stored sealed."""

import logging
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from sqlalchemy import delete, insert, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from admin_api.access.principals import Principal
from admin_api.configuration import tenants
from admin_api.database import Database
from admin_api.http.bodies import Body
from admin_api.http.pagination import Page, Paging, read_page
from admin_api.http.problems import invalid, not_found
from admin_api.notices import webhook
from admin_api.notices.delivery import Hook, Undelivered
from admin_api.notices.webhook import WebhookSender
from contracts.notices import NoticeKind, TrialNotice, WebhookTrial
from contracts.wire import Token, utc_now
from migrations import audit
from migrations.audit import Change, Origin
from migrations.schema import webhooks
from runtime.networks import ForbiddenAddress, Network, check_base_url
from runtime.sealing import Keyring, UnsealError

log = logging.getLogger(__name__)


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("must be an http or https URL with a host")
    if parts.username or parts.password or parts.fragment:
        raise ValueError("must have no user, password or fragment")
    return url


WebhookUrl = Annotated[str, StringConstraints(max_length=2048, pattern=r"^[\x21-\x7e]+$"), AfterValidator(_http_url)]


class NewWebhook(Body):
    tenant: Token | None = None
    """Whose notices it gets; left out: those of all tenants."""
    url: WebhookUrl
    kinds: Annotated[tuple[NoticeKind, ...], Field(max_length=len(NoticeKind))] = ()
    """Which notices it gets; empty: all."""


class WebhookView(BaseModel):
    id: uuid.UUID
    tenant: str | None
    url: str
    kinds: list[str]
    created_at: datetime
    last_success_at: datetime | None
    last_failure_at: datetime | None
    last_error: str | None


class AddedWebhook(WebhookView):
    secret: str
    """What signatures are made with, as Standard Webhooks writes it (`whsec_…`); the only time that it is shown."""


class TrialResult(BaseModel):
    delivered: bool
    status: int | None
    error: str | None


async def add(
    database: Database,
    new: NewWebhook,
    *,
    keyring: Keyring,
    allowed_networks: Sequence[Network],
    caller: Principal,
    origin: Origin,
) -> AddedWebhook:
    """Adds a webhook; `allowed_networks` are the private ones that its URL may lead to.

    Raises 403, 404 for an unknown tenant, 422.
    """
    caller.must_change(new.tenant)
    try:
        check_base_url(new.url, allowed=allowed_networks)
    except ForbiddenAddress as exc:
        raise invalid("url", str(exc)) from exc
    hook_id, secret = uuid.uuid4(), webhook.new_secret()
    async with database.transaction() as connection:
        if new.tenant is not None:
            await tenants.locked(connection, new.tenant)
        values = {
            "id": hook_id,
            "tenant": new.tenant if new.tenant is not None else null(),
            "url": new.url,
            "kinds": sorted(set(new.kinds)),
            "sealed_secret": webhook.sealed(keyring, secret, hook_id=hook_id, tenant=new.tenant),
        }
        row = (await connection.execute(insert(webhooks).values(values).returning(*webhooks.c))).one()
        change = Change("webhook.add", "webhook", str(hook_id), new.tenant, before=None, after=_snapshot(row))
        await audit.record(connection, change, origin)
    return AddedWebhook(**view(row).model_dump(), secret=secret.get_secret_value())


async def remove(database: Database, hook_id: uuid.UUID, *, caller: Principal, origin: Origin) -> None:
    """Removes a webhook, and what is still to be delivered to it. Raises 403, 404."""
    async with database.transaction() as connection:
        row = await _one(connection, hook_id, caller)
        await connection.execute(delete(webhooks).where(webhooks.c.id == hook_id))
        change = Change("webhook.remove", "webhook", str(hook_id), row.tenant, before=_snapshot(row), after=None)
        await audit.record(connection, change, origin)


async def try_out(database: Database, hook_id: uuid.UUID, *, sender: WebhookSender, caller: Principal) -> TrialResult:
    """Sends a notice of the kind `test`, once, now. Raises 403, 404."""
    async with database.transaction() as connection:
        row = await _one(connection, hook_id, caller)
    notice = TrialNotice(
        id=uuid.uuid4(),
        source="/fleet/admin",
        subject=str(hook_id),
        time=utc_now(),
        tenant=row.tenant,
        data=WebhookTrial(webhook_id=hook_id, message="This webhook works."),
    )
    try:
        status = await sender.post(_hook(row), notice_id=notice.id, body=notice.to_json())
    except Undelivered as exc:
        return TrialResult(delivered=False, status=exc.status, error=str(exc))
    return TrialResult(delivered=True, status=status, error=None)


async def page(database: Database, *, caller: Principal, paging: Paging) -> Page[WebhookView]:
    """The webhooks of the caller's tenant, or all."""
    query = select(webhooks)
    if (tenant := caller.scope(None)) is not None:
        query = query.where(webhooks.c.tenant == tenant)
    async with database.transaction() as connection:
        return await read_page(connection, query, keys=[webhooks.c.id], paging=paging, view=view)


async def reseal(database: Database, keyring: Keyring) -> None:
    """Seals every secret with the newest sealing key, so that older ones can go."""
    async with database.transaction() as connection:
        for row in (await connection.execute(select(webhooks).with_for_update())).all():
            try:
                resealed = webhook.resealed(keyring, _hook(row))
            except UnsealError as exc:
                log.error("webhook_secret_unreadable", extra={"webhook": str(row.id), "error": str(exc)})
                continue
            if resealed is not None:
                await connection.execute(update(webhooks).where(webhooks.c.id == row.id).values(sealed_secret=resealed))


def view(row: Any) -> WebhookView:
    return WebhookView.model_validate(row, from_attributes=True)


async def _one(connection: AsyncConnection, hook_id: uuid.UUID, caller: Principal) -> Any:
    """The webhook's row, locked until the transaction's end. Raises 403, 404."""
    row = (await connection.execute(select(webhooks).where(webhooks.c.id == hook_id).with_for_update())).first()
    if row is None:
        raise not_found(f"there is no webhook {hook_id}")
    caller.must_change(row.tenant)
    return row


def _hook(row: Any) -> Hook:
    return Hook(row.id, row.tenant, row.url, row.sealed_secret)


def _snapshot(row: Any) -> dict[str, Any]:
    """The webhook as the audit log shows it: without the URL's path and query, which often hold a secret of the
    receiver's."""
    parts = urlsplit(row.url)
    return {
        "id": str(row.id),
        "tenant": row.tenant,
        "origin": f"{parts.scheme}://{parts.netloc}",
        "kinds": row.kinds,
        "created_at": row.created_at.isoformat(),
    }
