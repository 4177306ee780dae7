"""Breaking things as the plan says, and mending what does not mend itself."""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, time

import psutil

from tests.acceptance.chaos.agents import Absences
from tests.acceptance.chaos.ends import Ends
from tests.acceptance.chaos.plan import Fault, Kind
from tests.acceptance.chaos.scene import Scene
from tests.patience import until

_BACK_WITHIN_S = 120
_POLL_S = 0.05


class Faults:
    """`run` breaks; `done` says what was broken, and when, for whoever reads a failure."""

    def __init__(self, scene: Scene, absences: Absences) -> None:
        self._scene = scene
        self._absences = absences
        self.done: list[str] = []
        self._begun = 0.0
        self.ends = Ends()
        self._broker_was_killed = asyncio.Event()

    async def run(self, faults: Sequence[Fault], *, begun: float) -> None:
        self._begun = begun
        if not any(fault.kind is Kind.KILL and fault.what == "nats" for fault in faults):
            self._broker_was_killed.set()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(self._at_its_time(fault), name=str(fault))

    async def _at_its_time(self, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, self._begun + fault.at_s - monotonic()))
        if fault.what == "agents":
            await self._broker_was_killed.wait()  # agents whose line is cut are absent
        match fault.kind:
            case Kind.CUT:
                self._note(fault)
                self._scene.lines[fault.what].cut()
            case Kind.BLACK_HOLE:
                self._note(fault)
                self._scene.lines[fault.what].black_hole()
            case Kind.REFUSE:
                await self._refuse(fault)
            case Kind.STOP:
                await self._stop(fault)
            case Kind.KILL if fault.what == "nats":
                async with self._absences.restarting():
                    since = time()
                    await self._end(fault, signal.SIGKILL)
                self.ends.broker_back_at = time()
                self.ends.broker_away.append((since, self.ends.broker_back_at))
                self._broker_was_killed.set()
            case Kind.KILL:
                await self._end(fault, signal.SIGKILL)
            case Kind.TERMINATE:
                await self._end(fault, signal.SIGTERM)

    def _note(self, fault: Fault) -> None:
        """That it happens now, which may be later than planned."""
        self._scene.note_processes()
        self.done.append(f"{monotonic() - self._begun:5.1f} s: {fault}")

    async def _refuse(self, fault: Fault) -> None:
        self._note(fault)
        line = self._scene.lines[fault.what]
        line.refusing = True
        line.cut()
        await asyncio.sleep(fault.lasts_s)
        line.refusing = False

    async def _stop(self, fault: Fault) -> None:
        process = await self._process(fault)
        self._note(fault)
        everybody = [process]
        with suppress(psutil.NoSuchProcess):  # another fault may just have ended it
            everybody += process.children(recursive=True)
        _signal(everybody, signal.SIGSTOP)
        since = time()
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            _signal(everybody, signal.SIGCONT)
            if fault.what == "nats":
                self.ends.broker_away.append((since, time()))

    async def _end(self, fault: Fault, sig: signal.Signals) -> None:
        """Returns when `fleet up` has put another process in its place."""
        process = await self._process(fault)
        self._note(fault)
        _signal([process], sig)
        self.ends.note(fault.what)
        await until(lambda: self._replaced(fault, process), within_s=_BACK_WITHIN_S)
        self._scene.note_processes()

    def _replaced(self, fault: Fault, process: psutil.Process) -> bool:
        now = self._scene.process(fault.what, fault.which)
        return now is not None and now != process and process.pid not in self._scene.stack.pids(fault.what)

    async def _process(self, fault: Fault) -> psutil.Process:
        give_up = monotonic() + _BACK_WITHIN_S
        while (process := self._scene.process(fault.what, fault.which)) is None:
            assert monotonic() < give_up, f"{fault.what} did not come back"
            await asyncio.sleep(_POLL_S)
        return process


def _signal(processes: Sequence[psutil.Process], sig: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(sig)
