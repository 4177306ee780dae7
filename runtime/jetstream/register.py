"""Entries of a key-value bucket that one writer wins, and that go by themselves when their writer dies.

A writer claims an entry by naming the sequence of the subject's last message, which only one can do; the entry lives
for its TTL. `runtime/buckets.py` is the other side: it watches a bucket, and asks `is_news` of what it is told.

What nats-server 2.15.1 answers to a claim, and its NATS headers (ADR-8, ADR-43, ADR-48):

- `{"seq": …}`: the entry is stored, and everybody who watches the bucket is told.
- Error 10071 (in a cluster also 10164): the last message is another one. That is so when somebody else was faster, and
  also when there is none at all any more: an entry that has reached its TTL leaves a marker, which has a sequence of
  its own, and the marker goes a little later without being told to anybody. The code is the same, and only the text
  says which. So a claim that is lost is repeated once with 0, "there is no message", which is won in the second case
  only.
- No answer: the stream is not there (a memory stream is gone with a server that was killed), or a cluster elects a
  leader. The entry may be stored all the same; then the watch tells.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

import nats.errors

from contracts.control import EXPECTED_SUBJECT_SEQUENCE, MSG_TTL
from contracts.jetstream_codes import LOST_COMPARE_AND_SET
from runtime.broker import Broker

_NO_MESSAGE = 0


@dataclass(frozen=True, slots=True)
class Won:
    """The entry is stored."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Somebody else has written the entry."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Whether the entry is stored is not known, or the server has refused it for another reason."""

    reason: str


class Register:
    """The entries of one bucket, and how far this process has heard of each."""

    def __init__(self, broker: Broker, *, bucket: str, answer_within_s: float) -> None:
        self._broker = broker
        self._bucket = bucket
        self._answer_within_s = answer_within_s
        self._sequences: dict[str, int] = {}
        """The last message of each key that this process has heard of."""
        broker.on_reconnect.append(self._reset)

    async def claim(self, key: str, value: bytes, *, ttl_s: float) -> Won | Lost | Unanswered:
        """Writes the entry if nobody has written it since this process last heard of it, or if there is none."""
        expected = self._sequences.get(key, _NO_MESSAGE)
        outcome = await self._write(key, value, ttl_s=ttl_s, expected=expected)
        if isinstance(outcome, Lost) and expected != _NO_MESSAGE:
            return await self._write(key, value, ttl_s=ttl_s, expected=_NO_MESSAGE)
        return outcome

    async def overwrite(self, key: str, value: bytes, *, ttl_s: float) -> Won | Lost | Unanswered:
        """Writes the entry whatever is there, and waits until it is stored."""
        return await self._write(key, value, ttl_s=ttl_s, expected=None)

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        """Writes the entry whatever is there, without waiting. Raises nats.errors.Error when it cannot be sent."""
        await self._broker.client.publish(entry_subject(self._bucket, key), value, headers={MSG_TTL: _whole(ttl_s)})

    async def purge(self, key: str, *, ttl_s: float) -> None:
        """Ends the entry for everybody, without waiting. Raises nats.errors.Error when it cannot be sent.

        `ttl_s` is how long the bucket keeps that it was ended.
        """
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub", MSG_TTL: _whole(ttl_s)}
        await self._broker.client.publish(entry_subject(self._bucket, key), b"", headers=headers)

    def is_news(self, key: str, sequence: int) -> bool:
        """To be asked about every message that the bucket's watch brings: whether it is newer than what is known."""
        if sequence <= self._sequences.get(key, _NO_MESSAGE):
            return False
        self._sequences[key] = sequence
        return True

    def forget(self, keys: Iterable[str]) -> None:
        """Keeps nothing of these entries, which are not in the bucket any more."""
        for key in keys:
            self._sequences.pop(key, None)

    async def _write(self, key: str, value: bytes, *, ttl_s: float, expected: int | None) -> Won | Lost | Unanswered:
        headers = {MSG_TTL: _whole(ttl_s)}
        if expected is not None:
            headers[EXPECTED_SUBJECT_SEQUENCE] = str(expected)
        try:
            answer = await self._broker.client.request(
                entry_subject(self._bucket, key), value, timeout=self._answer_within_s, headers=headers
            )
        except nats.errors.Error as exc:
            return Unanswered(type(exc).__name__)
        stored = json.loads(answer.data)
        if error := stored.get("error"):
            return Lost() if error.get("err_code") in LOST_COMPARE_AND_SET else Unanswered(str(error["description"]))
        self.is_news(key, int(stored["seq"]))
        return Won()

    async def _reset(self) -> None:
        """A server that was started anew has lost what lay in memory, and counts from 1 again."""
        self._sequences.clear()


def entry_subject(bucket: str, key: str) -> str:
    """The subject that a bucket's stream keeps an entry under; a key with wildcards is a filter for several (ADR-8)."""
    return f"$KV.{bucket}.{key}"


def _whole(ttl_s: float) -> str:
    """The server takes whole seconds, at least one."""
    return str(max(1, math.ceil(ttl_s)))
