"""Notices to webhooks: signed as Standard Webhooks says, to allowed addresses only.

Sources: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md and, for the body,
the structured mode of https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from uuid import UUID

import httpx2
from pydantic import SecretStr

from admin_api.notices.delivery import Hook, Outgoing, Undelivered
from contracts.notices import ALL_TENANTS, CONTENT_TYPE
from contracts.wire import utc_now
from runtime.egress import Egress
from runtime.networks import ForbiddenAddress
from runtime.sealing import Keyring, UnsealError

TIMEOUT_S = 10.0
_PREFIX = "whsec_"
_SECRET_BYTES = 32
_SEALED_AS = "webhook"


def new_secret() -> SecretStr:
    return SecretStr(_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode())


def sealed(keyring: Keyring, secret: SecretStr, *, hook_id: UUID, tenant: str | None) -> str:
    """The secret as it is stored, sealed for this webhook only: a row that is copied to another one opens nothing."""
    return keyring.seal(secret, tenant=tenant or ALL_TENANTS, provider=_SEALED_AS, name=str(hook_id))


def resealed(keyring: Keyring, hook: Hook) -> str | None:
    """The secret sealed with the newest sealing key, None when it is so already. Raises runtime.sealing.UnsealError."""
    return keyring.reseal(hook.sealed_secret, tenant=hook.tenant or ALL_TENANTS, provider=_SEALED_AS, name=str(hook.id))


def signature(secret: SecretStr, *, message_id: str, timestamp: int, body: bytes) -> str:
    key = base64.b64decode(secret.get_secret_value().removeprefix(_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


class WebhookSender:
    """Posts notices to webhooks, signed with their secrets."""

    def __init__(self, egress: Egress, keyring: Keyring, *, now: Callable[[], datetime] = utc_now) -> None:
        self._client = egress.client(headers={"User-Agent": "fleet-webhooks/1"}, timeout=TIMEOUT_S)
        self._keyring = keyring
        self._now = now

    async def close(self) -> None:
        await self._client.aclose()

    async def send(self, outgoing: Outgoing) -> None:
        """Raises Undelivered for every answer but a 2xx; a redirect is none."""
        if outgoing.hook is None:
            raise Undelivered("the webhook is gone", again=False)
        await self.post(outgoing.hook, notice_id=outgoing.notice_id, body=outgoing.event)

    async def post(self, hook: Hook, *, notice_id: UUID, body: bytes) -> int:
        """Posts one notice; returns the status of the answer, a 2xx. Raises Undelivered."""
        try:
            secret = self._keyring.unseal(
                hook.sealed_secret, tenant=hook.tenant or ALL_TENANTS, provider=_SEALED_AS, name=str(hook.id)
            )
        except UnsealError as exc:
            raise Undelivered(str(exc)) from None
        timestamp = int(self._now().timestamp())
        headers = {
            "Content-Type": CONTENT_TYPE,
            "webhook-id": str(notice_id),
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secret, message_id=str(notice_id), timestamp=timestamp, body=body),
        }
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                self._client.stream("POST", hook.url, content=body, headers=headers) as answer,
            ):
                status = answer.status_code
        except ForbiddenAddress as exc:
            raise Undelivered(str(exc), again=False) from None
        except TimeoutError:
            raise Undelivered(f"no answer within {TIMEOUT_S:g} s") from None
        except (httpx2.RequestError, httpx2.InvalidURL, OSError) as exc:
            raise Undelivered(f"no connection, or a broken one ({type(exc).__name__})") from None
        if not 200 <= status < 300:
            followed = "; redirects are not followed" if 300 <= status < 400 else ""
            raise Undelivered(f"answered {status}{followed}", again=status != HTTPStatus.GONE, status=status)
        return status
