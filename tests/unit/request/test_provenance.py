"""Where a delivery comes from, as one table over all that is known of it."""

from itertools import product

import pytest

from contracts.control import HANDOVER, MSG_ID
from tests.memory import Way, request
from workers.intake.delivery import Delivery
from workers.request.provenance import Origin, Provenance, provenance_of

SIGNED = "replay:7:signed"
"""An id that is known to be the fleet's; `replay:7` is an agent's."""
MSG_IDS = ["r1", "acme.a.r1", "beta.a.r1", "replay:7", SIGNED, None]
ALL = list(product([1, 2], [False, True], [False, True], MSG_IDS, [False, True]))


def delivery(deliveries: int, may_be_again: bool, ids_known: bool, msg_id: str | None, handed_over: bool) -> Delivery:
    headers = {**({MSG_ID: msg_id} if msg_id else {}), **({HANDOVER: "{}"} if handed_over else {})}
    return Way().delivery(deliveries=deliveries, may_be_again=may_be_again, ids_known=ids_known, headers=headers)


@pytest.mark.parametrize(("deliveries", "may_be_again", "ids_known", "msg_id", "handed_over"), ALL)
def test_each_combination_of_what_is_known(
    deliveries: int, may_be_again: bool, ids_known: bool, msg_id: str | None, handed_over: bool
) -> None:
    """Against the four questions that are asked of it, each written out on its own."""
    given = delivery(deliveries, may_be_again, ids_known, msg_id, handed_over)
    replayed = msg_id == SIGNED
    told = provenance_of(given, request(), handed_over=handed_over, is_replay=replayed)

    a_copy_would_have_been_dropped = (handed_over or msg_id in ("r1", "acme.a.r1")) and ids_known
    may_have_a_past = deliveries > 1 or may_be_again or replayed or not a_copy_would_have_been_dropped

    assert (told.origin is not Origin.FIRST) == may_have_a_past
    assert (told.origin is Origin.REPLAYED) == replayed
    assert told.was_given_before == (deliveries > 1 or may_be_again)
    assert (told.deliveries, told.perhaps_forgotten) == (deliveries, may_be_again)


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        (delivery(1, False, True, "r1", False), Origin.FIRST),
        (delivery(1, False, True, "acme.a.r1", False), Origin.FIRST),
        (delivery(1, False, True, "acme.a.r1.0", False), Origin.PERHAPS_A_COPY),
        (delivery(1, False, True, "c0ffee.0f", True), Origin.FIRST),
        (delivery(1, False, True, None, False), Origin.PERHAPS_A_COPY),
        (delivery(1, False, False, "r1", False), Origin.PERHAPS_A_COPY),
        (delivery(1, False, True, "replay:7", False), Origin.PERHAPS_A_COPY),
        (delivery(1, False, True, SIGNED, False), Origin.REPLAYED),
        (delivery(1, True, True, SIGNED, False), Origin.REPLAYED),
        (delivery(2, False, True, SIGNED, False), Origin.REPLAYED),
        (delivery(2, False, True, "r1", False), Origin.REDELIVERED),
        (delivery(1, True, True, "r1", False), Origin.REDELIVERED),
    ],
)
def test_the_origin_has_a_name(given: Delivery, origin: Origin) -> None:
    is_replay = given.headers.get(MSG_ID) == SIGNED
    told = provenance_of(given, request(), handed_over=HANDOVER in given.headers, is_replay=is_replay)

    assert told == Provenance(origin, given.deliveries, perhaps_forgotten=given.may_be_again)
