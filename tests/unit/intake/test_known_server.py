"""What a worker takes a NATS server to know, and to have forgotten."""

from datetime import timedelta

import pytest

from contracts import streams
from tests.driven_clock import NOON, DrivenClock
from workers.intake.known_server import SETTLE_S, KnownServer


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
def server(clock: DrivenClock) -> KnownServer:
    """One that was met at noon, and has been there for a day."""
    server = KnownServer(clock)
    server.has_ids_from(NOON - timedelta(days=1))
    server.meet("first", in_cluster=False)
    return server


def test_the_first_server_has_forgotten_nothing(clock: DrivenClock) -> None:
    server = KnownServer(clock)

    assert not server.meet("first", in_cluster=False)
    assert not server.is_settling


def test_the_same_server_after_a_cut_has_forgotten_nothing(clock: DrivenClock, server: KnownServer) -> None:
    clock.pass_by(60)

    assert server.is_met("first")
    assert not server.is_settling
    assert not server.may_have_given(NOON + timedelta(seconds=30))


def test_another_server_has_forgotten_whom_it_gave_what(clock: DrivenClock, server: KnownServer) -> None:
    clock.pass_by(60)

    assert not server.is_met("second")
    assert server.meet("second", in_cluster=False)
    assert server.is_met("second")
    assert server.may_have_given(NOON + timedelta(seconds=30))
    assert not server.may_have_given(NOON + timedelta(seconds=70))


def test_another_server_is_given_time_until_all_have_said_what_they_do(clock: DrivenClock, server: KnownServer) -> None:
    server.meet("second", in_cluster=False)

    assert server.is_settling
    clock.pass_by(SETTLE_S - 0.1)
    assert server.is_settling
    clock.pass_by(0.2)
    assert not server.is_settling


def test_another_server_knows_all_ids_when_those_of_before_would_have_run_out(
    clock: DrivenClock, server: KnownServer
) -> None:
    assert server.knew_ids(clock.now())
    server.meet("second", in_cluster=False)

    assert not server.knew_ids(clock.now())
    clock.pass_by(streams.REQUEST_IDS_KNOWN_S - 1)
    assert not server.knew_ids(clock.now())
    clock.pass_by(1)
    assert server.knew_ids(clock.now())


def test_another_node_of_a_cluster_knows_what_the_first_one_knew(clock: DrivenClock, server: KnownServer) -> None:
    assert not server.meet("second", in_cluster=True)

    assert not server.is_settling
    assert server.knew_ids(clock.now())
    assert server.may_have_given(clock.now()), "what was given while it was not yet met may be another worker's"


def test_a_message_that_the_servers_clock_dates_a_little_late_counts_as_stored_before(server: KnownServer) -> None:
    assert server.may_have_given(NOON + timedelta(seconds=1))
    assert not server.may_have_given(NOON + timedelta(seconds=3))
