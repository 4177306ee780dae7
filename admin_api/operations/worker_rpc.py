"""Questions that the admin API asks a worker over NATS, and that one worker of a pool answers."""

from contextlib import suppress
from typing import TypeVar

import nats.errors
import nats.js.api
from nats.aio.client import NO_RESPONDERS_STATUS
from pydantic import TypeAdapter, ValidationError

from admin_api.http.problems import unavailable
from runtime.broker import Broker

T = TypeVar("T")


class WorkerRpc:
    """Asks one worker of a pool, and waits `answer_timeout_s` for its answer: longer than a worker waits for a vendor
    that should answer at once, so that it can still say so.

    When none has come after `ask_again_s`, the question is asked again, then after twice that pause and so on, and the
    first answer to any of them counts. A NATS server (2.15) that reads its configuration anew, as it does for a new
    tenant, forgets who may answer what was asked before, and drops the answer.
    """

    def __init__(self, broker: Broker, *, answer_timeout_s: float = 18.0, ask_again_s: float = 2.0) -> None:
        self._broker = broker
        self._answer_timeout_s = answer_timeout_s
        self._ask_again_s = ask_again_s

    async def ask(self, subject: str, question: bytes, *, answers: TypeAdapter[T]) -> T:
        """The answer of a worker of the pool that `subject` names. Raises a 503 problem when there is none."""
        if not self._broker.connected:
            raise unavailable("NATS does not answer")
        pool = subject.split(".")[3]
        try:
            answer = await self._first_answer(subject, question)
        except nats.errors.NoRespondersError as exc:
            raise unavailable(f"no worker of the pool {pool} is running") from exc
        except (nats.errors.Error, TimeoutError) as exc:
            raise unavailable(f"no worker of the pool {pool} answered in {self._answer_timeout_s:g} s") from exc
        try:
            return answers.validate_json(answer)
        except ValidationError as exc:
            raise unavailable(
                f"a worker of the pool {pool} answered in a form that this version does not know"
            ) from exc

    async def _first_answer(self, subject: str, question: bytes) -> bytes:
        """Raises nats.errors.Error."""
        client = self._broker.client
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        pause_s, left_s = self._ask_again_s, self._answer_timeout_s
        try:
            while left_s > 0:
                await client.publish(subject, question, reply=inbox)
                with suppress(nats.errors.TimeoutError):
                    answer = await answers.next_msg(timeout=min(pause_s, left_s))
                    if answer.headers and answer.headers.get(nats.js.api.Header.STATUS) == NO_RESPONDERS_STATUS:
                        raise nats.errors.NoRespondersError
                    return answer.data
                left_s -= pause_s
                pause_s *= 2
            raise nats.errors.TimeoutError
        finally:
            with suppress(nats.errors.Error):
                await answers.unsubscribe()
