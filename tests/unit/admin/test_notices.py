"""How notices are signed, when they are tried again, and what a mail looks like."""

import uuid
from datetime import timedelta

import pytest
from pydantic import SecretStr, ValidationError

from admin_api.notices.delivery import Channel, Retries
from admin_api.notices.mail import composed
from admin_api.notices.settings import MailSettings
from admin_api.notices.webhook import new_secret, signature
from contracts.notices import Alert, AlertNotice, NoticeKind
from tests.driven_clock import NOON

ID = uuid.UUID("7d0c8a4e-6f51-4a53-8a0e-4b6d1c2e9f10")


def test_a_signature_is_that_of_the_published_example() -> None:
    """The test vector of the Standard Webhooks reference libraries."""
    signed = signature(
        SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp=1614265330,
        body=b'{"test": 2432232314}',
    )

    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secrets_differ_and_say_what_they_are() -> None:
    one, other = new_secret().get_secret_value(), new_secret().get_secret_value()

    assert one != other
    assert one.startswith("whsec_")


def test_pauses_grow_to_an_hour_and_end_after_ten_tries() -> None:
    pauses = [Retries().pause(Channel.WEBHOOK, tried=tried) for tried in range(1, 11)]

    known = [pause for pause in pauses if pause is not None]
    assert pauses[-1] is None
    assert len(known) == 9
    for pause, longest in zip(known, (5, 15, 45, 135, 405, 1215, 3600, 3600, 3600), strict=True):
        assert timedelta(seconds=longest / 2) <= pause <= timedelta(seconds=longest)


@pytest.mark.parametrize("tried", [1, 10, 100_000])
def test_nats_is_tried_for_ever_and_often(tried: int) -> None:
    pause = Retries().pause(Channel.NATS, tried=tried)

    assert pause is not None
    assert pause <= timedelta(seconds=30)


def notice(**changes: object) -> AlertNotice:
    fields = {
        "id": ID,
        "tenant": "acme",
        "kind": NoticeKind.KEY_REFUSED,
        "about": "openai",
        "window_start": NOON,
        "day": NOON.date(),
        "message": "openai refuses the key of acme",
        "created_at": NOON,
    }
    alert = Alert.model_validate(fields | changes)
    return AlertNotice(id=ID, source="/fleet/usage", subject=str(ID), time=NOON, type="llm.v1.alert.raised", data=alert)


def test_a_mail_says_what_is_wrong_and_names_no_recipient() -> None:
    message = composed(notice(), sender="fleet@example.com")

    assert message["Subject"] == "[fleet] raised: key_refused of acme"
    assert message["To"] == "undisclosed-recipients:;"
    assert message["Message-ID"] == f"<{ID}@fleet>"
    assert "openai refuses the key of acme" in message.get_content()
    assert composed(notice(resolved_at=NOON), sender="f@e")["Subject"].startswith("[fleet] resolved")


def test_what_a_vendor_or_tenant_named_stays_in_the_body() -> None:
    message = composed(notice(about="a\r\nBcc: eve@example.com", message="b\r\n\r\nBcc: eve"), sender="f@example.com")

    assert "eve" not in str(message).split("\n\n", 1)[0]
    assert message["Bcc"] is None


@pytest.mark.parametrize("address", ["nobody", "a b@c", "Ops <ops@example.com>", "a@b\r\nBcc: c@d", "@b", "a@b,c@d e"])
def test_an_address_is_plain(address: str) -> None:
    with pytest.raises(ValidationError):
        MailSettings(llm_alert_emails=address)  # pyright: ignore[reportArgumentType] - as the environment gives it


def test_addresses_are_separated_by_commas() -> None:
    settings = MailSettings(llm_alert_emails=" a@b.example, c@d.example ,")  # pyright: ignore[reportArgumentType]

    assert settings.llm_alert_emails == ("a@b.example", "c@d.example")
