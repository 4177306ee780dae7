"""Notices from the outbox to where they belong: NATS, a webhook's receiver, a mail server."""

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import insert, select, text, update

from admin_api.database import Database, open_database
from admin_api.notices import outbox, webhook
from admin_api.notices.delivery import Channel, Retries, Sender
from admin_api.notices.dispatcher import NoticeDispatcher
from admin_api.notices.mail import MailSender
from admin_api.notices.settings import MailSettings, Security
from admin_api.notices.stream import StreamSender
from admin_api.notices.webhook import WebhookSender
from contracts import streams
from contracts.notices import Alert, AlertNotice, ConfigChange, ConfigNotice, Notice, NoticeKind
from contracts.wire import utc_now
from fleet.local.process import Command, Process
from fleet.local.servers import NatsServer
from migrations import outbox as outbox_of_all
from migrations.schema import notice_deliveries, notices, tenants, webhooks
from runtime import broker
from runtime.broker import Broker
from runtime.egress import Egress, Resolve
from runtime.networks import parse_networks
from runtime.sealing import Keyring
from runtime.settings import BrokerSettings
from tests.integration.admin.conftest import until
from tests.receivers import MailSink, WebhookReceiver, mail_sink, webhook_receiver

KEYRING = Keyring([os.urandom(32)])
LOOPBACK = parse_networks("127.0.0.0/8")
QUICK = Retries(first_s=0.02, factor=1.0, tries=3)
ROOT = Path(__file__).parents[3]


class Outbox:
    """The tables, and dispatchers that empty them."""

    def __init__(self, database: Database, connection: Broker) -> None:
        self.database, self.connection = database, connection

    async def write(self, *written: Notice) -> None:
        async with self.database.transaction() as connection:
            for notice in written:
                await outbox_of_all.append(connection, notice)

    async def add_hook(
        self, url: str, *, tenant: str | None = None, kinds: Sequence[str] = ()
    ) -> tuple[uuid.UUID, str]:
        """Its id and secret."""
        hook_id, secret = uuid.uuid4(), webhook.new_secret()
        sealed = webhook.sealed(KEYRING, secret, hook_id=hook_id, tenant=tenant)
        row = {"id": hook_id, "tenant": tenant, "url": url, "kinds": list(kinds), "sealed_secret": sealed}
        async with self.database.transaction() as connection:
            await connection.execute(insert(webhooks).values(row))
        return hook_id, secret.get_secret_value()

    async def add_tenant(self, slug: str, *emails: str) -> None:
        async with self.database.transaction() as connection:
            await connection.execute(insert(tenants).values(slug=slug, alert_emails=list(emails)))

    async def deliveries(self, channel: Channel) -> list[Any]:
        query = select(notice_deliveries).where(notice_deliveries.c.channel == channel).order_by(notice_deliveries.c.id)
        async with self.database.transaction() as connection:
            return list((await connection.execute(query)).all())

    async def until_settled(self) -> None:
        """Every delivery was made, or given up."""

        async def settled() -> bool:
            async with self.database.transaction() as connection:
                unrouted = await connection.scalar(select(notices.c.seq).where(notices.c.routed_at.is_(None)).limit(1))
                return unrouted is None and not await outbox.waiting(connection)

        await until(settled)

    async def published(self) -> list[tuple[str, dict[str, Any]]]:
        """Subjects and events."""
        jetstream = self.connection.client.jetstream()
        count = (await jetstream.stream_info(streams.NOTICES)).state.messages
        found = [await jetstream.get_msg(streams.NOTICES, seq) for seq in range(1, count + 1)]
        return [(message.subject or "", json.loads(message.data or b"")) for message in found]

    @asynccontextmanager
    async def delivering(
        self,
        *,
        mail: MailSettings | None = None,
        allowed: str = "127.0.0.0/8",
        resolve: Resolve | None = None,
        connection: Broker | None = None,
    ) -> AsyncGenerator[None]:
        """A dispatcher that is at work."""
        hooks = WebhookSender(Egress(parse_networks(allowed), resolve=resolve), KEYRING)
        stream = StreamSender(connection or self.connection)
        senders: dict[Channel, Sender] = {Channel.NATS: stream, Channel.WEBHOOK: hooks}
        if mail:
            senders[Channel.EMAIL] = MailSender(mail)
        dispatcher = NoticeDispatcher(
            self.database, senders, emails_of_all=bool(mail and mail.llm_alert_emails), retries=QUICK
        )
        task = asyncio.create_task(dispatcher.keep_delivering())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await hooks.close()


@pytest_asyncio.fixture
async def box(database_url: str, nats_url: str) -> AsyncGenerator[Outbox]:
    settings = BrokerSettings(nats_url=nats_url)
    async with (
        open_database(SecretStr(database_url)) as database,
        broker.connect(settings, name="test", inbox_prefix="_INBOX") as connection,
    ):
        await broker.ensure_streams(connection, settings)
        yield Outbox(database, connection)


@pytest_asyncio.fixture
async def receiver() -> AsyncGenerator[WebhookReceiver]:
    async with webhook_receiver() as receiver:
        yield receiver


@pytest_asyncio.fixture
async def sink() -> AsyncGenerator[MailSink]:
    async with mail_sink() as sink:
        yield sink


def alert(tenant: str = "acme", kind: NoticeKind = NoticeKind.DAILY_COST) -> AlertNotice:
    now, id_ = utc_now(), uuid.uuid4()
    data = Alert(
        id=id_,
        tenant=tenant,
        kind=kind,
        about="",
        window_start=now,
        day=now.date(),
        message=f"{tenant} has spent 100 USD",
        created_at=now,
    )
    return AlertNotice(
        id=uuid.uuid4(),
        source="/fleet/usage",
        subject=str(id_),
        time=now,
        tenant=tenant,
        type="llm.v1.alert.raised",
        data=data,
    )


def change(tenant: str | None) -> ConfigNotice:
    data = ConfigChange(tenant=tenant, object_type="token", object_id="1", action="token.add", actor="bootstrap")
    return ConfigNotice(id=uuid.uuid4(), source="/fleet/admin", subject="1", time=utc_now(), tenant=tenant, data=data)


def mail_settings(sink: MailSink, *to: str) -> MailSettings:
    return MailSettings(
        llm_smtp_host="127.0.0.1",
        llm_smtp_port=sink.port,
        llm_smtp_security=Security.NONE,
        llm_smtp_from="fleet@example.com",
        llm_alert_emails=to,
    )


async def test_a_notice_is_on_nats_once_and_at_the_webhook_signed(box: Outbox, receiver: WebhookReceiver) -> None:
    _, secret = await box.add_hook(receiver.url)
    notice = alert()
    await box.write(notice, notice)

    async with box.delivering():
        await box.until_settled()

    (received,) = receiver.received
    assert received.body == notice.to_json()
    assert await box.published() == [("llm.v1.notice.daily_cost.acme", received.event)]
    assert received.is_signed_with(secret)
    assert not received.is_signed_with(webhook.new_secret().get_secret_value())
    assert received.headers["webhook-id"] == str(notice.id)
    assert abs(int(received.headers["webhook-timestamp"]) - utc_now().timestamp()) < 60
    assert received.headers["content-type"] == "application/cloudevents+json"


async def test_a_webhook_gets_the_notices_of_its_tenant_and_kinds(box: Outbox) -> None:
    await box.add_tenant("acme")
    async with (
        webhook_receiver() as all_of_all,
        webhook_receiver() as all_of_acme,
        webhook_receiver() as alerts_of_all,
        box.delivering(),
    ):
        await box.add_hook(all_of_all.url)
        await box.add_hook(all_of_acme.url, tenant="acme")
        await box.add_hook(alerts_of_all.url, kinds=[NoticeKind.DAILY_COST, NoticeKind.KEY_REFUSED])
        written = [alert(), alert("beta"), change("acme"), change(None), alert("acme", NoticeKind.ERROR_RATE)]
        await box.write(*written)
        await box.until_settled()

    def of(receiver: WebhookReceiver) -> list[int]:
        ids = [str(notice.id) for notice in written]
        return [ids.index(received.headers["webhook-id"]) for received in receiver.received]

    assert of(all_of_all) == [0, 1, 2, 3, 4]
    assert of(all_of_acme) == [0, 2, 4]
    assert of(alerts_of_all) == [0, 1]
    assert [subject for subject, _ in await box.published()] == [
        "llm.v1.notice.daily_cost.acme",
        "llm.v1.notice.daily_cost.beta",
        "llm.v1.notice.config.acme",
        "llm.v1.notice.config._all",
        "llm.v1.notice.error_rate.acme",
    ]


async def test_a_webhook_that_was_down_gets_it_when_it_is_up(box: Outbox) -> None:
    async with webhook_receiver(500, 503) as receiver, box.delivering():
        hook_id, secret = await box.add_hook(receiver.url)
        await box.write(alert())
        await box.until_settled()

    assert len(receiver.received) == 3
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 1
    assert all(received.is_signed_with(secret) for received in receiver.received)
    (delivery,) = await box.deliveries(Channel.WEBHOOK)
    assert (delivery.attempts, delivery.last_error) == (3, None)
    async with box.database.transaction() as connection:
        hook = (await connection.execute(select(webhooks).where(webhooks.c.id == hook_id))).one()
    assert hook.last_success_at > hook.last_failure_at
    assert hook.last_error == "answered 503"


async def test_what_nobody_takes_is_dead_and_holds_up_nothing(
    box: Outbox, receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    async with webhook_receiver(*[500] * 100) as broken, webhook_receiver(410) as gone, box.delivering():
        await box.add_hook(broken.url)
        await box.add_hook(gone.url)
        await box.add_hook(receiver.url)
        await box.write(alert())
        await box.until_settled()

    assert [len(r.received) for r in (broken, gone, receiver)] == [QUICK.tries, 1, 1]
    dead = [(row.attempts, row.last_error) for row in await box.deliveries(Channel.WEBHOOK) if row.dead_at]
    assert sorted(dead) == [(1, "answered 410"), (QUICK.tries, "answered 500")]
    assert [record.levelname for record in caplog.records if record.message == "notice_dead"] == ["ERROR"] * 2
    assert "of-the-receiver" not in caplog.text


async def test_a_slow_webhook_makes_no_other_wait(box: Outbox, receiver: WebhookReceiver) -> None:
    async with webhook_receiver(0) as slow, box.delivering():
        await box.add_hook(slow.url)
        await box.add_hook(receiver.url)
        await box.write(alert(), alert())

        async def arrived() -> bool:
            return len(receiver.received) == 2 and len(await box.published()) == 2

        await until(arrived)
        assert len(slow.received) == 1


async def test_a_redirect_leads_nowhere(box: Outbox, receiver: WebhookReceiver) -> None:
    async with webhook_receiver(307, 302, 301) as moved, box.delivering():
        moved.location = receiver.url
        await box.add_hook(moved.url)
        await box.write(alert())
        await box.until_settled()

    (delivery,) = await box.deliveries(Channel.WEBHOOK)
    assert delivery.dead_at is not None
    assert "redirects are not followed" in delivery.last_error
    assert (len(moved.received), receiver.received) == (3, [])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "hooks.example"])
async def test_a_private_address_is_refused_where_it_is_connected_to(
    box: Outbox, receiver: WebhookReceiver, host: str
) -> None:
    async def to_loopback(host: str, port: int) -> Sequence[Any]:
        return [network.network_address + 1 for network in parse_networks("127.0.0.0/8")]

    async with box.delivering(allowed="", resolve=to_loopback):
        await box.add_hook(receiver.url.replace("127.0.0.1", host))
        await box.write(alert())
        await box.until_settled()

    (delivery,) = await box.deliveries(Channel.WEBHOOK)
    assert (delivery.attempts, delivery.dead_at is not None) == (1, True)
    assert "private" in delivery.last_error
    assert receiver.received == []


async def test_a_secret_that_no_key_opens_is_said_and_nothing_is_sent_unsigned(
    box: Outbox, receiver: WebhookReceiver
) -> None:
    stolen, _ = await box.add_hook(receiver.url)
    other, _ = await box.add_hook(receiver.url)
    async with box.database.transaction() as connection:
        copied = select(webhooks.c.sealed_secret).where(webhooks.c.id == other).scalar_subquery()
        await connection.execute(update(webhooks).where(webhooks.c.id == stolen).values(sealed_secret=copied))
    await box.write(alert())

    async with box.delivering():
        await box.until_settled()

    assert len(receiver.received) == 1
    failed = [row for row in await box.deliveries(Channel.WEBHOOK) if row.dead_at]
    assert [row.webhook for row in failed] == [stolen]


async def test_dispatchers_that_share_the_work_deliver_each_notice_once(box: Outbox, receiver: WebhookReceiver) -> None:
    await box.add_hook(receiver.url)
    written = [alert() for _ in range(40)]

    async with box.delivering(), box.delivering(), box.delivering():
        for notice in written:
            await box.write(notice)
        await box.until_settled()

    ids = sorted(str(notice.id) for notice in written)
    assert sorted(received.headers["webhook-id"] for received in receiver.received) == ids
    assert sorted(event["id"] for _, event in await box.published()) == ids


_DIES = """
import asyncio, sys
from pydantic import SecretStr
from admin_api.database import open_database
from admin_api.notices.dispatcher import NoticeDispatcher
from admin_api.notices.delivery import Channel
from admin_api.notices.stream import StreamSender
from runtime import broker
from runtime.settings import BrokerSettings

class Sender(StreamSender):
    async def send(self, outgoing):
        if sys.argv[1] == "before":
            print("here", flush=True)
            await asyncio.Event().wait()
        await super().send(outgoing)
        print("here", flush=True)
        await asyncio.Event().wait()

async def main():
    settings = BrokerSettings()
    async with (
        open_database(SecretStr(sys.argv[2])) as database,
        broker.connect(settings, name="test", inbox_prefix="_INBOX") as connection,
    ):
        await NoticeDispatcher(database, {Channel.NATS: Sender(connection)}).keep_delivering()

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_dispatcher_that_is_killed_beside_its_publish_leaves_one_message(
    box: Outbox, database_url: str, nats_url: str, tmp_path: Path, moment: str
) -> None:
    notice = alert()
    await box.write(notice)
    log = tmp_path / "dispatcher.log"
    argv = (sys.executable, "-c", _DIES, moment, database_url)
    process = Process(Command("dispatcher", argv, log, env={"NATS_URL": nats_url}, cwd=ROOT))

    async def is_there() -> bool:
        return "here" in await asyncio.to_thread(log.read_text)

    await process.wait_until(is_there)
    process.send(signal.SIGKILL)
    await process.exited()
    assert len(await box.published()) == (1 if moment == "after" else 0)
    (taken,) = await box.deliveries(Channel.NATS)
    assert taken.delivered_at is None
    assert taken.next_at > utc_now() + timedelta(seconds=10)
    async with box.database.transaction() as connection:
        await connection.execute(text("UPDATE notice_deliveries SET next_at = now()"))  # the lease ends

    async with box.delivering():
        await box.until_settled()

    assert [event["id"] for _, event in await box.published()] == [str(notice.id)]


async def test_notices_wait_while_nats_is_away_and_webhooks_do_not(
    box: Outbox, nats: NatsServer, receiver: WebhookReceiver
) -> None:
    settings = BrokerSettings(nats_url=nats.url)
    async with broker.connect(settings, name="test", inbox_prefix="_INBOX") as connection:
        await broker.ensure_streams(connection, settings)
        await nats.kill()
        await box.add_hook(receiver.url)
        await box.write(alert())
        async with box.delivering(connection=connection):

            async def arrived() -> bool:
                return bool(receiver.received)

            await until(arrived)
            await nats.start()
            await box.until_settled()

        assert (await connection.client.jetstream().stream_info(streams.NOTICES)).state.messages == 1


async def test_an_alert_is_mailed_to_the_operators_and_to_its_tenant(box: Outbox, sink: MailSink) -> None:
    await box.add_tenant("acme", "cfo@acme.example", "ops@example.com")
    await box.write(alert(), alert("beta"), change("acme"))

    async with box.delivering(mail=mail_settings(sink, "ops@example.com")):
        await box.until_settled()

    assert [recipients for recipients, _ in sink.messages] == [
        ["ops@example.com", "cfo@acme.example"],
        ["ops@example.com"],
    ]
    message = sink.messages[0][1]
    assert message["Subject"] == "[fleet] raised: daily_cost of acme"
    assert "cfo@acme.example" not in str(message)
    assert "acme has spent 100 USD" in message.get_content()


async def test_a_mail_server_without_room_is_asked_again(box: Outbox, sink: MailSink) -> None:
    sink.refuses = 2
    await box.write(alert())

    async with box.delivering(mail=mail_settings(sink, "ops@example.com")):
        await box.until_settled()

    assert len(sink.messages) == 1
    (delivery,) = await box.deliveries(Channel.EMAIL)
    assert delivery.attempts == 3


async def test_nobody_to_mail_is_no_delivery(box: Outbox, sink: MailSink) -> None:
    await box.add_tenant("beta", "ops@beta.example")
    await box.write(alert(), alert("beta"))

    async with box.delivering(mail=mail_settings(sink)):
        await box.until_settled()

    assert [recipients for recipients, _ in sink.messages] == [["ops@beta.example"]]
    assert len(await box.deliveries(Channel.EMAIL)) == 1


async def test_what_was_delivered_long_ago_is_forgotten_and_what_waits_is_not(box: Outbox) -> None:
    old, waiting = alert(), alert()
    await box.write(old, waiting)
    async with box.database.transaction() as connection:
        await outbox.route(connection, email=False, emails_of_all=False)
        await connection.execute(update(notices).values(created_at=utc_now() - timedelta(days=31)))
        delivered = select(notices.c.seq).where(notices.c.id == old.id).scalar_subquery()
        await connection.execute(
            update(notice_deliveries).where(notice_deliveries.c.notice == delivered).values(delivered_at=utc_now())
        )
        await outbox.forget_old(connection)
        left: Mapping[uuid.UUID, int] = {row.id: row.seq for row in await connection.execute(select(notices))}

    assert set(left) == {waiting.id}
    assert [row.notice for row in await box.deliveries(Channel.NATS)] == [left[waiting.id]]
