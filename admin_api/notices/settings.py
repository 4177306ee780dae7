"""Where e-mail goes out, and who gets the alerts of all tenants."""

from email.utils import parseaddr
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, field_validator
from pydantic_settings import NoDecode

from runtime.settings import RoleSettings


class Security(StrEnum):
    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


def _plain_address(address: str) -> str:
    if parseaddr(address) != ("", address):
        raise ValueError("must be a plain address like ops@example.com")
    return address


Email = Annotated[
    str,
    StringConstraints(pattern=r"^[!-~]{1,64}@[A-Za-z0-9.-]{1,253}$", max_length=254),
    AfterValidator(_plain_address),
]


class MailSettings(RoleSettings):
    llm_smtp_host: str | None = None
    """None: no alert goes out by e-mail."""
    llm_smtp_port: Annotated[int, Field(ge=1, le=65535)] = 587
    llm_smtp_security: Security = Security.STARTTLS
    llm_smtp_user: str | None = None
    llm_smtp_password: SecretStr | None = None
    llm_smtp_from: Email = "fleet@localhost"
    llm_alert_emails: Annotated[tuple[Email, ...], NoDecode] = ()
    """Who gets the alerts of every tenant, separated by commas."""

    @field_validator("llm_alert_emails", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
