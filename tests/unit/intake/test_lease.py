"""How long a worker takes a request for its own."""

import pytest

from contracts import streams
from workers.intake.lease import Lease, Leases, Lost


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(clock: Clock) -> Leases:
    return Leases(clock)


def test_holds_as_long_as_signs_of_life_arrive(clock: Clock, leases: Leases) -> None:
    lease = leases.grant()
    for _ in range(10):
        clock.at += streams.HEARTBEAT_S
        leases.confirmed(sent_at=clock.at)

    assert lease.holds
    lease.check()


def test_is_lost_before_the_server_gives_the_message_to_another(clock: Clock, leases: Leases) -> None:
    lease = leases.grant()
    clock.at += streams.ACK_WAIT_S

    assert not lease.holds
    with pytest.raises(Lost):
        lease.check()


def test_what_was_lost_stays_lost_when_the_server_answers_again(clock: Clock, leases: Leases) -> None:
    before = leases.grant()
    clock.at += streams.ACK_WAIT_S
    leases.confirmed(sent_at=clock.at)

    assert not before.holds
    assert leases.grant().holds


def test_what_arrives_after_a_pause_was_perhaps_given_before_it(clock: Clock, leases: Leases) -> None:
    clock.at += streams.ACK_WAIT_S
    lease: Lease = leases.grant()

    assert not lease.holds
    leases.confirmed(sent_at=clock.at)
    assert not lease.holds


def test_a_late_confirmation_counts_from_when_the_sign_was_sent(clock: Clock, leases: Leases) -> None:
    lease = leases.grant()
    sent_at = clock.at
    clock.at += streams.ACK_WAIT_S - 2
    leases.confirmed(sent_at=sent_at)
    clock.at += 2

    assert not lease.holds


def test_what_was_granted_before_the_server_forgot_is_lost(leases: Leases) -> None:
    before = leases.grant()
    leases.lose()

    assert not before.holds
    assert leases.grant().holds
