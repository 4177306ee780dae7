"""Questions that the admin API asks a worker over NATS, and that one worker of a pool answers."""

from typing import TypeVar

import nats.errors
from pydantic import TypeAdapter, ValidationError

from admin_api.http.problems import unavailable
from contracts.nats_connect import first_answer
from runtime.broker import Broker

T = TypeVar("T")


class WorkerRpc:
    """Asks one worker of a pool, again after `ask_again_s`, and waits `answer_timeout_s` for its answer: longer than a
    worker waits for a vendor that should answer at once, so that it can still say so."""

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
            answer = await first_answer(
                self._broker.client, subject, question, within_s=self._answer_timeout_s, again_s=self._ask_again_s
            )
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
