"""The way of a plain request through a worker: which functions it passes, in order.

A streamed request with one candidate is run in memory (tests/memory.py) under a profiler. What counts is a function of
`workers/` that is given the request or a part of it. Adapters and JetStream's protocols are no part of the way.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

from contracts.requests import CompletionRequest
from contracts.usage import UsageRecord
from tests.memory import FINISH, ScriptedAdapter, Way, request
from tests.repository import ROOT
from workers.endpoints.admission import CandidateTries
from workers.intake.delivery import Delivery
from workers.providers.base import Chunk
from workers.quotas.cost_bounds import BudgetedCall
from workers.request import outcome
from workers.request.events import EventStream
from workers.request.job import Job
from workers.request.parsing import ParsedRequest
from workers.request.usage_records import VendorCall

_PARTS = (
    BudgetedCall,
    CandidateTries,
    Chunk,
    CompletionRequest,
    Delivery,
    EventStream,
    Job,
    ParsedRequest,
    UsageRecord,
    VendorCall,
    outcome.Completed,
)
"""The request, and what it is turned into on its way."""
_WORKERS = ROOT / "workers"
_NO_PART_OF_IT = ("providers", "jetstream")


@dataclass(frozen=True, slots=True)
class Step:
    module: str
    """As `request/execution.py`, below `workers/`."""
    function: str


def steps() -> list[Step]:
    """Each function once, where it is called first."""
    way = Way(ScriptedAdapter([Chunk(text="Hello"), FINISH]))
    found: dict[CodeType, Step] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and _is_given_a_part(frame) and (code := _code_of_a_worker(frame)) is not None:
            module = Path(code.co_filename).relative_to(_WORKERS)
            if module.parts[0] not in _NO_PART_OF_IT and not code.co_name.startswith(("<", "__")):
                found.setdefault(code, Step(module.as_posix(), code.co_qualname))

    async def run() -> None:
        sys.setprofile(note)
        try:
            await way.execution.run(way.delivery(request(stream=True).to_json()))
        finally:
            sys.setprofile(None)

    asyncio.run(run())
    return list(found.values())


def returns(way: list[Step]) -> int:
    """How often a reader comes back to a module that was left before."""
    modules = [step.module for step in way]
    changes = [number for number in range(1, len(modules)) if modules[number] != modules[number - 1]]
    return sum(modules[number] in modules[:number] for number in changes)


def _is_given_a_part(frame: FrameType) -> bool:
    code = frame.f_code
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return any(isinstance(frame.f_locals.get(name), _PARTS) for name in parameters)


def _code_of_a_worker(frame: FrameType) -> CodeType | None:
    """The function's code, or that of the worker's function in whose place it stands in memory."""
    code = frame.f_code
    owner = frame.f_locals.get("self")
    overridden = (vars(parent).get(code.co_name) for parent in type(owner).__mro__)
    originals = (getattr(function, "__code__", None) for function in overridden)
    return next((c for c in (code, *originals) if c and Path(c.co_filename).is_relative_to(_WORKERS)), None)
