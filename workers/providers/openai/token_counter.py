"""Counting tokens in a process of its own, which is started for the first question and ended when none comes.

A vocabulary takes 140 MB, and a long prompt a second of CPU. A worker whose agents never ask has neither, and one whose
agents do goes on streaming meanwhile. The process gets questions on its standard input and answers on its output, each
with its length before it. It ends with its input, so also when the worker is killed.
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import BinaryIO

from contracts.errors import InternalError
from contracts.rpc import CountTokens, TokenCount
from workers.providers.openai import tokens

UNUSED_S = 300.0
_LENGTH_BYTES = 4
_TRIES = 2
"""The process may have been killed since the last question."""
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LANG", "LC_ALL", "SYSTEMROOT")
"""All that it gets of the worker's: no secrets."""


class TokenCounter:
    """Counts one question after the other."""

    def __init__(self, *, unused_s: float = UNUSED_S) -> None:
        self._unused_s = unused_s
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._ends: asyncio.TimerHandle | None = None

    async def count(self, question: CountTokens, *, model: str) -> TokenCount:
        """As `tokens.count`. Raises InternalError when the process does not live long enough to answer."""
        if not tokens.has_vocabulary(model):
            return tokens.count(question, model=model)
        asked = model.encode() + b"\n" + question.model_dump_json(include=set(CountTokens.model_fields)).encode()
        async with self._turn:
            for _ in range(_TRIES):
                with suppress(ConnectionError, asyncio.IncompleteReadError):
                    return TokenCount.model_validate_json(await self._answer(asked))
        raise InternalError("the process that counts tokens has died")

    async def aclose(self) -> None:
        async with self._turn:
            await self._end()

    async def _answer(self, asked: bytes) -> bytes:
        if self._ends is not None:
            self._ends.cancel()
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                __name__,
                stdin=PIPE,
                stdout=PIPE,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
        try:
            answer = await _asked(self._process, asked)
        except BaseException:  # also when it is cancelled: the answer would be taken for the next question's
            await self._end()
            raise
        self._ends = asyncio.get_running_loop().call_later(self._unused_s, self._end_unused)
        return answer

    def _end_unused(self) -> None:
        self._ending = asyncio.create_task(self.aclose(), name="end token counter")

    async def _end(self) -> None:
        process, self._process = self._process, None
        if self._ends is not None:
            self._ends.cancel()
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _asked(process: Process, asked: bytes) -> bytes:
    """The answer of the process. Raises ConnectionError and asyncio.IncompleteReadError when it has died."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("it was started with pipes")
    process.stdin.write(len(asked).to_bytes(_LENGTH_BYTES) + asked)
    await process.stdin.drain()
    size = int.from_bytes(await process.stdout.readexactly(_LENGTH_BYTES))
    return await process.stdout.readexactly(size)


def answer_questions(questions: BinaryIO, answers: BinaryIO) -> None:
    """What the process does: it answers until there are no more questions."""
    while length := questions.read(_LENGTH_BYTES):
        model, _, question = questions.read(int.from_bytes(length)).partition(b"\n")
        counted = tokens.count(CountTokens.model_validate_json(question), model=model.decode())
        answer = counted.model_dump_json().encode()
        answers.write(len(answer).to_bytes(_LENGTH_BYTES) + answer)
        answers.flush()


if __name__ == "__main__":
    answer_questions(sys.stdin.buffer, sys.stdout.buffer)
