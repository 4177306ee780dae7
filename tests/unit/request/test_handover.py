"""What a pool is told by the one before it, and what an agent may have written in its place."""

from collections.abc import Callable

import pytest

from contracts import subjects
from contracts.control import HANDOVER, HANDOVER_PROOF, MSG_ID, MSG_TTL, REPLAY, Handover, signed_replay
from contracts.errors import MalformedRequest, Overloaded
from contracts.events import FailedAttempt
from runtime.sealing import Keyring
from tests.driven_clock import NOON
from tests.memory import ECHO, Message, Way, request
from workers.endpoints.names import Candidate
from workers.request.parsing import parse

ADDRESS = subjects.parse_request("llm.v1.request.mock.interactive.acme")


async def handed_over(way: Way, to: Candidate = ECHO) -> Message:
    await way.handovers.publish(way.job(), to)
    return way.publisher.messages.pop()


def test_a_request_of_an_agent_has_none() -> None:
    way = Way()

    assert parse(way.delivery(), way.handovers).handover is None


async def test_what_one_pool_publishes_another_one_reads() -> None:
    way = Way()
    job = way.job(
        candidates=[Candidate("google", "g")], left_out=["the fallback x was left out"], vendor_calls=2, journal_seq=5
    )
    long = Overloaded("x" * 1000 + "\ud83d").to_wire()
    job.history.append(FailedAttempt(provider="openai", model="m", error=long))

    await way.handovers.publish(job, ECHO)

    (message,) = way.publisher.messages
    parsed = way.handovers.told(way.delivery(message.payload, headers=dict(message.headers)), ADDRESS)
    assert parsed is not None
    assert (parsed.model, parsed.remaining, parsed.attempt, parsed.hops) == ("mock/echo", ("google/g",), 1, 1)
    assert (parsed.left_out, parsed.vendor_calls, parsed.journal_seq) == (("the fallback x was left out",), 2, 5)
    assert len(parsed.history[0].error.message) == 300
    assert int(message.headers[MSG_TTL]) == 660, "ten minutes are left, and a minute to say that they are over"


async def test_a_sealing_key_that_was_rotated_still_proves_what_it_signed() -> None:
    message = await handed_over(Way())
    after = Way(keyring=Keyring([b"n" * 32, b"k" * 32]))

    assert after.handovers.told(after.delivery(message.payload, headers=dict(message.headers)), ADDRESS)


FORGERIES: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "no proof": lambda headers: {HANDOVER: headers[HANDOVER]},
    "no proof at all": lambda headers: {**headers, HANDOVER_PROOF: ""},
    "the key's name only": lambda headers: {**headers, HANDOVER_PROOF: headers[HANDOVER_PROOF].partition(".")[0] + "."},
    "an unknown key": lambda headers: {**headers, HANDOVER_PROOF: "00000000" + headers[HANDOVER_PROOF][8:]},
    "a proof beyond ASCII": lambda headers: {**headers, HANDOVER_PROOF: headers[HANDOVER_PROOF][:-1] + "é"},
    "the message id in its place": lambda headers: {**headers, HANDOVER_PROOF: headers[MSG_ID]},
    "other attempts": lambda headers: {**headers, HANDOVER: headers[HANDOVER].replace('"attempt": 1', '"attempt": 9')},
    "no JSON": lambda headers: {**headers, HANDOVER: "{"},
    "nothing told": lambda headers: {**headers, HANDOVER: ""},
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
async def test_nothing_is_believed_that_no_worker_signed(forge: Callable[[dict[str, str]], dict[str, str]]) -> None:
    way = Way()
    message = await handed_over(way)

    with pytest.raises(MalformedRequest, match="not the fleet's; agents do not set it"):
        parse(way.delivery(message.payload, headers=forge(dict(message.headers))), way.handovers)


async def test_a_proof_is_for_one_request_of_one_tenant() -> None:
    way = Way()
    message = await handed_over(way)
    headers = dict(message.headers)

    for changed in (request(id="r2"), request(agent="b"), request(messages=[{"role": "user", "content": "Ho"}])):
        with pytest.raises(MalformedRequest):
            way.handovers.told(way.delivery(changed.to_json(), headers=headers), ADDRESS)
    other = subjects.parse_request("llm.v1.request.mock.interactive.beta")
    with pytest.raises(MalformedRequest):
        way.handovers.told(way.delivery(message.payload, headers=headers), other)


async def test_a_message_id_is_the_same_each_time_and_tells_apart_what_is_not_the_same() -> None:
    way = Way()
    first, again = await handed_over(way), await handed_over(way)
    elsewhere = await handed_over(way, Candidate("google", "g"))
    of_others = await handed_over(Way(keyring=Keyring([b"n" * 32])))

    assert first.headers[MSG_ID] == again.headers[MSG_ID]
    assert len({message.headers[MSG_ID] for message in (first, elsewhere, of_others)}) == 3


def test_what_is_told_begins_with_nothing_done() -> None:
    told = Handover(model="mock/echo", queued_at=NOON)

    assert (told.attempt, told.hops, told.vendor_calls, told.journal_seq) == (1, 1, 0, 0)


def replay(way: Way, *, seq: str = "7", subject: str = "llm.v1.request.mock.interactive.acme") -> str:
    """The message id of a replay of `request()`."""
    signed = signed_replay(seq, subject, request().to_json())
    return f"{REPLAY}{seq}:{way.keyring.sign(signed, purpose=REPLAY)}"


def test_a_replay_is_an_admins_and_of_one_request() -> None:
    way = Way()
    ids = [
        replay(way),
        f"{REPLAY}7",
        f"{REPLAY}7:",
        replay(way).replace("7", "8", 1),
        replay(way, subject="llm.v1.request.mock.background.acme"),
        f"{REPLAY}7:{way.keyring.sign(b'7', purpose=REPLAY)}",
    ]

    known = [parse(way.delivery(headers={MSG_ID: each}), way.handovers).is_replay for each in ids]

    assert known == [True, False, False, False, False, False]
    other = way.delivery(request(id="r2").to_json(), headers={MSG_ID: replay(way)})
    assert not parse(other, way.handovers).is_replay


async def test_while_sealing_keys_are_rotated_each_worker_reads_what_the_others_hand_over() -> None:
    before, after = Way(), Way(keyring=Keyring([b"n" * 32, b"k" * 32]))

    for one, other in ((before, after), (after, before)):
        message = await handed_over(one)
        delivery = other.delivery(message.payload, headers=dict(message.headers))
        assert other.handovers.told(delivery, ADDRESS).model == "mock/echo"
