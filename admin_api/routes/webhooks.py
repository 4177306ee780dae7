"""/api/v1/webhooks"""

import uuid
from http import HTTPStatus

from fastapi import APIRouter

from admin_api.access.principals import AuditOrigin, CurrentWriter
from admin_api.configuration import webhooks
from admin_api.configuration.webhooks import AddedWebhook, NewWebhook, TrialResult, WebhookView
from admin_api.dependencies import Db, Networks, Sealing, Webhooks
from admin_api.http.pagination import Page, Paged
from admin_api.http.problems import api_problems

router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"])


@router.get("", responses=api_problems(422))
async def list_webhooks(database: Db, caller: CurrentWriter, paging: Paged) -> Page[WebhookView]:
    """The webhooks of the caller's tenant, or all, and how their last deliveries went."""
    return await webhooks.page(database, caller=caller, paging=paging)


@router.post("", status_code=HTTPStatus.CREATED, responses=api_problems(404, 409, 413, 422))
async def add_webhook(
    database: Db, sealing: Sealing, networks: Networks, caller: CurrentWriter, origin: AuditOrigin, new: NewWebhook
) -> AddedWebhook:
    """Adds a webhook. The answer shows its signing secret, once."""
    return await webhooks.add(database, new, keyring=sealing, allowed_networks=networks, caller=caller, origin=origin)


@router.delete("/{webhook_id}", status_code=HTTPStatus.NO_CONTENT, responses=api_problems(404, 422))
async def remove_webhook(database: Db, caller: CurrentWriter, origin: AuditOrigin, webhook_id: uuid.UUID) -> None:
    """Removes a webhook, and what was still to be delivered to it."""
    await webhooks.remove(database, webhook_id, caller=caller, origin=origin)


@router.post("/{webhook_id}/test", responses=api_problems(404, 422))
async def test_webhook(database: Db, sender: Webhooks, caller: CurrentWriter, webhook_id: uuid.UUID) -> TrialResult:
    """Sends a signed notice of the kind `test` now, once, and says how it went."""
    return await webhooks.try_out(database, webhook_id, sender=sender, caller=caller)
