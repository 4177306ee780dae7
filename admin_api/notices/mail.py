"""Alerts by e-mail: a message for each transition, its recipients hidden from each other."""

import asyncio
import logging
from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib

from admin_api.notices.delivery import Outgoing, Undelivered
from admin_api.notices.settings import MailSettings, Security
from contracts.notices import AlertNotice

log = logging.getLogger(__name__)

TIMEOUT_S = 20.0


class MailSender:
    """Sends alerts through the mail server that the settings name; without one it must not be made."""

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings

    async def send(self, outgoing: Outgoing) -> None:
        """Returns when the server took it for one recipient at least. Raises Undelivered."""
        settings = self._settings
        recipients = list(dict.fromkeys((*settings.llm_alert_emails, *outgoing.emails)))
        if not recipients:
            return
        message = composed(AlertNotice.model_validate_json(outgoing.event), sender=settings.llm_smtp_from)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                refused, _ = await aiosmtplib.send(
                    message,
                    sender=settings.llm_smtp_from,
                    recipients=recipients,
                    hostname=settings.llm_smtp_host,
                    port=settings.llm_smtp_port,
                    username=settings.llm_smtp_user,
                    password=settings.llm_smtp_password.get_secret_value() if settings.llm_smtp_password else None,
                    use_tls=settings.llm_smtp_security is Security.TLS,
                    start_tls=settings.llm_smtp_security is Security.STARTTLS,
                    timeout=TIMEOUT_S,
                )
        except (aiosmtplib.SMTPException, OSError) as exc:
            # Without the server's words: they may repeat addresses, and its code says enough.
            code = f" {exc.code}" if isinstance(exc, aiosmtplib.SMTPResponseException) else ""
            raise Undelivered(f"the mail server did not take it ({type(exc).__name__}{code})") from None
        if refused:
            codes = sorted({answer.code for answer in refused.values()})
            log.warning("mail_recipients_refused", extra={"count": len(refused), "codes": codes})


def composed(notice: AlertNotice, *, sender: str) -> EmailMessage:
    """The mail that tells of a notice. Its `Message-ID` follows from the notice, so that a repeated one can be told."""
    alert = notice.data
    state = "resolved" if alert.resolved_at else "raised"
    message = EmailMessage()
    message["From"] = sender
    message["To"] = "undisclosed-recipients:;"
    message["Subject"] = f"[fleet] {state}: {alert.kind} of {alert.tenant}"
    message["Date"] = format_datetime(notice.time)
    message["Message-ID"] = f"<{notice.id}@fleet>"
    message["Auto-Submitted"] = "auto-generated"
    facts = {
        "alert": alert.id,
        "kind": alert.kind,
        "tenant": alert.tenant,
        "about": alert.about,
        "raised": alert.created_at.isoformat(timespec="seconds"),
        "resolved": alert.resolved_at.isoformat(timespec="seconds") if alert.resolved_at else "",
    }
    lines = "\n".join(f"{name + ':':<10} {value}" for name, value in facts.items() if value)
    message.set_content(f"{alert.message}\n\n{lines}\n")
    return message
